"""What only recipes/video_classification.py needs: clips, arms, report."""
