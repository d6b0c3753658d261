"""What recipes/reading.py needs, and recipes/resolution_scaling.py, which runs it."""
