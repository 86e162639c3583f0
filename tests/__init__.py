"""Tests fork their own process, which threads of OpenMP do not survive: torch starts without them."""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
