"""Registers our names; ``import ghost_det`` imports this where mmengine and mmcv are installed."""

import contextlib
import io

from .ops import ensure_ops
from .utils.system import missing

ensure_ops()

from .engine import networks  # noqa: E402, F401

if not missing(['mmdet']):
    # onedl-mmdetection prints, on import, which optional data sets it could not import.
    with contextlib.redirect_stdout(io.StringIO()):
        from .engine import hooks, mmdet_networks, runner  # noqa: F401
        from .evaluation import metric  # noqa: F401
