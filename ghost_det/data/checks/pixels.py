"""Rewriting images so that mmcv loads them in the orientation of their boxes, in 8 bits."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ghost_det.data.image_facts import ORIENTATION
from ghost_det.errors import UserError

from .images import Facts

REWRITTEN = {'EXIF rotation', 'EXIF against boxes', '16-bit image', '32-bit image', 'CMYK image'}


def correct_pixels(path: Path, kinds: Collection[str], facts: Facts) -> NDArray[np.uint8]:
    """Return an image without these kinds of problems, as 8-bit BGR; raises where that is impossible."""
    if 'EXIF against boxes' in kinds:
        if facts['bits'] > 8:
            raise UserError(f'{path}: Pillow does not read its {facts["bits"]} bits')
        with Image.open(path) as image:  # OpenCV cannot leave a TIFF unturned
            if facts['turned']:
                image.getexif().pop(ORIENTATION, None)  # before Pillow turns a TIFF by it
                return np.asarray(image.convert('RGB'))[..., ::-1]
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))[..., ::-1]
    flags = cv2.IMREAD_COLOR
    if facts['bits'] > 8:
        flags = cv2.IMREAD_UNCHANGED if facts['bits'] > 16 else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if pixels is None:
        raise UserError(f'{path}: cannot be decoded')
    return to_eight_bits(pixels if pixels.ndim == 2 else pixels[..., :3])


def to_eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert pixels to 8 bits: floats up to 1 are scaled, of larger values the 8 highest used bits are kept.

    Negative values, NaN and infinity become 0.
    """
    if pixels.dtype == np.uint8:
        return pixels
    values = np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0).clip(0)
    if pixels.dtype.kind == 'f' and values.max() <= 1:
        values = (values * 255).round()
    return np.asarray(values / 2.0 ** max(0, int(values.max()).bit_length() - 8)).astype(np.uint8)
