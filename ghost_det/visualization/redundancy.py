"""How many feature maps of a layer are ghosts of others: made from one of them by a d x d kernel.

Source: the argument of GhostNet (arXiv 1911.11907), figure 1 and section 4.1, where a small depthwise kernel
is learnt between three pairs of maps. Here it is solved for, in closed form, between all pairs.
"""

from __future__ import annotations

import math
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
ERROR = 0.1  # the largest, as a share of a map's variance, with which another map counts as its source
PIXELS = 10  # the fewest for each number of a kernel; with fewer, any map makes any other


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

    def best(self, size: int, unseen: bool = False) -> Array:
        """Return each live map's least error, or that of the same kernel on unseen images."""
        places = self.errors[size].argmin(0)[self.alive], np.flatnonzero(self.alive)
        errors: Array = (self.unseen if unseen else self.errors)[size][places]
        return errors

    def share(self, size: int, error: float = ERROR, unseen: bool = False) -> float:
        """Return the share of the live maps that another one makes within an error."""
        return float((self.best(size, unseen) <= error).mean())

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
            needed = len(self.intrinsic(size, error))
            row = [f'{size} x {size}', f'{np.median(self.best(size)):.4f}', f'{self.share(size, error):.1%}']
            row.append(f'{needed} of {alive} (s = {alive / needed:.2f})')
            if self.unseen:
                row.append(f'{np.median(self.best(size, unseen=True)):.4f}')
                row.append(f'{self.share(size, error, unseen=True):.1%}')
            rows.append(row)
        return table(head, rows)


def redundancy(maps: Array, sizes: Sequence[int] = SIZES, held_out: Array | None = None) -> Redundancy:
    """Fit the best kernel, and a bias, from each map to each other one.

    It is least squares on the moments of shifted maps: ``C * C`` fits cost a few products of matrices. Maps
    are padded with zeros, as in convolutions.

    Args:
        maps: ``[C, H, W]``, of one image; or ``[N, C, H, W]``, of several that share the kernels.
        sizes: odd sides of kernels; those too large for the maps, see `PIXELS`, are skipped.
        held_out: maps of other images, of the same layer; any height and width.

    Raises:
        UserError: fewer than two maps that vary, NaN or infinite values, or maps too small for all sizes.
    """
    values = _batch(maps)
    pixels = values[:, 0].numel()
    fitting = [size for size in sizes if (size * size + 1) * PIXELS <= pixels]
    mean, spread = values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)
    alive = spread > 1e-6 * values.abs().amax((0, 2, 3)).clamp(min=1e-30)
    if alive.sum() < 2 or not fitting:
        raise UserError(
            f'{len(alive)} maps of {values.shape[2]} x {values.shape[3]}: expected at least two that are not '
            f'constant, large enough for kernels of {", ".join(map(str, sizes))}; choose another layer'
        )
    scale = torch.where(alive, 1 / spread, torch.zeros_like(spread))
    fitted = _moments(values, mean, scale, max(fitting))
    other = None if held_out is None else _moments(_batch(held_out), mean, scale, max(fitting))
    errors, unseen = {}, {}
    for size in fitting:
        inner = fitted.inner(size)
        kernels = torch.linalg.pinv(inner.gram, rtol=1e-11, hermitian=True) @ inner.cross
        errors[size] = _errors(inner, kernels, alive)
        if other is not None:
            unseen[size] = _errors(other.inner(size), kernels, alive)
    flat = ((values - mean[:, None, None]) * scale[:, None, None]).transpose(0, 1).flatten(1)
    cosines = (flat @ flat.T / pixels).numpy()
    return Redundancy(errors, unseen, cosines, alive.numpy())


class _Moments(NamedTuple):
    gram: Tensor  # [C, n, n]: sums of products of the n columns of each source, its shifts and ones
    cross: Tensor  # [C, n, C]: of its columns and each target
    energy: Tensor  # [C]: of the squares of each target
    spread: Tensor  # [C]: of the squares of each target around its own mean

    def inner(self, size: int) -> _Moments:
        """Return the moments of a smaller kernel, whose columns are some of these."""
        side = math.isqrt(self.gram.shape[1] - 1)
        edge = (side - size) // 2
        grid = torch.arange(side * side).view(side, side)[edge : edge + size, edge : edge + size]
        kept = torch.cat([grid.flatten(), torch.tensor([side * side])])
        return self._replace(gram=self.gram[:, kept][:, :, kept], cross=self.cross[:, kept])


def _moments(values: Tensor, mean: Tensor, scale: Tensor, size: int) -> _Moments:
    targets = ((values - mean[:, None, None]) * scale[:, None, None]).transpose(0, 1).flatten(1)
    sources = (values * scale[:, None, None]).transpose(0, 1)
    grams, crosses = [], []
    for source in sources:  # one by one: the columns of all take too much memory
        columns = _columns(source, size)
        grams.append(columns @ columns.T)
        crosses.append(columns @ targets.T)
    around = (targets - targets.mean(1, keepdim=True)).square().sum(1)
    return _Moments(torch.stack(grams), torch.stack(crosses), targets.square().sum(1), around)


def _columns(maps: Tensor, size: int) -> Tensor:
    """Return ``[size * size + 1, N * H * W]``: maps shifted to all places of a kernel, and ones."""
    shifted = F.unfold(maps[:, None], size, padding=size // 2).transpose(0, 1).flatten(1)
    return torch.cat([shifted, torch.ones_like(shifted[:1])])


def _errors(moments: _Moments, kernels: Tensor, alive: Tensor) -> Array:
    """Return the error ``[C, C]`` of kernels ``[C, n, C]`` as a share of each target's variance."""
    gram, cross, energy, spread = moments
    left = energy - 2 * (kernels * cross).sum(1) + (kernels * (gram @ kernels)).sum(1)
    errors = left.clamp(min=0) / spread.clamp(min=1e-12)
    errors[~(alive & alive[:, None])] = torch.inf
    errors.fill_diagonal_(torch.inf)
    found: Array = errors.numpy()
    return found


def _batch(maps: Array) -> Tensor:
    values = torch.as_tensor(np.asarray(maps), dtype=torch.float64)
    if values.dim() not in (3, 4) or not values.isfinite().all():
        raise UserError(f'maps of shape {tuple(values.shape)}: expected finite numbers, [C, H, W]')
    return values if values.dim() == 4 else values[None]


def fit_kernel(source: Array, target: Array, size: int) -> Fit:
    """Fit the kernel and bias that make a map from another, ``[H, W]``, as a depthwise convolution does."""
    maps = _batch(np.stack([source, target]))
    columns, goal = _columns(maps[:, 0], size).T, maps[0, 1].flatten()
    weights = torch.linalg.lstsq(columns, goal[:, None], driver='gelsd').solution[:, 0]
    made = columns @ weights
    error = (goal - made).square().sum() / (goal - goal.mean()).square().sum()
    kernel = weights[:-1].view(size, size).numpy()
    return Fit(kernel, float(weights[-1]), made.view(*np.shape(target)).numpy(), float(error))
