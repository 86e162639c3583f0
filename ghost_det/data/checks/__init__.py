"""Finding the problems of a data set before a training: see `check_dataset` in ``check``."""
