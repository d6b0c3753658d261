"""What recipes/transfer.py needs for itself."""
