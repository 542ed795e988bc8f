"""From heatmaps to polylines and keypoints."""
