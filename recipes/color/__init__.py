"""What only recipes/colorization.py needs."""
