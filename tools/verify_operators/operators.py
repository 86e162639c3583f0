"""Two forms of an operator, compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def outcome(operator: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
    """What an operator returns, then every tensor that it was handed, as it left it."""
    own = [each.clone() if isinstance(each, Tensor) else each for each in arguments]
    returned = operator(*own, **named)
    return [returned, *(each for each in own if isinstance(each, Tensor))]


def same(
    ours: Callable[..., Any], theirs: Callable[..., Any], *arguments: Any, ulps: float = 8, **named: Any
) -> list[Any]:
    """Compare our form of an operator with theirs; return the outcome of theirs.

    Sums may be taken in another order: a difference of some units in the last place of the largest entry.
    """
    results = [outcome(operator, arguments, named) for operator in (theirs, ours)]
    for expected, got in zip(*results, strict=True):
        if isinstance(expected, Tensor) and expected.is_floating_point():
            close(got, expected, ulps)
        elif isinstance(expected, Tensor):
            assert got.equal(expected)
        else:
            assert got == expected
    return results[0]


def close(got: Tensor, expected: Tensor, ulps: float = 8) -> None:
    finite = expected[expected.isfinite()].abs()
    unit = ulps * torch.finfo(expected.dtype).eps
    atol = unit * finite.max().item() if finite.numel() else 0
    torch.testing.assert_close(got, expected, rtol=unit, atol=atol, equal_nan=True)


def same_roi_align(
    ours: Mapping[str, Callable[..., Any]],
    theirs: Mapping[str, Callable[..., Any]],
    features: Tensor,
    rois: Tensor,
    *numbers: Any,
) -> None:
    """Compare RoIAlign, forward and backward, in two forms."""
    output = features.new_full((len(rois), features.shape[1], *numbers[:2]), 9)
    none = [features.new_zeros(0)] * 2
    same(ours['roi_align_forward'], theirs['roi_align_forward'], features, rois, output, *none, *numbers)
    grads = (torch.randn_like(output), rois, *none, torch.zeros_like(features))
    same(ours['roi_align_backward'], theirs['roi_align_backward'], *grads, *numbers, ulps=32)


# Sizes of a map, of which regions are made: images, channels, height, width, pixels to a cell.
MAPS = [(2, 3, 7, 9, 4), (1, 5, 1, 1, 8), (3, 1, 20, 13, 2), (1, 2, 1, 30, 16)]


def map_with_ties(shape: tuple[int, ...]) -> Tensor:
    features = torch.randn(shape[:4])
    return features.where(features > -0.5, torch.zeros(()))


def regions(n: int, shape: tuple[int, ...]) -> Tensor:
    """RoIs ``(n, 5)``: inside, hanging over each side, beyond it, on its border, thin, whole, on cells."""
    images, _, height, width, stride = shape
    size = torch.tensor([width, height]) * float(stride)
    start = (torch.rand(n, 2) * 1.6 - 0.4) * size
    side = torch.rand(n, 2) ** 3 * size
    side[::5, 0] = 0.5
    rois = torch.cat((torch.randint(0, images, (n, 1)), start, start + side), 1)
    rois[1::6, 1:] = (rois[1::6, 1:] / stride).round() * stride
    rois[2::7, 1:] = torch.cat((torch.zeros(2), size))
    rois[3::9, 1:] -= 9 * size.repeat(2)
    return rois
