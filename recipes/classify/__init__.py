"""What recipes/classification.py and recipes/transfer.py share: the training; and the trunk of the former."""
