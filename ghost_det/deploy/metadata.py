"""The description of an exported detector, stored in its file as one JSON text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from ghost_det.errors import UserError

KEY = 'ghost_det'
"""In ONNX's ``metadata_props``, and the path in OpenVINO's ``rt_info``."""
FORMAT = 2
MAX_SIDE = 2**15  # of a canvas, in pixels


@dataclass(frozen=True)
class Metadata:
    """An exported detector: its classes, its canvas, and what is done in its graph or after it.

    Attributes:
        format: version of this description.
        name: of the detector, mostly its config's.
        classes: names, by label.
        height: of the canvas in pixels; with ``dynamic``, of one possible canvas.
        width: of the canvas.
        scale: width and height that the image is resized to; with ``keep_ratio``, within which.
        dynamic: the graph takes any canvas whose sides are multiples of ``size_divisor``.
        keep_ratio: the image keeps its proportions, at the top left of the canvas.
        size_divisor: see ``dynamic``.
        pad_value: fills the rest of the canvas, in OpenCV's order (BGR), 0 to 255.
        clip_to_canvas: boxes may reach into the padding, as in the config's own test pipeline.
        score_threshold: the minimum score in the graph's outputs.
        iou_threshold: overlap from which its non-maximum suppression takes two boxes for one object.
        max_detections: rows of its outputs.
        precision: ``'fp32'``, ``'fp16'`` or ``'int8'``.
        ghost_det_version: that exported it.
        config_sha256: of the config's complete text.
        checkpoint_sha256: of the file with its weights.
        strides: of the levels whose maps are the outputs of a file without post-processing.
        candidates: how many boxes of such a level non-maximum suppression gets; ``None`` for all.
        fill: ``pad_value`` before it was rounded, for such a file.
        weights_sha256: of the file with the weights next to it (``.bin``), or empty.
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
    strides: tuple[int, ...] = ()
    candidates: int | None = None
    fill: tuple[float, ...] = ()
    weights_sha256: str = ''

    def to_json(self) -> str:
        """Return the text to keep in the exported file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes | None, name: str) -> Metadata:
        """Read the text that `to_json` stored in the file ``name``; further fields are ignored.

        Raises:
            UserError: the text or a field is missing or impossible, or the format is another one.
        """
        try:
            found = json.loads(text or '')
            values = {field.name: found[field.name] for field in fields(cls) if field.name in found}
            lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
            metadata = cls(**values | lists)
            known = metadata.format == FORMAT and metadata._is_possible()
        except (ValueError, TypeError, RecursionError):
            known = False
        if not known:
            raise UserError(
                f'{name}: has no valid {KEY} metadata of format {FORMAT}: export it with ghost-det export'
            )
        return metadata

    def _is_possible(self) -> bool:
        """Return whether the values are of their types, and in ranges in which a detector can work."""
        candidates = () if self.candidates is None else (self.candidates,)
        sides = self.height, self.width, *self.scale, self.size_divisor
        return (
            bool(self.classes)
            and all(isinstance(name, str) for name in (*self.classes, self.name, self.weights_sha256))
            and isinstance(self.classes, tuple)
            and all(type(flag) is bool for flag in (self.dynamic, self.keep_ratio, self.clip_to_canvas))
            and (len(self.scale), len(self.pad_value)) == (2, 3)
            and len(self.fill) in ((3,) if self.strides else (0, 3))
            and all(type(n) is int and 0 < n <= MAX_SIDE for n in (*sides, *self.strides))
            and all(type(n) is int and 0 < n < 10**6 for n in (self.max_detections, *candidates))
            and all(type(n) is int and 0 <= n <= 255 for n in self.pad_value)
            and all(-1e4 < number < 1e4 for number in self.fill)
            and all(0 <= n <= 1 for n in (self.score_threshold, self.iou_threshold))
            and self.precision in ('fp32', 'fp16', 'int8')
            and list(self.strides) == sorted(set(self.strides))
            and (
                self.keep_ratio
                or self.dynamic
                or (self.scale[0] <= self.width and self.scale[1] <= self.height)
            )
        )
