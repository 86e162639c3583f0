"""The site builds without a warning, its links lead somewhere, and what its pages show is what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import ghost_det
from ghost_det import deploy, visualization
from ghost_det.commands import COMMANDS, make_parser
from ghost_det.config.load import load_config
from ghost_det.data.dataset import find_data, use_data
from ghost_det.swap.swap import parse_backbone, swap
from tests.conftest import ROOT

DOCS = ROOT / 'docs'
PAGES = sorted(path for path in DOCS.rglob('*') if path.suffix in ('.md', '.ipynb'))


class Page(HTMLParser):
    """What a page is linked by, and what it links: (tag, address)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ('id', 'name') and value:
                self.anchors.add(value)
            elif key in ('href', 'src') and value:
                self.links.append((tag, value))


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    for name in ('material', 'mkdocs_jupyter', 'mkdocstrings_handlers.python'):
        pytest.importorskip(name, reason=f"no {name}: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp('site')
    # Not --quiet, under which --strict overlooks warnings.
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)],
        cwd=ROOT,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in folder.rglob('*.html')}


def test_links_and_anchors_lead_somewhere(site: dict[Path, Page]) -> None:
    dead = []
    for path, page in site.items():
        for _, link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or path.name == '404.html':  # it is shown at any address
                continue
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and anchor not in site[target].anchors):
                dead.append(f'{path.name}: {link}')
    assert len(site) > len(PAGES) and not dead, dead


def test_site_loads_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    addresses = {link for page in site.values() for tag, link in page.links if tag != 'a'}
    assert addresses and not {link for link in addresses if re.match(r'(https?:)?//', link)}


def test_every_page_is_in_the_nav() -> None:
    def leaves(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for part in entry.values() if isinstance(entry, dict) else entry:
                yield from leaves(part)

    named = list(leaves(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav']))
    there = {str(path.relative_to(DOCS)) for path in PAGES}
    assert not there - set(named), 'pages of docs/ that the nav of mkdocs.yml lacks'
    assert not set(named) - there, 'pages in the nav of mkdocs.yml that docs/ lacks'
    assert len(named) == len(set(named))


def test_api_lists_what_is_public() -> None:
    listed = re.findall(r'^::: (ghost_det(?:\.\w+)+)$', (DOCS / 'api.md').read_text(), re.MULTILINE)
    assert len(set(listed)) == len(listed)
    names = {path.rpartition('.')[2] for path in listed}  # GhostNet is listed with and without MMDetection
    assert names == {*ghost_det.__all__, *deploy.__all__, *visualization.__all__} - {'__version__'}
    assert all(getattr(visualization, name).__doc__ for name in visualization.__all__)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands_it_shows_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text().replace('\\\n', ' ')
    for name, rest in re.findall(r'(?:^|[`$!] ?)ghost-det ([a-z][a-z-]*)([^\n`|]*)', text, re.MULTILINE):
        assert name in COMMANDS, f'ghost-det {name}{rest}'
        of_its_own = rest.split()[:1] if name in ('visualize', 'weights') else []
        with pytest.raises(SystemExit):
            make_parser(name).parse_args([*of_its_own, '--help'])
        shown = capsys.readouterr().out
        assert not {o for o in re.findall(r'--[a-z][a-z-]*', rest) if o not in shown}, f'{name}{rest}'


def files_of(page: str, folder: Path) -> dict[str, str]:
    """Write the blocks of a page that have a file's name as title into a folder; return them."""
    blocks = re.findall(r'```python title="(.+?)"\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)
    for name, text in blocks:
        (folder / name).write_text(text)
    return dict(blocks)


def test_added_backbone_trains_a_step_and_predicts(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {'my_backbone.py', 'my_retinanet.py'} <= set(files_of('add-backbone.md', tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cfg = load_config('my_retinanet.py')
    use_data(cfg, find_data(sample), tmp_path)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    DefaultScope.get_instance('ghost_det_docs', scope_name='mmdet')
    model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'PlainNet'
    assert list(model.backbone.out_channels) == model.neck.in_channels
    maps = model.backbone(torch.rand(2, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(model.backbone.out_channels)
    assert [64 // m.shape[2] for m in maps] == list(model.backbone.out_strides)
    wrapper = Runner.build_optim_wrapper(type('R', (), {'model': model})(), cfg.optim_wrapper)
    MessageHub.get_current_instance().update_info('iter', 0)  # which the loop of a training does
    before = model.backbone.stem[0].weight.detach().clone()
    losses = model.train_step(next(iter(Runner.build_dataloader(cfg.train_dataloader))), wrapper)
    assert losses['loss'].isfinite() and not torch.equal(model.backbone.stem[0].weight, before)
    dataset = Runner.build_dataloader(cfg.val_dataloader).dataset
    with torch.no_grad():
        (found,) = model.eval().test_step(pseudo_collate([dataset[0]]))
    assert len(found.pred_instances.bboxes) and found.pred_instances.bboxes.isfinite().all()


def test_added_ghost_network_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files_of('add-backbone.md', tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    network = import_module('my_ghost').GhostNetShallow(width=0.5)
    whole = ghost_det.GhostNet(width=0.5)
    assert sum(map(len, whole.blocks)) - sum(map(len, network.blocks)) == 4
    assert network.out_channels == whole.out_channels and network.out_strides == (4, 8, 16, 32)
    assert [m.shape[1] for m in network.eval()(torch.rand(1, 3, 64, 64))] == list(network.out_channels)


def test_the_small_project_is_swapped_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = files_of('projects.md', tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    page = (DOCS / 'projects.md').read_text()
    command = re.search(r'ghost-det swap (atss_gated\.py) -o (\S+) --backbone (\S+)', page)
    assert command is not None
    source, out, backbone = command.groups()
    name, settings = parse_backbone(backbone)
    swapped = swap(source, name, **settings)
    written = swapped.write(out, force=True)
    # All but the first line, which names the tool that wrote it.
    assert written.strip().splitlines()[1:] == shown[out].strip().splitlines()[1:]
    assert all(note in page for note in swapped.notes), swapped.notes
