"""What only recipes/video_classification.py needs: clips, arms, a trunk of three axes, report."""
