"""Opening images: a script of its own, so that its processes need nothing but Pillow, whatever starts them.

It reads a json list of paths from stdin, and writes a line of json for each to stdout.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import warnings
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

MAX_PIXELS = 100_000_000
"""Larger images are not decoded: one of 100 megapixels takes 300 MB, and a small file can claim any size."""
MAX_BYTES = 2**30
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Those that OpenCV, and so mmcv, reads too. Of Pillow's others, EPS is a program that Ghostscript runs."""
ORIENTATION = 0x0112  # EXIF's tag: 1 is upright, 5 to 8 lie on their side


def open_image(path: str) -> dict[str, Any]:
    """Read, identify and decode one image.

    Returns:
        ``hash`` of the bytes; ``size`` (width, height) as stored, ``mode`` of Pillow, ``bits`` of a channel
        and EXIF ``orientation`` where it can be read; ``error`` where it cannot, or not to its end.
    """
    found: dict[str, Any] = {}
    if not os.path.isfile(path):  # a pipe would be waited for
        return {'error': 'not a file'}
    try:
        with open(path, 'rb') as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            return {'error': 'over 1 GiB'}
        found['hash'] = hashlib.blake2b(content, digest_size=16).hexdigest()
        if not content:
            return {**found, 'error': 'an empty file'}
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]  # AVIF is not in each Pillow
        with Image.open(io.BytesIO(content), formats=known) as image:
            found['size'] = image.size
            found['mode'] = 'RGBA' if 'transparency' in image.info else image.mode
            found['orientation'] = int(image.getexif().get(ORIENTATION, 1))
            # Pillow reads 16-bit RGB as 8-bit: only the PNG header's own byte tells.
            deep = image.mode.startswith('I') or (image.format == 'PNG' and content[24:25] == b'\x10')
            found['bits'] = 16 if deep else 32 if image.mode == 'F' else 8
            if image.size[0] * image.size[1] <= MAX_PIXELS:
                # A JPEG at an eighth is decoded to its end all the same, in a third of the time.
                image.draft('RGB', (image.size[0] // 8, image.size[1] // 8))
                image.load()
    except UnidentifiedImageError:
        found['error'] = 'no image of a format that mmcv reads'
    except OSError as error:
        found['error'] = str(error.strerror or error).replace(path, '').partition(': <')[0] or 'damaged'
    except Exception as error:  # decoders raise anything on damaged files
        found['error'] = f'{type(error).__name__}: {error}'
    return found


def main() -> None:
    """Open the images that stdin names."""
    Image.MAX_IMAGE_PIXELS = None  # the size is looked at here
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter('ignore')
    for path in json.load(sys.stdin):
        print(json.dumps(open_image(path)), flush=True)


if __name__ == '__main__':
    main()
