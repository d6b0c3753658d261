"""What only recipes/pretrained.py needs."""
