"""Opening images: a script of its own, so that its processes import only Pillow and OpenCV.

It reads a json list of paths from stdin, and writes a line of json for each to stdout.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import warnings
from functools import lru_cache
from typing import Any

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
"""Larger images are not decoded: one of 100 megapixels takes 300 MB, and a small file can claim any size."""
MAX_BYTES = 2**30
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Those that OpenCV, and so mmcv, reads too. For EPS, one of the others, Pillow would run Ghostscript."""
ORIENTATION = 0x0112  # EXIF's tag: 1 is upright, 5 to 8 lie on their side
SAME = {'JPEG': ('L', 'RGB'), 'PNG': ('1', 'L', 'P', 'RGB', 'RGBA')}
"""Formats and modes that OpenCV decodes wherever Pillow does; others are decoded by both."""


def open_image(path: str) -> dict[str, Any]:
    """Read, identify and decode one image; return why it cannot be read completely as ``error``.

    Else: ``hash`` of the bytes; ``size`` (width, height) as stored, ``loaded`` as mmcv loads it, Pillow's
    ``mode``, ``bits`` of a channel, EXIF ``orientation``, and whether mmcv has ``turned`` it by that.
    """
    facts: dict[str, Any] = {}
    try:
        if not os.path.isfile(path):  # opening a pipe would block
            raise ValueError('not a file')
        with open(path, 'rb') as file:
            content = file.read(MAX_BYTES + 1)
        if not content or len(content) > MAX_BYTES:
            raise ValueError('over 1 GiB' if content else 'an empty file')
        facts['hash'] = hashlib.blake2b(content, digest_size=16).hexdigest()
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]  # AVIF is not in each Pillow
        with Image.open(io.BytesIO(content), formats=known) as image:
            facts |= header(image)
            facts['mode'] = 'RGBA' if 'transparency' in image.info else image.mode
            facts['bits'] = channel_bits(image, content)
            if image.size[0] * image.size[1] <= MAX_PIXELS:
                same = facts['orientation'] == 1 and image.mode in SAME.get(str(image.format), ())
                # A JPEG at an eighth is decoded to its end all the same, in a third of the time.
                image.draft('RGB', (image.size[0] // 8, image.size[1] // 8))
                image.load()
                if not same and facts['bits'] <= 16:
                    pixels = decode(content)
                    if pixels is None:
                        raise ValueError(f'OpenCV cannot decode this {image.format} of mode {image.mode}')
                    facts['loaded'] = pixels.shape[1::-1]
    except UnidentifiedImageError:
        pixels = decode(content, unchanged=True)  # Pillow cannot read three channels of floats
        if pixels is None:
            return {**facts, 'error': 'not an image format that mmcv can read'}
        size, bits = pixels.shape[1::-1], 8 * pixels.itemsize
        facts |= dict(size=size, loaded=size, mode=str(pixels.dtype), bits=bits, orientation=1, turned=False)
    except Exception as error:  # decoders raise anything on damaged files
        facts['error'] = str(error) or type(error).__name__
    return facts


def decode(content: bytes, unchanged: bool = False) -> Any:
    """Return an image as mmcv decodes it by default, or as it is stored; ``None`` if OpenCV cannot."""
    import cv2
    import numpy as np

    flags = cv2.IMREAD_UNCHANGED if unchanged else cv2.IMREAD_COLOR
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def channel_bits(image: Any, content: bytes) -> int:
    """Return the bits of a channel as the file has them: Pillow reads 16-bit RGB as 8-bit."""
    if image.format == 'TIFF':
        return int(max(image.tag_v2.get(258, (8,))))
    if image.mode == 'F':
        return 32
    return 16 if image.mode.startswith('I') or (image.format == 'PNG' and content[24:25] == b'\x10') else 8


def header(image: Any) -> dict[str, Any]:
    """Return the sizes, the orientation and whether mmcv turns by it, of an image that Pillow has opened."""
    is_tiff = image.format == 'TIFF'  # which Pillow turns itself
    width, height = size = (image.tag_v2[256], image.tag_v2[257]) if is_tiff else image.size
    try:
        tag = int(image.getexif().get(ORIENTATION, 1))
    except SyntaxError:  # damaged EXIF, which OpenCV skips
        tag = 1
    if tag not in range(2, 9):
        return {'size': size, 'loaded': size, 'orientation': 1, 'turned': False}
    # Pillow reads the tag in XMP and in text chunks of PNG as well, which OpenCV does not.
    own = image.tag_v2 if is_tiff else Image.Exif()
    if not is_tiff:
        own.load(image.info.get('exif') or b'')
    turned = own.get(ORIENTATION) == tag and turns(str(image.format).replace('MPO', 'JPEG'))
    loaded = (height, width) if turned and tag >= 5 else size
    return {'size': size, 'loaded': loaded, 'orientation': tag, 'turned': turned}


@lru_cache
def turns(form: str) -> bool:
    """Return whether mmcv's decoder turns images of a format by EXIF; OpenCV's releases differ in that."""
    tag = Image.Exif()
    tag[ORIENTATION] = 6
    content = io.BytesIO()
    try:
        Image.new('RGB', (16, 8)).save(content, form, exif=tag)
    except (KeyError, OSError, ValueError):  # Pillow only reads it
        return False
    pixels = decode(content.getvalue())
    return pixels is not None and pixels.shape[:2] == (16, 8)


def size_kind(facts: dict[str, Any], size: tuple[int, int]) -> list[tuple[str, str]]:
    """Return the kind of problem, if any, of an image annotated as (width, height), with what is there."""
    tag, stored = facts['orientation'], tuple(facts['size'])
    sizes = f'stored as {stored[0]} x {stored[1]}, annotated as {size[0]} x {size[1]}'
    if 0 in size:  # the table lists it
        return []
    if size != tuple(facts['loaded']):
        turned = tag >= 5 and sorted(size) == sorted(stored)
        return [('EXIF against boxes', f'orientation {tag}, {sizes}') if turned else ('wrong size', sizes)]
    how = 'turned' if facts['turned'] else 'not turned'
    return [('EXIF rotation', f'orientation {tag}, {how} by mmcv, {sizes}')] if tag > 1 else []


if __name__ == '__main__':
    Image.MAX_IMAGE_PIXELS = None  # the size is checked here
    os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'] = str(MAX_PIXELS)
    warnings.simplefilter('ignore')
    for path in json.load(sys.stdin):
        print(json.dumps(open_image(path)), flush=True)
