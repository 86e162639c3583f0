"""Tests fork their own process, which threads of OpenMP do not survive: torch gets one, before it is imported."""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
