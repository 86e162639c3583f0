"""What the released mmdet gets wrong and a detector cannot do without, put right on import."""

from __future__ import annotations

from mmdet.models import SSDHead


def mend() -> None:
    """Let SSD predict, which mmdet 3.3.0 and onedl-mmdetection 3.5.1 stop (mmdetection issue 11063).

    The base of all heads asks ``self.loss_cls`` for a property, and SSD's head has no such part.
    """
    if not hasattr(SSDHead, 'loss_cls'):
        SSDHead.loss_cls = None
