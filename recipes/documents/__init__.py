"""What only recipes/reading.py needs."""
