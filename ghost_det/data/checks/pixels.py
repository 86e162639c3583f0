"""Rewriting images so that mmcv loads them as their boxes are meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .images import Facts

REWRITTEN = ('EXIF rotation', 'EXIF against boxes', '16-bit image', '32-bit image', 'CMYK image')
QUALITY = 95  # of JPEG and WebP: the loss of a second encoding is invisible


def rewrite_image(source: Path, target: Path, kinds: list[str], facts: Facts) -> bool:
    """Write an image without these kinds of problems, if that is possible; return whether it was."""
    try:
        pixels = _corrected_pixels(source, kinds, facts)
        if pixels is None:
            return False
        Image.fromarray(pixels).save(target, quality=QUALITY)
    except (OSError, ValueError, cv2.error):  # as Pillow does not write every format
        target.unlink(missing_ok=True)
        return False
    return True


def _corrected_pixels(source: Path, kinds: list[str], facts: Facts) -> NDArray[np.uint8] | None:
    """Return an image as mmcv is to see it: 8 bits, RGB or grey, turned as its boxes are; or ``None``."""
    if facts['bits'] > 8:
        # Turned as mmcv turns it: OpenCV cannot leave a TIFF unturned.
        flags = cv2.IMREAD_UNCHANGED if facts['bits'] > 16 else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
        pixels = cv2.imdecode(np.fromfile(source, np.uint8), flags)
        if pixels is None or 'EXIF against boxes' in kinds:
            return None
        return to_eight_bits(pixels if pixels.ndim == 2 else pixels[..., 2::-1])
    with Image.open(source) as image:
        # Where the boxes do not fit what mmcv loads, they fit the other.
        upright = facts['turned'] if 'EXIF rotation' in kinds else facts['loaded'] == facts['size']
        if upright:
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
        image.getexif().pop(0x0112, None)  # before Pillow turns a TIFF by it
        return np.asarray(image.convert('RGB'))


def to_eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixels of another type in 8 bits.

    Floats from 0 to 1 are multiplied by 255; of other values, the 8 bits from the highest that the image uses
    are kept. Where some are negative, the lowest becomes 0 and the highest 255. NaN and infinity become 0.
    """
    values = np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low < 0:
        values = (values - low) * (255 / (high - low or 1))
    elif pixels.dtype.kind == 'f' and high <= 1:
        values *= 255
    else:
        values = np.floor(values / 2.0 ** max(0, int(high).bit_length() - 8))
    return values.round().astype(np.uint8)
