"""Trainings that are killed, stopped, led astray or left without space; by tests.soak, in forked processes."""

from __future__ import annotations

import os

KILLS = int(os.environ.get('GHOST_DET_KILLS', '6'))
