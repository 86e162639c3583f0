"""Times of mmcv's operators: the stand-ins, and the compiled ones where mmcv was built with these.

python -m tools.benchmarks.operators --seconds 10
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ghost_det.ops import EXTENSION, ensure_ops
from ghost_det.ops.table import STAND_INS
from ghost_det.utils.timing import interleave

from ._common import digits, run

# An operator's name, its arguments, and those by name.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]
# The calls of a forward pass, and those of the backward pass.
Case = tuple[list[Call], list[Call]]
Operators = Mapping[str, Callable[..., Any]]

_NONE = torch.zeros(0)


def _call(name: str, *arguments: Any, **named: Any) -> list[Call]:
    return [(name, arguments, named)]


def _boxes(n: int) -> tuple[Tensor, Tensor]:
    """Boxes ``(n, 4)`` and scores ``(n,)``: 20 of each thing, as a detector gives, on 1216 x 800 pixels."""
    middle = (torch.rand(n // 20 + 1, 2) * torch.tensor([1216, 800])).repeat(20, 1)[:n]
    half = (5 + 80 * torch.rand(n // 20 + 1, 2)).repeat(20, 1)[:n]
    middle, half = middle + half * torch.randn(n, 2) / 10, half * (1 + torch.rand(n, 2) / 5)
    return torch.cat((middle - half, middle + half), 1), torch.rand(n)


def _nms() -> Case:
    return _call('nms', *_boxes(10_000), 0.5, 0), []


def _softnms() -> Case:
    return _call('softnms', *_boxes(2000), torch.zeros(2000, 5), 0.3, 0.5, 0.05, 1, 0), []


def _nms_match() -> Case:
    boxes, scores = _boxes(2000)
    return _call('nms_match', torch.cat((boxes, scores[:, None]), 1), 0.5), []


def _bbox_overlaps() -> Case:
    return _call(
        'bbox_overlaps', _boxes(20_000)[0], _boxes(100)[0], torch.zeros(20_000, 100), 0, False, 0
    ), []


def _roi_align() -> Case:
    """Pool 512 RoIs to 7 x 7."""
    features, output = torch.randn(1, 256, 200, 304), torch.zeros(512, 256, 7, 7)
    rois = torch.cat((torch.zeros(512, 1), _boxes(512)[0]), 1)
    grad_input, numbers = torch.zeros_like(features), (7, 7, 0.25, 0, 1, True)
    return (
        _call('roi_align_forward', features, rois, output, _NONE, _NONE, *numbers),
        _call('roi_align_backward', output, rois, _NONE, _NONE, grad_input, *numbers),
    )


def _convolution(modulated: bool) -> Case:
    x, weight, bias = torch.randn(1, 256, 100, 152), torch.randn(256, 256, 3, 3) / 48, torch.randn(256)
    offset, mask, output = torch.randn(1, 18, 100, 152), torch.rand(1, 9, 100, 152), torch.zeros_like(x)
    by_x, by_weight, by_bias, by_offset, by_mask = map(torch.zeros_like, (x, weight, bias, offset, mask))
    ones = dict.fromkeys(('group', 'deformable_group'), 1)
    if modulated:
        ones |= {f'{name}_{axis}': 1 for name in ('stride', 'pad', 'dilation') for axis in 'hw'}
        named = {**ones, 'kernel_h': 3, 'kernel_w': 3, 'with_bias': True}
        tensors = (x, weight, bias, _NONE, offset, mask)
        grads = (by_x, by_weight, by_bias, by_offset, by_mask)
        return (
            _call('modulated_deform_conv_forward', *tensors, output, _NONE, **named),
            _call('modulated_deform_conv_backward', *tensors, _NONE, *grads, output, **named),
        )
    ones |= {f'{name}{axis}': 1 for name in ('d', 'pad', 'dilation') for axis in 'HW'}
    named = {**ones, 'kH': 3, 'kW': 3, 'im2col_step': 1}
    inputs = (x, offset, output, by_x, by_offset, weight, _NONE)
    parameters = (x, offset, output, by_weight, _NONE, _NONE)
    return (
        _call('deform_conv_forward', x, weight, offset, output, _NONE, _NONE, **named),
        _call('deform_conv_backward_input', *inputs, **named)
        + _call('deform_conv_backward_parameters', *parameters, scale=1.0, **named),
    )


def _sigmoid_focal_loss() -> Case:
    logits, target = torch.randn(100_000, 80), torch.randint(0, 81, (100_000,))
    arguments = (logits, target, _NONE, torch.zeros_like(logits), 2.0, 0.25)
    return _call('sigmoid_focal_loss_forward', *arguments), _call('sigmoid_focal_loss_backward', *arguments)


def _carafe() -> Case:
    features, masks, output = (
        torch.rand(1, *size) for size in ((256, 50, 76), (25, 100, 152), (256, 100, 152))
    )
    grads = torch.zeros_like(features), torch.zeros_like(masks)
    forward = _call('carafe_naive_forward', features, masks, output, 5, 1, 2)
    return forward, _call('carafe_naive_backward', output, features, masks, *grads, 5, 1, 2)


CASES: dict[str, Callable[[], Case]] = {
    'NMS, 10,000 boxes': _nms,
    'soft-NMS, 2,000 boxes': _softnms,
    'nms_match, 2,000 boxes': _nms_match,
    'overlaps, 20,000 by 100 boxes': _bbox_overlaps,
    'RoIAlign, 512 RoIs of 256 x 200 x 304': _roi_align,
    'deformable convolution, 3 x 3, 256 x 100 x 152': partial(_convolution, False),
    'modulated, the same': partial(_convolution, True),
    'sigmoid focal loss, 100,000 x 80': _sigmoid_focal_loss,
    'CARAFE, 5 x 5, 256 x 50 x 76, doubled': _carafe,
}


def _run(calls: list[Call], operators: Operators) -> None:
    for name, arguments, named in calls:
        operators[name](*arguments, **named)


def times(case: Case, seconds: float) -> dict[str, tuple[float, float]]:
    """Median milliseconds of a case, forward and both ways, of each kind of operator.

    The kinds alternate for ``seconds``. One that does not run here (compiled only for GPUs) is left out.
    """
    kinds: dict[str, Operators] = {'stand-in': STAND_INS}
    if ensure_ops() == 'compiled':
        kinds['compiled'] = vars(importlib.import_module(EXTENSION))
    contenders: dict[tuple[str, int], Callable[[], None]] = {}
    for kind, operators in kinds.items():
        try:
            _run(case[0] + case[1], operators)
        except RuntimeError:
            continue
        contenders |= {(kind, way): partial(_run, calls, operators) for way, calls in enumerate(case)}
    samples = {
        key: [1e3 * sample.seconds for sample in found]
        for key, found in interleave(contenders, seconds=seconds).items()
    }
    return {
        kind: (median(samples[kind, 0]), median(map(sum, zip(samples[kind, 0], samples[kind, 1]))))
        for kind in dict.fromkeys(kind for kind, _ in samples)
    }


def operator_table(seconds: float) -> Iterator[str]:
    """Yield the lines of a Markdown table: every case on one thread, for ``seconds`` each."""
    heads = ('operator', *('stand-in (ms)', 'compiled (ms)', 'ratio') * 2)
    yield f'| {" | ".join(heads[:4])} | both ways: {" | ".join(heads[4:])} |'
    yield '|---' * 7 + '|'
    torch.set_num_threads(1)
    for name, prepare in CASES.items():
        torch.manual_seed(0)
        case = prepare()
        found = times(case, seconds)
        cells: list[str] = []
        for way in range(1 + bool(case[1])):
            ours = found['stand-in'][way]
            theirs = found['compiled'][way] if 'compiled' in found else None
            cells += [digits(ours), *((digits(theirs), f'{ours / theirs:.2g}') if theirs else ('', ''))]
        yield f'| {" | ".join([name, *cells, *[""] * (6 - len(cells))])} |'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--seconds', type=float, default=10, help='for each (default: %(default)s)')
    for line in operator_table(parser.parse_args().seconds):
        print(line, flush=True)


if __name__ == '__main__':
    run(main)
