"""What this machine allows: its rates of arithmetic and memory, and a network's least time by them.

Source: the roofline model (Williams, Waterman, Patterson 2009, doi 10.1145/1498765.1498785).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .engines import torch_threads

SECONDS = 0.5  # for each measurement
GEMM_SIDES = (256, 512, 1024)
WORKING_SETS = (1 << 20, 1 << 23, 1 << 28)
"""Bytes: about one core's L2, the L3, and what no cache holds."""


@dataclass(frozen=True)
class Rates:
    """The best that was measured, as a bound needs.

    Attributes:
        float32: multiply-adds a second of a matrix product.
        int8: the same of one of int8 with sums in int32; ``None`` where torch has none here.
        bandwidths: bytes of a working set to bytes a second, of ``a = b + 2 c``, in rising order.
    """

    float32: float
    int8: float | None
    bandwidths: tuple[tuple[int, float], ...]

    @classmethod
    def measured(cls, threads: int) -> Rates:
        """Measure this machine.

        Args:
            threads: that torch uses.
        """
        with torch_threads(threads):
            triads = [_triad(size) for size in WORKING_SETS]
            # A small set, which threads share with effort, may look slower than what a larger one proves.
            bandwidths = tuple((size, max(triads[i:])) for i, size in enumerate(WORKING_SETS))
            float32 = max(_gemm(side, torch.float32) for side in GEMM_SIDES)
            return cls(float32, _int8(), bandwidths)

    def told(self) -> dict[str, Any]:
        """Return the rates in the units that people use, for a file."""
        return {
            'float32_gflops': round(2 * self.float32 / 1e9, 1),
            'int8_gops': None if self.int8 is None else round(2 * self.int8 / 1e9, 1),
            'triad_gb_s': {f'{size / 2**20:g} MiB': round(rate / 1e9, 1) for size, rate in self.bandwidths},
        }


@dataclass(frozen=True)
class Layer:
    """Multiply-adds of a convolution or linear layer, and values that it reads (weights too) and writes."""

    macs: int
    values: int


def _best(call: Callable[[], object]) -> float:
    call()
    end, best = time.perf_counter() + SECONDS, float('inf')
    while best == float('inf') or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _gemm(side: int, kind: torch.dtype) -> float:
    if kind == torch.int8:
        factor = torch.randint(-128, 128, (side, side), dtype=kind)
        return side**3 / _best(lambda: torch._int_mm(factor, factor))
    matrix = torch.rand(side, side)
    out = torch.empty_like(matrix)
    return side**3 / _best(lambda: torch.mm(matrix, matrix, out=out))


def _int8() -> float | None:
    try:
        return max(_gemm(side, torch.int8) for side in GEMM_SIDES)
    except (AttributeError, RuntimeError, NotImplementedError):
        return None


def _triad(working_set: int) -> float:
    a, b, c = torch.rand(3, working_set // 12).unbind()
    return working_set / _best(lambda: torch.add(b, c, alpha=2.0, out=a))


def layers(network: nn.Module, images: Tensor) -> list[Layer]:
    """Count the work of each convolution and linear layer; all else an engine may do on the way.

    Args:
        network: in evaluation mode; it is run once.
        images: ``(N, 3, H, W)``.
    """
    found: list[Layer] = []

    def count(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = inputs[0].numel() + output.numel() + layer.weight.numel()
        found.append(Layer(output.numel() * layer.weight[0].numel(), values))

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def bound(work: Sequence[Layer], rates: Rates, int8: bool = False) -> tuple[float, float] | None:
    """Return the least milliseconds of layers one after the other, in float32 or with all values in int8.

    ``None`` where the rate of int8 is not known. The first takes each layer's bytes to come from the
    smallest cache that holds them, the second all of them from memory; an engine that keeps activations in
    caches can be faster than the second.
    """
    cached, uncached = 0.0, 0.0
    slowest = rates.bandwidths[-1][1]
    macs = rates.int8 if int8 else rates.float32
    if macs is None:
        return None
    for layer in work:
        moved = layer.values if int8 else 4 * layer.values
        fit = next((rate for size, rate in rates.bandwidths if moved <= size), slowest)
        cached += max(layer.macs / macs, moved / fit)
        uncached += max(layer.macs / macs, moved / slowest)
    return 1e3 * cached, 1e3 * uncached
