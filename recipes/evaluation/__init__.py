"""What only recipes/evaluate_codec.py needs."""
