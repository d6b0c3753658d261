"""What only recipes/classification.py needs."""
