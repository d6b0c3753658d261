"""What only recipes/learned_codec.py needs."""
