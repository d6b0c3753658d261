"""One readable script per experiment: ``python -m recipes.NAME --help``."""
