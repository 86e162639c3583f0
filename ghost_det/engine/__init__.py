"""Training and testing with mmengine."""
