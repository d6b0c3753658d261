"""What only recipes/train_codec.py needs."""
