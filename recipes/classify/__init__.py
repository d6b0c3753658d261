"""What recipes of classification share: the training, and a trunk to be trained from scratch."""
