"""The command ``walloc``."""
