"""A detector's graph as an ONNX or OpenVINO file, with its description inside."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ghost_det.deploy.backends import INPUT, OUTPUTS, SIZES, openvino_core
from ghost_det.deploy.metadata import KEY, Metadata
from ghost_det.errors import UserError

from .graph import Canvas, DetectorGraph, deployed

OPSET = 18
"""What torch exports to; later ones are converted from it."""
TRACED = 512
"""Pixels, of a side of any length, at which all maps of a pyramid have more than one row."""


def to_onnx(
    detector: nn.Module, canvas: Canvas, path: Path, dynamic: bool = False, opset: int = OPSET
) -> None:
    """Write a detector in evaluation mode as ONNX, with everything from raw pixels to boxes.

    It is a folded copy, whose input has the size of ``canvas`` or, where ``dynamic``, any.
    """
    import onnx
    from onnx import version_converter

    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise UserError(f'--opset: expected {OPSET} to {newest}, which the installed onnx knows, got {opset}')
    graph = DetectorGraph(deployed(detector)).eval().requires_grad_(False)
    height, width = canvas.height, canvas.width
    if dynamic:  # torch takes the size of a map for fixed where it is 1
        height, width = max(height, TRACED), max(width, TRACED)
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8), torch.tensor([[height, width]] * 2)
    free = {0: torch.export.Dim.DYNAMIC}
    sides = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC} if dynamic else {}
    with quiet(), torch.no_grad():
        # Not left to torch.onnx: while it exports, mmdet's box coders take branches that import a module
        # long gone, and it traces all again in another way, which takes a third of the time.
        traced = torch.export.export(graph, example, dynamic_shapes=(free | sides, free), strict=False)
        program: Any = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT, SIZES],
            output_names=list(OUTPUTS),
            custom_translation_table=translations(),
            verbose=False,
        )
    model = program.model_proto
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]  # where in torch each came from, with the paths of this machine
        part.doc_string = ''
    if opset != OPSET:
        model = version_converter.convert_version(model, opset)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def translations() -> dict[Any, Callable[..., Any]]:
    """Return, for ``torch.onnx.export``, the operators that ONNX has under other names."""
    from onnxscript import opset18

    op: Any = opset18

    def suppress(boxes: Any, scores: Any, iou_threshold: float, limit: int) -> Any:
        threshold, zero = op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[0.0])
        most, one = op.Constant(value_ints=[limit]), op.Constant(value_ints=[1])
        chosen = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, one), most, threshold, zero)
        image = op.Slice(chosen, op.Constant(value_ints=[0]), one, one)
        place = op.Slice(chosen, op.Constant(value_ints=[2]), op.Constant(value_ints=[3]), one)
        found = op.GatherND(scores, op.Concat(image, place, axis=1))
        # What was chosen comes in one list over all images, whose length the data decide: a row for each
        # image with the others' scores hidden, and enough more for `limit`.
        images = op.Range(
            op.Constant(value_int=0),
            op.Squeeze(op.Shape(scores, end=1), op.Constant(value_ints=[0])),
            op.Constant(value_int=1),
        )
        own = op.Equal(op.Unsqueeze(images, one), op.Reshape(image, op.Constant(value_ints=[1, -1])))
        table = op.Where(own, found, op.Constant(value_float=-1.0))
        more = op.Concat(op.Shape(scores, end=1), most, axis=0)
        padded = op.Concat(table, op.Expand(op.Constant(value_float=-1.0), more), axis=1)
        best, column = op.TopK(padded, most, axis=1)
        places = op.Concat(
            op.Reshape(place, op.Constant(value_ints=[-1])), op.Constant(value_ints=[-1] * limit), axis=0
        )
        return op.Where(
            op.Greater(best, op.Constant(value_float=0.0)),
            op.Gather(places, column),
            op.Constant(value_int=-1),
        )

    def align(
        features: Any,
        rois: Any,
        spatial_scale: float,
        pooled_height: int,
        pooled_width: int,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        one = op.Constant(value_ints=[1])
        boxes = op.Slice(rois, one, op.Constant(value_ints=[5]), one)
        images = op.Cast(
            op.Reshape(op.Slice(rois, op.Constant(value_ints=[0]), one, one), op.Constant(value_ints=[-1])),
            to=7,
        )
        return op.RoiAlign(
            features,
            boxes,
            images,
            coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel',
            output_height=pooled_height,
            output_width=pooled_width,
            sampling_ratio=max(sampling_ratio, 0),
            spatial_scale=spatial_scale,
        )

    return {
        torch.ops.ghost_det.keep_best.default: suppress,
        torch.ops.torchvision.roi_align.default: align,
    }


def halve(model: Any) -> None:
    """Store the larger weights of an ONNX model in 16 bits, in place; runtimes compute in 32 as before."""
    import onnx
    from onnx import numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= 256:
            values = numpy_helper.to_array(tensor).clip(-65504, 65504).astype(np.float16)
            stored = f'{tensor.name}.half'
            casts.append(onnx.helper.make_node('Cast', [stored], [tensor.name], to=onnx.TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(values, stored))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)


def write_model(source: Path, out: Path, metadata: Metadata) -> None:
    """Write an ONNX file as ``.onnx``, or as ``.xml`` for OpenVINO, in the precision of its metadata."""
    if out.suffix == '.xml':
        # Not convert_model, which takes a path with a comma for two.
        write_openvino(openvino_core().read_model(source), out, metadata)
        return
    import onnx

    model = onnx.load(source)
    if metadata.precision == 'fp16':
        halve(model)
    onnx.helper.set_model_props(model, {KEY: metadata.to_json()})
    onnx.save(model, out)


def write_openvino(model: Any, out: Path, metadata: Metadata) -> None:
    """Write an OpenVINO model with its metadata; beside the ``.xml``, its weights get ``.bin``."""
    import openvino

    model.set_rt_info(metadata.to_json(), [KEY])
    openvino.save_model(model, out, compress_to_fp16=metadata.precision == 'fp16')


@contextlib.contextmanager
def publishing(out: Path) -> Iterator[Path]:
    """Yield a folder for a model's files, which are moved next to ``out`` at the end; the main file last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.partial-', dir=out.parent) as name:
        yield Path(name)
        files = sorted(Path(name).iterdir(), key=lambda file: file.name == out.name)
        for file in files:
            os.replace(file, out.parent / file.name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what torch's exporter prints of its own workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


def need(package: str) -> Any:
    """Import a package of the extra ``export``, or raise a `UserError`."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{package} is not installed: pip install 'ghost-det[export]' brings what an export needs"
        ) from None
