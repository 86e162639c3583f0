"""How many feature maps of a layer are ghosts of others: made from one of them by a d x d kernel.

Source: the argument of GhostNet (arXiv 1911.11907), figure 1 and section 4.1, where a small depthwise kernel
is learnt between three pairs of maps. Here it is solved for, in closed form, between all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ghost_det.errors import UserError
from ghost_det.utils.text import table

Array = NDArray[Any]
SIZES = (1, 3, 5, 7)
ERROR = 0.1
"""The largest error, as a share of a map's variance, with which another map is said to make it."""
PIXELS = 10
"""The fewest pixels for each number of a kernel; with fewer, any map makes any other."""
_BLOCK = 2**24  # numbers of the columns that are in memory at a time


class Pair(NamedTuple):
    """A map and its ghost: their places, the error of the best kernel, and the cosine of the centred maps."""

    source: int
    target: int
    error: float
    cosine: float


class Fit(NamedTuple):
    """The best kernel ``[d, d]`` and bias from a map to another, the map they make, and its error."""

    kernel: Array
    bias: float
    made: Array
    error: float


@dataclass(frozen=True)
class Redundancy:
    """Which maps of a layer make which.

    Attributes:
        errors: for each kernel size, ``[C, C]``: mean squared error of the map of the column when it is made
            from that of the row, over its variance: 0 is a copy, 1 no better than a constant. Infinite for a
            map and itself, and for constant maps.
        unseen: the same with the same kernels on images that they were not fitted to; empty without any.
        cosines: ``[C, C]``, of the centred maps; 0 for constant ones.
        alive: ``[C]``, which maps are not constant.
    """

    errors: dict[int, Array]
    unseen: dict[int, Array]
    cosines: Array
    alive: NDArray[np.bool_]

    def best(self, size: int) -> tuple[Array, Array]:
        """Return, for each map that is not constant, the least error and, where there are any, that unseen.

        The unseen error is that of the source that fitted best: to choose it again would be to fit again.
        """
        sources = self.errors[size].argmin(0)[self.alive]
        places = sources, np.flatnonzero(self.alive)
        unseen = self.unseen[size][places] if self.unseen else np.empty(0)
        return self.errors[size][places], unseen

    def share(self, size: int, error: float = ERROR, unseen: bool = False) -> float:
        """Return the share of the maps, constant ones left out, that another one makes within an error."""
        found = self.best(size)[int(unseen)]
        return float((found <= error).mean()) if found.size else 0.0

    def intrinsic(self, size: int, error: float = ERROR) -> list[int]:
        """Return few maps of which one makes each of the others: what a ghost module would have to compute.

        Two maps that make each other both count in `share`, though one of them is needed. Greedy: always
        the map that makes most of what is missing; the fewest possible may be fewer.
        """
        makes = (self.errors[size] <= error) | np.diag(self.alive)
        missing = self.alive.copy()
        chosen: list[int] = []
        while missing.any():
            chosen.append(int((makes & missing).sum(1).argmax()))
            missing &= ~makes[chosen[-1]]
        return chosen

    def pairs(self, size: int = 3, count: int = 3) -> list[Pair]:
        """Return the pairs with the least errors, no map in two of them."""
        errors = self.errors[size].copy()
        found: list[Pair] = []
        while len(found) < count and np.isfinite(errors.min()):
            i, j = (int(place) for place in np.unravel_index(errors.argmin(), errors.shape))
            found.append(Pair(i, j, float(errors[i, j]), float(self.cosines[i, j])))
            errors[[i, j]] = np.inf
            errors[:, [i, j]] = np.inf
        return found

    def table(self, error: float = ERROR) -> str:
        """Return the figures of each kernel size as text."""
        alive = int(self.alive.sum())
        head = ['kernel', 'median error', f'made within {error:g}', 'maps needed']
        head += ['median error, unseen', 'within, unseen'] if self.unseen else []
        rows = []
        for size in self.errors:
            fitted, unseen = self.best(size)
            needed = len(self.intrinsic(size, error))
            row = [f'{size} x {size}', _median(fitted), f'{self.share(size, error):.1%}']
            row += [f'{needed} of {alive} (s = {alive / max(1, needed):.2f})']
            row += [_median(unseen), f'{self.share(size, error, unseen=True):.1%}'] if self.unseen else []
            rows.append(row)
        return table(head, rows)


def _median(values: Array) -> str:
    return f'{np.median(values):.4f}' if values.size else '-'


def redundancy(maps: Array, sizes: Sequence[int] = SIZES, held_out: Array | None = None) -> Redundancy:
    """Fit the best kernel, and a bias, from each map to each other one.

    All is least squares on the moments of shifted maps, so that ``C * C`` fits cost a few products of
    matrices. Around a map there are zeros, as convolutions pad.

    Args:
        maps: ``[C, H, W]``, of one image; or ``[N, C, H, W]``, of several that share the kernels.
        sizes: odd sides of kernels; those too large for the maps, see `PIXELS`, are left out.
        held_out: maps of other images, of the same layer; any height and width.

    Raises:
        UserError: no two maps, numbers that are not finite, or maps too small for any of the sizes.
    """
    values = _batch(maps)
    channels, pixels = values.shape[1], values[:, 0].numel()
    fitting = [size for size in sizes if (size * size + 1) * PIXELS <= pixels]
    if channels < 2 or not fitting:
        raise UserError(
            f'{channels} maps of {values.shape[2]} x {values.shape[3]}: expected at least two, of enough '
            f'pixels for kernels of {", ".join(map(str, sizes))}; choose another layer'
        )
    mean, spread = values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)
    alive = spread > 1e-6 * values.abs().amax((0, 2, 3)).clamp(min=1e-30)
    scale = torch.where(alive, 1 / spread, torch.zeros_like(spread))
    other = None if held_out is None else _batch(held_out)
    errors, unseen = {}, {}
    for size in fitting:
        seen = _moments(values, mean, scale, size)
        kernels = torch.linalg.pinv(seen.gram, rtol=1e-11, hermitian=True) @ seen.cross
        errors[size] = _errors(seen, kernels, alive)
        if other is not None:
            unseen[size] = _errors(_moments(other, mean, scale, size), kernels, alive)
    flat = ((values - mean[:, None, None]) * scale[:, None, None]).transpose(0, 1).flatten(1)
    cosines = (flat @ flat.T / pixels).numpy()
    return Redundancy(errors, unseen, cosines, alive.numpy())


class _Moments(NamedTuple):
    gram: Tensor  # [C, n, n]: sums of products of the n columns of each source, its shifts and ones
    cross: Tensor  # [C, n, C]: of its columns and each target
    energy: Tensor  # [C]: of the squares of each target
    spread: Tensor  # [C]: of the squares of each target around its own mean


def _moments(values: Tensor, mean: Tensor, scale: Tensor, size: int) -> _Moments:
    targets = ((values - mean[:, None, None]) * scale[:, None, None]).permute(1, 0, 2, 3).flatten(1)
    sources = values * scale[:, None, None]
    step = max(1, _BLOCK // (size * size * targets.shape[1]))
    grams, crosses = [], []
    for block in torch.split(sources, step, dim=1):
        columns = _columns(block, size)
        grams.append(columns @ columns.mT)
        crosses.append(columns @ targets.T)
    around = (targets - targets.mean(1, keepdim=True)).square().sum(1)
    return _Moments(torch.cat(grams), torch.cat(crosses), targets.square().sum(1), around)


def _columns(maps: Tensor, size: int) -> Tensor:
    """Return ``[C, size * size + 1, N * H * W]``: each map shifted to all places of a kernel, and ones."""
    images, channels = maps.shape[:2]
    shifted = F.unfold(maps.flatten(0, 1)[:, None], size, padding=size // 2)
    shifted = shifted.view(images, channels, size * size, -1).permute(1, 2, 0, 3).flatten(2)
    return torch.cat([shifted, torch.ones_like(shifted[:, :1])], dim=1)


def _errors(moments: _Moments, kernels: Tensor, alive: Tensor) -> Array:
    """Return the error ``[C, C]`` of kernels ``[C, n, C]`` as a share of each target's variance."""
    gram, cross, energy, spread = moments
    left = energy - 2 * (kernels * cross).sum(1) + (kernels * (gram @ kernels)).sum(1)
    errors = left.clamp(min=0) / spread.clamp(min=1e-12)
    errors[~alive] = torch.inf
    errors[:, ~alive] = torch.inf
    errors.fill_diagonal_(torch.inf)
    found: Array = errors.numpy()
    return found


def _batch(maps: Array) -> Tensor:
    values = torch.as_tensor(np.asarray(maps), dtype=torch.float64)
    if values.dim() not in (3, 4) or not values.isfinite().all():
        raise UserError(f'maps of shape {tuple(values.shape)}: expected finite numbers, [C, H, W]')
    return values if values.dim() == 4 else values[None]


def fit_kernel(source: Array, target: Array, size: int) -> Fit:
    """Fit the kernel and bias that make one map from another, as a depthwise convolution applies them.

    Args:
        source: ``[H, W]``.
        target: ``[H, W]``, not constant.
        size: odd side of the kernel.
    """
    maps = _batch(np.stack([source, target]))
    columns, goal = _columns(maps[:, :1], size)[0].T, maps[0, 1].flatten()
    weights = torch.linalg.lstsq(columns, goal[:, None], driver='gelsd').solution[:, 0]
    made = columns @ weights
    error = (goal - made).square().sum() / (goal - goal.mean()).square().sum()
    kernel = weights[:-1].view(size, size).numpy()
    return Fit(kernel, float(weights[-1]), made.view(*np.shape(target)).numpy(), float(error))
