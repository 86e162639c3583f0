from __future__ import annotations

import torch
from torch import nn

from ghost_det.models.sync_norm import CPUSyncBatchNorm, synchronise_on_cpu


def test_a_norm_with_several_places_has_one_twin() -> None:
    norm = nn.SyncBatchNorm(3)
    network = nn.ModuleDict({'a': norm, 'b': norm, 'c': nn.Sequential(norm, nn.ReLU())})
    weight = norm.weight
    synchronised = synchronise_on_cpu(network)
    assert synchronised is network
    twin = synchronised['a']
    assert isinstance(twin, CPUSyncBatchNorm) and twin.weight is weight
    assert synchronised['b'] is twin and synchronised['c'][0] is twin


def test_one_process_normalises_as_batch_norm_in_any_precision() -> None:
    for dtype in (torch.float32, torch.float64):
        twin, plain = CPUSyncBatchNorm(3).to(dtype), nn.BatchNorm2d(3).to(dtype)
        x = torch.randn(2, 3, 4, 5, dtype=dtype)
        assert torch.equal(twin(x), plain(x))
        assert torch.equal(twin.running_var, plain.running_var)
        assert torch.equal(twin.eval()(x), plain.eval()(x))
