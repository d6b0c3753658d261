"""What recipes/pretrained.py needs, and recipes/resolution_scaling.py, which runs it."""
