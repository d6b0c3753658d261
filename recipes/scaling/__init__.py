"""What only recipes/resolution_scaling.py needs."""
