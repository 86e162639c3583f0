from __future__ import annotations

import re

import pytest
import timm
import torch

from ghost_det.models import NETWORKS
from ghost_det.weights.catalog import PUBLISHED, SHIPPED, published
from ghost_det.weights.zoo import verify


@pytest.mark.parametrize('name', PUBLISHED)
def test_every_entry_names_timms_network_and_repository(name: str) -> None:
    entry = PUBLISHED[name]
    with torch.device('meta'):
        ours = NETWORKS[entry.network](width=entry.width, num_classes=1000)
        theirs = timm.create_model(name).state_dict()
        shapes = {key: value.shape for key, value in ours.state_dict().items()}
        ours.switch_to_deploy()
    assert shapes == {key: value.shape for key, value in theirs.items()}
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(entry.params, abs=0.1)
    cfg = timm.get_pretrained_cfg(name)
    assert (cfg.hf_hub_id, cfg.license) == (entry.hub, entry.licence.lower())


def test_entries_are_well_formed_and_name_different_files() -> None:
    for entry in PUBLISHED.values():
        assert re.fullmatch('main|[0-9a-f]{40}', entry.revision)
        assert entry.sha256 is None or re.fullmatch('[0-9a-f]{64}', entry.sha256)
        assert entry.git_blob is None or re.fullmatch('[0-9a-f]{40}', entry.git_blob)
        assert re.fullmatch(r'https://github\.com/[\w./-]+\.pth(\.tar)?', entry.url)
        assert 60 < entry.top1 < 80 and published(f'ghost://{entry.name}') is entry
    assert len({entry.url for entry in PUBLISHED.values()}) == len(PUBLISHED)


@pytest.mark.parametrize('name', SHIPPED)
def test_the_file_that_comes_with_the_package_is_verified(name: str) -> None:
    entry = SHIPPED[name]
    assert published(f'ghost://{name}') is entry and entry.data and entry.recipe and entry.result
    assert entry.path.stat().st_size < 6e6
    loaded = verify(name)
    assert loaded.loaded == loaded.total and not loaded.missing
