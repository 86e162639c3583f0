"""torch's counter of floating-point operations, a substitute for torch 2.0, and counts by module."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

try:
    from torch.utils.flop_counter import FlopCounterMode as FlopCounterMode
except ImportError:  # torch 2.0

    class FlopCounterMode(TorchDispatchMode):  # type: ignore
        """Counts convolutions and matrix products; in torch 2.0, attention consists of these."""

        def __init__(self, display: bool = False) -> None:
            super().__init__()  # type: ignore
            self.macs = 0

        def get_total_flops(self) -> int:
            """Return two for each multiply-add."""
            return 2 * self.macs

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            name = func.__name__.partition('.')[0]
            if name == 'convolution':
                is_transposed = args[6]
                self.macs += (args[0] if is_transposed else out).numel() * args[1][0].numel()
            elif name in ('mm', 'bmm', 'addmm', 'baddbmm'):
                self.macs += out.numel() * args[-2].shape[-1]
            return out


def count_within(module: nn.Module, counter: Any, hooks: ExitStack) -> list[int]:
    """Return a list to which each call of a module adds its operations, while ``hooks`` are open.

    mmdet calls heads by forward(), which no hook sees: then the calls of their own parts are counted.
    """
    calls: list[int] = []
    begun: list[int] = []

    def enter(*_: Any) -> None:
        begun.append(counter.get_total_flops())

    def leave(*_: Any) -> None:
        first = begun.pop()
        if not begun:  # the outermost module
            calls.append(counter.get_total_flops() - first)

    for each in module.modules():
        hooks.enter_context(each.register_forward_pre_hook(enter))
        hooks.enter_context(each.register_forward_hook(leave))
    return calls
