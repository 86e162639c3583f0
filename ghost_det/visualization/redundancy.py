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
        cosines: ``[C, C]``, of the centred maps; 0 for constant ones.
        alive: ``[C]``, which maps are not constant.
    """

    errors: dict[int, Array]
    cosines: Array
    alive: NDArray[np.bool_]

    def best(self, size: int) -> Array:
        """Return the least error of each map that is not constant."""
        least: Array = self.errors[size].min(0)[self.alive]
        return least

    def share(self, size: int, error: float = ERROR) -> float:
        """Return the share of the maps, without constant ones, that another one makes within an error."""
        return float((self.best(size) <= error).mean())

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


def redundancy(maps: Array, sizes: Sequence[int] = SIZES) -> Redundancy:
    """Fit the best kernel, and a bias, from each map to each other one.

    It is least squares on the moments of shifted maps: ``C * C`` fits cost a few products of matrices. Maps
    are padded with zeros, as in convolutions.

    Args:
        maps: ``[C, H, W]``, of one image.
        sizes: odd sides of kernels; those too large for the maps, see `PIXELS`, are skipped.

    Raises:
        UserError: fewer than two maps that vary, NaN or infinite values, or maps too small for all sizes.
    """
    values = _checked(maps)
    pixels = values[0].numel()
    fitting = [size for size in sizes if (size * size + 1) * PIXELS <= pixels]
    spread = values.std((1, 2), correction=0)
    alive = spread > 1e-6 * values.abs().amax((1, 2)).clamp(min=1e-30)
    if alive.sum() < 2 or not fitting:
        raise UserError(
            f'{len(alive)} maps of {values.shape[1]} x {values.shape[2]}: expected at least two that are not '
            f'constant, large enough for kernels of {", ".join(map(str, sizes))}; choose another layer'
        )
    scaled = values * torch.where(alive, 1 / spread, torch.zeros_like(spread))[:, None, None]
    targets = scaled.flatten(1) - scaled.mean((1, 2))[:, None]
    energy = targets.square().sum(1)
    order = _rings(max(fitting))
    errors = {size: torch.full((len(alive), len(alive)), torch.inf, dtype=torch.float64) for size in fitting}
    for number in alive.nonzero()[:, 0].tolist():
        columns = _columns(scaled[number], max(fitting))[order]
        gram, cross = columns @ columns.T, columns @ targets.T
        for size in fitting:
            count = size * size + 1  # of the first columns: a smaller kernel, and the bias
            kernels = torch.linalg.pinv(gram[:count, :count], rtol=1e-11, hermitian=True) @ cross[:count]
            left = energy - (kernels * cross[:count]).sum(0)
            errors[size][number, alive] = (left / energy).clamp(min=0)[alive]
            errors[size][number, number] = torch.inf
    cosines = (targets @ targets.T / pixels).numpy()
    return Redundancy({size: each.numpy() for size, each in errors.items()}, cosines, alive.numpy())


def _rings(size: int) -> Tensor:
    """Return the order of `_columns` in which each smaller kernel's, and the ones, are the first."""
    ring = (torch.arange(size) - size // 2).abs()
    rings = torch.maximum(ring[:, None], ring).flatten()
    return torch.cat([torch.tensor([size * size]), rings.argsort(stable=True)])


def _columns(values: Tensor, size: int) -> Tensor:
    """Return ``[size * size + 1, H * W]``: a map shifted to all places of a kernel, and ones."""
    shifted = F.unfold(values[None, None], size, padding=size // 2)[0]
    return torch.cat([shifted, torch.ones_like(shifted[:1])])


def _checked(maps: Array) -> Tensor:
    values = torch.as_tensor(np.asarray(maps), dtype=torch.float64)
    if values.dim() != 3 or not values.isfinite().all():
        raise UserError(f'maps of shape {tuple(values.shape)}: expected finite numbers, [C, H, W]')
    return values


def fit_kernel(source: Array, target: Array, size: int) -> Fit:
    """Fit the kernel and bias that make a map from another, ``[H, W]``, as a depthwise convolution does."""
    values = _checked(np.stack([source, target]))
    columns, goal = _columns(values[0], size).T, values[1].flatten()
    weights = torch.linalg.lstsq(columns, goal[:, None], driver='gelsd').solution[:, 0]
    made = columns @ weights
    error = (goal - made).square().sum() / (goal - goal.mean()).square().sum()
    kernel = weights[:-1].view(size, size).numpy()
    return Fit(kernel, float(weights[-1]), made.view(values[1].shape).numpy(), float(error))
