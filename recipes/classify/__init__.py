"""What recipes of classification share: the training; and the trunk of recipes/classification.py."""
