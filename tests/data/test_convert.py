"""Conversions to COCO: the same boxes, in the cache, until the data change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ghost_det.data.dataset import find_data

from .makers import NAMES, label, thing, voc_lists


def test_the_cache_is_used_until_the_data_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / 'set'
    voc_lists(root, train=NAMES[:2], val=NAMES[2:])
    files = sorted(root.rglob('*'))
    first = find_data(root)
    assert first.val.annotations.is_relative_to(cache) and sorted(root.rglob('*')) == files
    with monkeypatch.context() as patch:
        patch.setattr('ghost_det.data.convert._convert', lambda *_: pytest.fail('converted again'))
        assert find_data(root) == first
    label(root / 'Annotations/im 1.xml', thing('owl', 3.5, 2, 20, 15))  # of the same length
    second = find_data(root)
    assert second.classes == ('cat', 'dog', 'owl') and not first.val.annotations.exists()
    shutil.copytree(root, tmp_path / 'copy')
    assert find_data(tmp_path / 'copy').val.annotations.parent != second.val.annotations.parent
    assert second.val.annotations.exists()
