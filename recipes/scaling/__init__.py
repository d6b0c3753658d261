"""Rows, table and figure of recipes/resolution_scaling.py; recipes/video_classification.py draws by them, too."""
