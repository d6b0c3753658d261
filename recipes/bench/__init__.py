"""What only recipes/benchmark.py needs."""
