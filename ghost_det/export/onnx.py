"""Exported files: a graph as ONNX or OpenVINO, with its description inside, whole or not there."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ghost_det.deploy.backends import INPUT, OUTPUTS, SIZES, openvino_core
from ghost_det.deploy.metadata import KEY, Metadata
from ghost_det.errors import UserError

from .graph import Canvas, DetectorGraph, deployed
from .standard import translations

OPSET = 18
"""What torch exports to; others are converted from it."""
OLDEST = 17
TRACED = 512
"""Pixels, of a side of any length, at which all maps of a pyramid have more than one row."""


def to_onnx(
    detector: nn.Module, canvas: Canvas, path: Path, dynamic: bool = False, opset: int = OPSET
) -> None:
    """Write a detector as ONNX, with everything from raw pixels to boxes.

    Args:
        detector: in evaluation mode; a folded copy is exported.
        canvas: the size of its input.
        path: the file.
        dynamic: whether the input may be of any size.
        opset: of ONNX.

    Raises:
        UserError: the detector cannot be exported, or an opset that is not known.
    """
    onnx = need('onnx')
    need('onnxscript')
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise UserError(
            f'--opset {opset}: {OLDEST} to {newest}, which the installed onnx {onnx.__version__} knows'
        )
    graph = DetectorGraph(deployed(detector)).eval().requires_grad_(False)
    height, width = canvas.height, canvas.width
    if dynamic:  # torch takes the size of a map for fixed where it is 1
        height, width = max(height, TRACED), max(width, TRACED)
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8), torch.tensor([[height, width]] * 2)
    free = {0: torch.export.Dim.DYNAMIC}
    sides = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC} if dynamic else {}
    with quiet(), torch.no_grad():
        # Not left to torch.onnx: while it exports, mmdet's box coders take branches that import a module
        # long gone, and it traces all again in another way, which takes a third of the whole time.
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
        model = converted(model, opset)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def converted(model: Any, opset: int) -> Any:
    """Return an ONNX model in another opset."""
    if opset >= OPSET:
        from onnx import version_converter

        return version_converter.convert_version(model, opset)
    # Of what opset 18 changed in the operators that are here, onnx converts back only a part.
    from onnx import helper, numpy_helper

    constants: dict[str, Any] = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == 'Constant':
            constants[node.output[0]] = helper.get_attribute_value(node.attribute[0])
        if node.op_type.startswith('Reduce') and node.op_type != 'ReduceSum' and len(node.input) > 1:
            axes = constants[node.input.pop()]
            axes = numpy_helper.to_array(axes) if hasattr(axes, 'dims') else np.asarray(axes)
            node.attribute.append(helper.make_attribute('axes', axes.flatten().tolist()))
        new = ('num_outputs', 'noop_with_empty_axes', 'antialias', 'keep_aspect_ratio_policy')
        for attribute in [each for each in node.attribute if each.name in new]:
            node.attribute.remove(attribute)
    model.opset_import[0].version = opset
    return model


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
    """Write the finished file: metadata in, precision as they say, whole or not at all.

    Args:
        source: an ONNX file.
        out: ``.onnx``, or ``.xml`` for OpenVINO, beside which its weights get ``.bin``.
        metadata: of the file.
    """
    half = metadata.precision == 'fp16'
    if out.suffix == '.onnx':
        import onnx

        model = onnx.load(source)
        if half:
            halve(model)
        onnx.helper.set_model_props(model, {KEY: metadata.to_json()})
        with publishing(out) as folder:
            onnx.save(model, folder / out.name)
        return
    need('openvino')
    # Not convert_model, which takes a path with a comma for two.
    write_openvino(openvino_core().read_model(source), out, metadata)


def write_openvino(model: Any, out: Path, metadata: Metadata) -> None:
    """Write an OpenVINO model with its metadata, whole or not at all."""
    ov = need('openvino')
    model.set_rt_info(metadata.to_json(), [KEY])
    with publishing(out) as folder:
        ov.save_model(model, folder / out.name, compress_to_fp16=metadata.precision == 'fp16')


@contextlib.contextmanager
def publishing(out: Path) -> Iterator[Path]:
    """Yield a folder for a model's files, which appear beside each other in the end; its main file last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.partial-', dir=out.parent) as name:
        yield Path(name)
        files = sorted(Path(name).iterdir(), key=lambda file: file.name == out.name)
        for file in files:
            os.replace(file, out.parent / file.name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what torch's exporter says of its own workings."""
    noisy = logging.getLogger('torch.onnx'), logging.getLogger('onnxscript'), logging.getLogger('onnx_ir')
    levels = [logger.level for logger in noisy]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(noisy, levels):
                logger.setLevel(level)


def need(package: str) -> Any:
    """Import a package of the extra ``export``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{package} is not installed: pip install 'ghost-det[export]' brings what an export needs"
        ) from None
