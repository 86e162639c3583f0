"""What the released mmdet gets wrong and a detector cannot do without, put right on import."""

from __future__ import annotations

from collections.abc import Callable

from mmdet.models import SSDHead
from mmengine.config import Config

from ghost_det.config import shipped

_PATH: Callable[[str, str], tuple[str, str | None]] = Config._get_cfg_path


def _path_of_base(base: str, filename: str) -> tuple[str, str | None]:
    """Return where ``_base_ = 'ghost_det::NAME.py'`` is, and of all other bases what mmengine returns."""
    if base.startswith(shipped.PREFIX):
        return str(shipped.FOLDER / base.removeprefix(shipped.PREFIX)), None
    return _PATH(base, filename)


def mend() -> None:
    """Mend what mmdet 3.3.0 and onedl-mmdetection 3.5.1 have in common.

    SSD can predict, which they stop (mmdetection issue 11063): the base of all heads asks ``self.loss_cls``
    for a property, and SSD's head has no such part. And configs can inherit from ours as
    ``ghost_det::NAME.py``: mmengine knows only its own packages' so.
    """
    if not hasattr(SSDHead, 'loss_cls'):
        SSDHead.loss_cls = None
    if Config._get_cfg_path is not _path_of_base:
        Config._get_cfg_path = staticmethod(_path_of_base)
