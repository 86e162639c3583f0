"""Registers `ghost_det` with MMDetection; ``import ghost_det`` imports this where mmdet is installed."""

import contextlib
import io

from .ops import ensure_ops

ensure_ops()

# onedl-mmdetection prints, on import, which optional data sets it could not import.
with contextlib.redirect_stdout(io.StringIO()):
    from .engine import hooks, networks, runner
    from .evaluation import metric

__all__ = ['hooks', 'metric', 'networks', 'runner']
