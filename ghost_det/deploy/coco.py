"""Detections in many images as one JSON file in COCO's format."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from ghost_det.utils.images import write_file

from .detector import Detections


def say(text: str, stream: TextIO | None = None) -> None:
    """Print above a progress bar; names of files may hold bytes that are not text."""
    tqdm.write(text.encode(errors='backslashreplace').decode(), file=stream or sys.stdout)


class Results:
    """Detections by image; ``content`` is the content of the JSON file."""

    def __init__(self, model: str, classes: Sequence[str]) -> None:
        categories = [{'id': label + 1, 'name': name} for label, name in enumerate(classes)]
        self.content: dict[str, Any] = {'model': model, 'categories': categories}
        self.content |= {'images': [], 'results': [], 'errors': []}
        self._ids = range(1, len(classes) + 1)

    def add(self, name: str, size: Sequence[int], found: Detections, **more: Any) -> None:
        """Add the detections in an image; ``size`` is its height and width."""
        entry = {'id': len(self.content['images']) + 1, 'file_name': name, **more}
        self.content['images'].append({**entry, 'height': size[0], 'width': size[1]})
        self.content['results'] += found.to_coco(entry['id'], self._ids)

    def fail(self, name: str, error: object) -> None:
        """Add an image that cannot be used, and print why."""
        say(f'error: {error}', sys.stderr)
        self.content['errors'].append({'file_name': name, 'error': str(error)})

    def save(self, path: Path) -> None:
        """Write the JSON file."""
        write_file(path, json.dumps(self.content, allow_nan=False).encode())
