"""Data sets: layouts, annotations, the generated sample, and their checks."""
