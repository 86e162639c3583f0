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

GEMM_SIDES = (1024, 2048)
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
    def measured(cls, threads: int, seconds: float = 0.5) -> Rates:
        """Measure this machine.

        Args:
            threads: that torch uses.
            seconds: for each of the measurements.
        """
        with torch_threads(threads):
            triads = [_triad(size, seconds) for size in WORKING_SETS]
            # A small set, which threads share with effort, may look slower than what a larger one proves.
            bandwidths = tuple((size, max(triads[i:])) for i, size in enumerate(WORKING_SETS))
            float32 = max(_gemm(side, torch.float32, seconds) for side in GEMM_SIDES)
            return cls(float32, _int8(seconds), bandwidths)

    def told(self) -> dict[str, Any]:
        """Return the rates in the units that people use, for a file."""
        return {
            'float32_gflops': round(2 * self.float32 / 1e9, 1),
            'int8_gops': None if self.int8 is None else round(2 * self.int8 / 1e9, 1),
            'triad_gb_s': {f'{size / 2**20:g} MiB': round(rate / 1e9, 1) for size, rate in self.bandwidths},
        }


@dataclass(frozen=True)
class Layer:
    """Multiply-adds of a convolution or linear layer, and bytes that it reads (weights too) and writes."""

    macs: int
    bytes: int


def _best(call: Callable[[], object], seconds: float) -> float:
    call()
    end, best = time.perf_counter() + seconds, float('inf')
    while best == float('inf') or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _gemm(side: int, kind: torch.dtype, seconds: float) -> float:
    if kind == torch.int8:
        factor = torch.randint(-128, 128, (side, side), dtype=kind)
        return side**3 / _best(lambda: torch._int_mm(factor, factor), seconds)
    matrix = torch.rand(side, side)
    out = torch.empty_like(matrix)
    return side**3 / _best(lambda: torch.mm(matrix, matrix, out=out), seconds)


def _int8(seconds: float) -> float | None:
    try:
        return max(_gemm(side, torch.int8, seconds) for side in GEMM_SIDES)
    except (AttributeError, RuntimeError, NotImplementedError):
        return None


def _triad(working_set: int, seconds: float) -> float:
    a, b, c = torch.rand(3, working_set // 12).unbind()
    return working_set / _best(lambda: torch.add(b, c, alpha=2.0, out=a), seconds)


def layers(network: nn.Module, images: Tensor) -> list[Layer]:
    """Count the work of each convolution and linear layer; all else an engine may do on the way.

    Args:
        network: in evaluation mode; it is run once.
        images: ``(N, 3, H, W)``.
    """
    found: list[Layer] = []

    def count(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = inputs[0].numel() + output.numel() + layer.weight.numel()
        found.append(Layer(output.numel() * layer.weight[0].numel(), 4 * values))

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


def bound(work: Sequence[Layer], rates: Rates) -> tuple[float, float]:
    """Return the least milliseconds of layers one after the other, in float32.

    The first takes each layer's bytes to come from the smallest cache that holds them, the second all of
    them from memory; an engine that keeps activations in caches can be faster than the second.
    """
    cached, uncached = 0.0, 0.0
    slowest = rates.bandwidths[-1][1]
    for layer in work:
        fit = next((rate for size, rate in rates.bandwidths if layer.bytes <= size), slowest)
        arithmetic = layer.macs / rates.float32
        cached += max(arithmetic, layer.bytes / fit)
        uncached += max(arithmetic, layer.bytes / slowest)
    return 1e3 * cached, 1e3 * uncached
