"""What an exported detector says of itself, kept within its file as one JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ghost_det.errors import UserError

KEY = 'ghost_det'
"""Of ONNX's ``metadata_props``, and the path in OpenVINO's ``rt_info``."""
FORMAT = 2
PRECISIONS = ('fp32', 'fp16', 'int8')
MAX_SIDE = 16384


@dataclass(frozen=True)
class Metadata:
    """An exported detector: its classes, its canvas, and what is built into its graph.

    Attributes:
        format: version of this description.
        name: of the detector, mostly its config's.
        classes: names, by label.
        height: of the canvas in pixels; with ``dynamic``, of one that the image may be given.
        width: of the canvas.
        scale: width and height that the image is resized to; with ``keep_ratio``, within which.
        dynamic: any canvas is taken whose sides are multiples of ``size_divisor``.
        keep_ratio: the image keeps its proportions, at the top left of the canvas.
        size_divisor: see ``dynamic``.
        pad_value: fills the rest of the canvas, in OpenCV's order (BGR), 0 to 255.
        clip_to_canvas: boxes may reach into the padding, as the config's own test pipeline has it.
        score_threshold: the least score that the graph gives out.
        iou_threshold: overlap from which its non-maximum suppression takes two boxes for one object.
        max_detections: rows of its outputs.
        precision: ``'fp32'``, ``'fp16'`` or ``'int8'``.
        ghost_det_version: that exported it.
        config_sha256: of the config's whole text.
        checkpoint_sha256: of the file with its weights.
        opset: of ONNX.
    """

    format: int
    name: str
    classes: tuple[str, ...]
    height: int
    width: int
    scale: tuple[int, int]
    dynamic: bool
    keep_ratio: bool
    size_divisor: int
    pad_value: tuple[int, int, int]
    clip_to_canvas: bool
    score_threshold: float
    iou_threshold: float
    max_detections: int
    precision: str
    ghost_det_version: str
    config_sha256: str
    checkpoint_sha256: str
    opset: int

    def to_json(self) -> str:
        """Return the text to keep in the exported file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, name: str) -> Metadata:
        """Read the text of an exported file.

        Args:
            text: what `to_json` made. Fields that are not known here are left out.
            name: of the file, for messages.

        Raises:
            UserError: a field is missing or of the wrong kind, or the format is a later one.
        """
        again = 'export it again with ghost-det export'
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UserError(f'{name}: its {KEY} metadata are no JSON object; {again}')
        if found.get('format') == 1:
            raise UserError(
                f'{name}: exported by an older version, whose files lose boxes where images leave padding; '
                f'{again}'
            )
        if found.get('format') != FORMAT:
            raise UserError(
                f'{name}: its {KEY} metadata are of format {str(found.get("format"))[:20]}, and this '
                f'version reads format {FORMAT}: use the ghost_det that exported it, or {again}'
            )
        values: dict[str, Any] = {}
        for each in (field.name for field in fields(cls)):
            wanted, fits = _KINDS[each]
            if each not in found or not fits(found[each]):
                value = repr(found[each])[:60] if each in found else 'nothing'
                raise UserError(
                    f"{name}: its {KEY} metadata have {value} as '{each}', and {wanted} is wanted; {again}"
                )
            values[each] = tuple(found[each]) if isinstance(found[each], list) else found[each]
        return cls(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _within(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_within(1, MAX_SIDE), value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_within(0, 255), value))


_TEXT = ('a text', _is_text)
_FLAG = ('true or false', _is_flag)
_SHARE = ('a number from 0 to 1', _is_share)
_SIDE = (f'a whole number of pixels from 1 to {MAX_SIDE}', _within(1, MAX_SIDE))

# For each field, what is wanted in words and as a test.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'format': ('a number', _within(FORMAT, FORMAT)),
    'name': _TEXT,
    'classes': ('a list of names', _are_names),
    'height': _SIDE,
    'width': _SIDE,
    'scale': ('a list of 2 whole numbers of pixels', _is_size),
    'dynamic': _FLAG,
    'keep_ratio': _FLAG,
    'size_divisor': _SIDE,
    'pad_value': ('a list of 3 whole numbers from 0 to 255', _is_colour),
    'clip_to_canvas': _FLAG,
    'score_threshold': _SHARE,
    'iou_threshold': _SHARE,
    'max_detections': ('a whole number from 1 up', _within(1, 2**31)),
    'precision': (
        f'one of {", ".join(PRECISIONS)}',
        lambda value: isinstance(value, str) and value in PRECISIONS,
    ),
    'ghost_det_version': _TEXT,
    'config_sha256': _TEXT,
    'checkpoint_sha256': _TEXT,
    'opset': ('a whole number from 1 up', _within(1, 1000)),
}
