from __future__ import annotations

import re

import pytest
import timm
import torch

from ghost_det.models import NETWORKS
from ghost_det.weights.catalog import PUBLISHED, Weights, published

COUNTS = {'GhostNet': 512, 'GhostNetV2': 764, 'GhostNetV3': 1956, 'RepGhostNet': 672}


@pytest.mark.parametrize('name', PUBLISHED)
def test_every_entry_names_timms_network_and_repository(name: str) -> None:
    entry = PUBLISHED[name]
    with torch.device('meta'):
        ours = NETWORKS[entry.network](width=entry.width, num_classes=1000)
        theirs = timm.create_model(name).state_dict()
        shapes = {key: value.shape for key, value in ours.state_dict().items()}
        ours.switch_to_deploy()
    assert shapes == {key: value.shape for key, value in theirs.items()}
    assert len(shapes) == COUNTS[entry.network]
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(entry.params, abs=0.1)
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.hf_hub_id == entry.hub
    assert cfg.license == entry.licence.lower()


@pytest.mark.parametrize('entry', PUBLISHED.values(), ids=PUBLISHED)
def test_every_entry_is_well_formed(entry: Weights) -> None:
    assert re.fullmatch('main|[0-9a-f]{40}', entry.revision)
    assert entry.sha256 is None or re.fullmatch('[0-9a-f]{64}', entry.sha256)
    assert entry.git_blob is None or re.fullmatch('[0-9a-f]{40}', entry.git_blob)
    assert re.fullmatch(r'https://github\.com/[\w./-]+\.pth(\.tar)?', entry.url)
    assert 60 < entry.top1 < 80 and published(f'ghost://{entry.name}') is entry


def test_each_file_is_of_one_entry() -> None:
    for values in zip(*((w.hub, w.url) for w in PUBLISHED.values())):
        assert len(set(values)) == len(PUBLISHED)
