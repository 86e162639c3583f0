"""Batch normalization over the processes of a training on CPUs, which PyTorch's own refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)
    return total


class CPUSyncBatchNorm(_BatchNorm):
    """``torch.nn.SyncBatchNorm`` over gloo: the same tensors, statistics and gradients.

    Statistics are those of all values of all processes, whatever the sizes of their batches. It is no
    subclass of PyTorch's, as DistributedDataParallel refuses that one on a CPU.

    Shape:
        ``(b, c, ...)`` to the same.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f'expected at least 2D input (got {input.dim()}D input)')

    def forward(self, input: Tensor) -> Tensor:
        """Normalize by the statistics of all processes while training, else by the running ones."""
        group = torch.distributed
        if not (self.training and group.is_initialized() and group.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        size = x.new_full((1,), input.numel() // input.shape[1])
        sums = _sum(torch.cat([x.sum(dims), size]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.reshape(shape)
        # In a second pass, as the difference of large means of squares loses digits.
        var = _sum(centred.square().sum(dims)) / count
        out = centred * (var + self.eps).rsqrt().reshape(shape)
        if self.affine:
            out = out * self.weight.reshape(shape) + self.bias.reshape(shape)
        self._track(mean.detach(), var.detach(), float(count))
        return out.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: float) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = var * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def synchronise_on_cpu(module: nn.Module) -> nn.Module:
    """Replace ``torch.nn.SyncBatchNorm`` throughout a network, which keeps its parameters and statistics."""
    return _synchronise(module, {})


def _synchronise(module: nn.Module, twins: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in twins:  # it has several places
        return twins[module]
    if isinstance(module, nn.SyncBatchNorm):
        twin = CPUSyncBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        twin._parameters, twin._buffers = module._parameters, module._buffers
        twins[module] = twin.train(module.training)
        return twin
    twins[module] = module
    for name, child in module._modules.items():
        if child is not None:
            setattr(module, name, _synchronise(child, twins))
    return module
