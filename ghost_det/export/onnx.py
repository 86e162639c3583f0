"""Write a detector's graph as a file for ONNX, OpenVINO or ncnn, with its description."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghost_det.deploy.backends import INPUT, OUTPUTS, SIZES, openvino_core
from ghost_det.deploy.maps import MAPS_INPUT, map_names
from ghost_det.deploy.metadata import KEY, Metadata
from ghost_det.errors import UserError
from ghost_det.utils.files import sha256

from .graph import Canvas, DetectorGraph, deployed
from .raw import RawGraph

TRACED = 512
"""Pixels of a side at which all maps of a pyramid have more than one row."""


def to_onnx(
    detector: nn.Module, canvas: Canvas, path: Path, dynamic: bool = False, strides: Sequence[int] = ()
) -> None:
    """Write a folded copy of a detector as ONNX, for a canvas of this size or, if ``dynamic``, of any.

    With the ``strides`` of its levels, without post-processing.
    """
    import onnx

    network, height, width = deployed(detector), canvas.height, canvas.width
    if strides:
        graph: nn.Module = RawGraph(network)
        example: tuple[Tensor, ...] = (torch.zeros(1, 3, height, width),)
        inputs, outputs, shapes = [MAPS_INPUT], map_names(strides), None
    else:
        graph = DetectorGraph(network)
        if dynamic:  # torch takes a side of 1 for fixed
            height, width = max(height, TRACED), max(width, TRACED)
        images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        example = images, torch.tensor([[height, width]] * 2)
        free: Any = {0: torch.export.Dim.DYNAMIC}
        sides = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC} if dynamic else {}
        inputs, outputs, shapes = [INPUT, SIZES], list(OUTPUTS), (free | sides, free)
    graph.eval().requires_grad_(False)
    with quiet(), torch.no_grad():
        # Not within torch.onnx.export: there, mmdet's box coders import a module that no longer exists.
        traced = torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
        program: Any = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            opset_version=18,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table={torch.ops.ghost_det.keep_best.default: suppress_in_onnx},
            verbose=False,
        )
    model = program.model_proto
    parts = ('node', 'input', 'output', 'initializer', 'value_info')
    for part in chain.from_iterable(getattr(model.graph, name) for name in parts):
        del part.metadata_props[:]  # with paths of this machine
        part.doc_string = ''
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def suppress_in_onnx(boxes: Any, scores: Any, iou_threshold: float, limit: int) -> Any:
    """Translate `keep_best` to ONNX, for ``torch.onnx.export``."""
    from onnxscript import opset18

    op: Any = opset18
    most = op.Constant(value_ints=[limit])
    chosen = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), most, [iou_threshold], [0.0])
    image = op.Slice(chosen, [0], [1], [1])
    place = op.Slice(chosen, [2], [3], [1])
    found = op.GatherND(scores, op.Concat(image, place, axis=1))
    # The chosen boxes of all images are in one list, whose length the data decide. So make a row for
    # each image, with the others' scores hidden, and pad it to `limit`.
    images = op.Range(0, op.Squeeze(op.Shape(scores, end=1), [0]), 1)
    own = op.Equal(op.Unsqueeze(images, [1]), op.Reshape(image, [1, -1]))
    table = op.Where(own, found, -1.0)
    more = op.Expand(-1.0, op.Concat(op.Shape(scores, end=1), most, axis=0))
    best, column = op.TopK(op.Concat(table, more, axis=1), most, axis=1)
    places = op.Concat(op.Reshape(place, [-1]), op.Constant(value_ints=[-1] * limit), axis=0)
    return op.Where(op.Greater(best, 0.0), op.Gather(places, column), -1)


def write_model(source: Path, out: Path, metadata: Metadata) -> None:
    """Write an ONNX file in the format of ``out``, in the precision of its metadata."""
    if out.suffix == '.xml':
        write_openvino(read_folded(source), out, metadata)
        return
    if out.suffix == '.ncnn':
        write_ncnn(source, out, metadata)
        return
    import onnx

    model = onnx.load(source)
    onnx.helper.set_model_props(model, {KEY: metadata.to_json()})
    onnx.save(model, out)


def read_folded(source: Path) -> Any:
    """Read an ONNX file as an OpenVINO model in which what depends on constants only is a constant.

    Otherwise the weights of depthwise convolutions are reshaped in the graph: NNCF then takes a kernel's
    columns for its channels, and OpenVINO runs those layers of an INT8 model in float32.
    """
    from openvino.passes import ConstantFolding, Manager

    model, passes = openvino_core().read_model(source), Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    return model


def write_openvino(model: Any, out: Path, metadata: Metadata) -> None:
    """Write an OpenVINO model with its metadata, as ``.xml`` and ``.bin``."""
    import openvino

    half = metadata.precision == 'fp16'
    openvino.save_model(model, out, compress_to_fp16=half)
    metadata = replace(metadata, weights_sha256=sha256(out.with_suffix('.bin')))
    model.set_rt_info(metadata.to_json(), [KEY])
    openvino.save_model(model, out, compress_to_fp16=half)


def write_ncnn(source: Path, out: Path, metadata: Metadata) -> None:
    """Write an ONNX file without post-processing for ncnn, with its metadata as JSON next to it."""
    import pnnx

    command = [pnnx.EXEC_PATH, source.name, f'fp16={int(metadata.precision == "fp16")}']
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, errors='replace')
    made = source.with_suffix('.ncnn.param')
    if done.returncode or not made.is_file():
        raise UserError(f'pnnx cannot convert this network: {done.stderr.strip()[-200:]}')
    names = {'in0': MAPS_INPUT} | {f'out{i}': name for i, name in enumerate(map_names(metadata.strides))}
    layers = [[names.get(word, word) for word in line.split()] for line in made.read_text().splitlines()]
    out.with_suffix('.ncnn.param').write_text(''.join(' '.join(layer) + '\n' for layer in layers))
    weights = out.with_suffix('.ncnn.bin')
    weights.write_bytes(made.with_suffix('.bin').read_bytes())
    metadata = replace(metadata, weights_sha256=sha256(weights))
    out.with_suffix('.ncnn.json').write_text(metadata.to_json(), 'utf-8')


@contextlib.contextmanager
def publishing(out: Path) -> Iterator[Path]:
    """Yield a folder for a model's files, which are moved next to ``out`` at the end; the main file last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.partial-', dir=out.parent) as name:
        yield Path(name)
        for file in sorted(Path(name).iterdir(), key=lambda file: file.name == out.name):
            file.replace(out.parent / file.name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages of torch's exporter and of NNCF."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
