"""What only recipes/source_separation.py needs."""
