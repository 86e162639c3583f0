"""What an exported detector says of itself, kept within its file as one JSON text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from ghost_det.errors import UserError

KEY = 'ghost_det'
"""Of ONNX's ``metadata_props``, and the path in OpenVINO's ``rt_info``."""
FORMAT = 2


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
        config_sha256: of the config's complete text.
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
            UserError: a field is missing or of the wrong kind, or the format is another one.
        """
        again = 'export it again with ghost-det export'
        try:
            found = dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            raise UserError(f'{name}: its {KEY} metadata is no JSON object; {again}') from None
        if found.get('format') != FORMAT:  # files of format 1 lose boxes where images leave padding
            raise UserError(
                f'{name}: expected {KEY} metadata of format {FORMAT}, got {str(found.get("format"))[:20]}: '
                f'{again}, or use the ghost_det that exported it'
            )
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = found.get(field.name)
            if not isinstance(value, _KINDS.get(str(field.type), list)):
                raise UserError(
                    f"{name}: its {KEY} metadata has {repr(value)[:60]} as '{field.name}', expected "
                    f'{field.type}; {again}'
                )
            values[field.name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


# Of JSON, by how a field is annotated; a tuple is a list there.
_KINDS: dict[str, Any] = {'str': str, 'bool': bool, 'int': int, 'float': (int, float)}
