"""COCO's figures, and how much AP each kind of error costs."""
