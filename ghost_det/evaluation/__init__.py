"""COCO figures, and what the errors cost."""
