"""Our networks compared with timm's, which were written by others: the same weights give the same maps."""

from __future__ import annotations

import pytest
import torch

from ghost_det.weights.zoo import CLASSIFIERS, classifier

from .contract import randomise

timm = pytest.importorskip('timm')


@pytest.mark.parametrize('name', timm.list_models('*ghostnet*'))
def test_same_tensors_same_maps_and_same_logits(name: str) -> None:
    assert name in CLASSIFIERS
    theirs = randomise(timm.create_model(name)).eval()
    ours = classifier(name).eval()
    ours.load_state_dict(theirs.state_dict())
    backbone = classifier(name, num_classes=None).eval()
    assert not backbone.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    ends = []
    for position in (2, 4, 6, 8):
        theirs.blocks[position].register_forward_hook(lambda module, inputs, output: ends.append(output))
    x = torch.rand(1, 3, 75, 100)
    with torch.no_grad():
        assert (theirs(x) - ours(x)).abs().max() <= 1e-5
        for got, want in zip(backbone(x), ends, strict=True):
            assert (got - want).abs().max() <= 1e-5 * want.abs().max()
