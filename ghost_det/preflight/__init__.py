"""Finding the mistakes in a data set before a training: see `check_dataset` in ``check``."""
