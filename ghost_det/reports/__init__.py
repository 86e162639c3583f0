"""Reports of trainings and tests, and comparisons of runs."""
