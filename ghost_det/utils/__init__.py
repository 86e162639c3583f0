"""Files, images, text and threads; neither torch nor MMDetection."""
