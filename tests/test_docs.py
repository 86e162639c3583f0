"""The site builds without a warning, its pages are plain English, and their commands and code work."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
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
from ghost_det.swap.probe import build_detector
from ghost_det.swap.swap import swap
from ghost_det.swap.weights import keep_weights
from tests.conftest import ROOT

DOCS = ROOT / 'docs'
PAGES = sorted(path for path in DOCS.rglob('*') if path.suffix in ('.md', '.ipynb'))
TEXTS = [*PAGES, *(ROOT / name for name in ('README.md', 'SECURITY.md', 'CHANGELOG.md'))]

WORDS = re.compile(
    r'\b(?:told|mend(?:s|ed|ing)?|cannot be had|to be had|anew|once more|(?:in|by) turns|'
    r'beside|held against|gone on with|goes on|went on|to the bit|in silence|no number any more|ways? on|'
    r'the surest|(?:true|found) boxes|wanted|worked at|alone|judges?|twins?)\b',
    re.IGNORECASE,
)
ALLOWED = re.compile('(?:left|leave) alone')


def words_of(text: str) -> list[str]:
    return WORDS.findall(ALLOWED.sub('', ' '.join(text.split())))


@pytest.mark.parametrize('page', TEXTS, ids=lambda page: page.name)
def test_pages_are_plain_and_narrow(page: Path) -> None:
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    assert words_of(text) == []
    lines = [re.sub(r'\]\([^)]*\)', ']', line) for line in text.splitlines() if page.suffix == '.md']
    assert [line for line in lines if len(line) > 160 and not line.startswith('|')] == []


def test_the_package_speaks_plain_english() -> None:
    """Messages, docstrings, comments, names, and the texts of pages and findings."""
    files = [path for folder in ('ghost_det', 'tools') for path in (ROOT / folder).rglob('*.*')]
    texts = [path for path in files if path.suffix in ('.py', '.j2', '.txt')]
    assert not {str(path): words for path in texts if (words := words_of(path.read_text()))}


def test_site_builds_and_is_self_contained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('material', 'mkdocs_jupyter', 'mkdocstrings_handlers.python'):
        pytest.importorskip(name, reason=f"no {name}: pip install '.[docs]'")
    monkeypatch.setenv('NO_MKDOCS_2_WARNING', '1')
    # --strict: dead links and anchors, and pages that are not in the nav, are errors; not with --quiet.
    words = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = [path.read_text() for path in tmp_path.rglob('*.html')]
    assert len(site) > len(PAGES)
    assert not re.findall(r'<(?!a\b)[^<>]*\b(?:href|src)="(?:https?:)?//[^"]*', ''.join(site))


def test_api_lists_what_is_public() -> None:
    listed = re.findall(r'^::: (ghost_det(?:\.\w+)+)$', (DOCS / 'api.md').read_text(), re.MULTILINE)
    names = {path.rpartition('.')[2] for path in listed}  # GhostNet is listed with and without MMDetection
    assert names == {*ghost_det.__all__, *deploy.__all__, *visualization.__all__} - {'__version__'}


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from options(each)


def test_commands_targets_and_files_they_name_exist() -> None:
    text = '\n'.join(page.read_text() for page in TEXTS).replace('\\\n', ' ')
    known = {name: {*options(make_parser(name))} for name in COMMANDS}
    for name, rest in re.findall(r'(?:^|[`$!] ?)ghost-det ([a-z][a-z-]*)([^\n`|]*)', text, re.MULTILINE):
        assert {*re.findall(r' (--[a-z][a-z0-9-]*)', rest)} <= known[name], f'ghost-det {name}{rest}'
    makefile = (ROOT / 'Makefile').read_text()
    targets = {*re.findall(r'[`\n]make ([a-z]+)', text)}
    assert not {target for target in targets if f'\n{target}:' not in makefile}
    text += '\n'.join(p.read_text() for d in ('ghost_det', 'tools') for p in (ROOT / d).rglob('*.py'))
    names = {*re.findall(r'(?<![\w/.-])(?:configs|docs|tests|tools)/[\w./-]+\.(?:py|md|ipynb)\b', text)}
    ours = [name for name in sorted(names) if not name.startswith(('configs/hod/', 'configs/detection/'))]
    assert [name for name in ours if not (ROOT / name).exists()] == []


def files_of(page: str, folder: Path) -> dict[str, str]:
    """Write the blocks of a page that have a file's name as title into a folder; return them."""
    blocks = re.findall(r'```python title="(.+?)"\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)
    for name, text in blocks:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return dict(blocks)


def test_added_backbone_works(tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    wrapper = Runner.build_optim_wrapper(type('R', (), {'model': model})(), cfg.optim_wrapper)
    MessageHub.get_current_instance().update_info('iter', 0)  # as a training loop does
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
    full = ghost_det.GhostNet(width=0.5)
    assert sum(map(len, full.blocks)) - sum(map(len, network.blocks)) == 4
    assert [m.shape[1] for m in network.eval()(torch.rand(1, 3, 64, 64))] == list(full.out_channels)


def test_small_project_is_swapped_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = files_of('projects.md', tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    page = (DOCS / 'projects.md').read_text()
    (out,) = re.findall(r'ghost-det swap atss_gated\.py -o (\S+)\n', page)
    swapped = swap('atss_gated.py', 'GhostNet')  # the default
    written = swapped.write(out, force=True)  # its first line names the tool
    assert written.strip().splitlines()[1:] == shown[out].strip().splitlines()[1:]
    assert all(note in page for note in swapped.notes), swapped.notes


def test_existing_project_is_swapped_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = files_of('existing-projects.md', tmp_path)
    (tmp_path / 'my_parts.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    page = (DOCS / 'existing-projects.md').read_text()
    swapped = swap('project/mine.py', 'GhostNet')
    torch.save({'state_dict': build_detector(swapped.source.model).state_dict()}, 'old.pth')
    _, kept = keep_weights(swapped.config, 'old.pth', Path('project/mine_ghost.kept.pth'))
    assert swapped.write('project/mine_ghost.py', force=True) == shown['project/mine_ghost.py']
    assert not [line for line in [*swapped.notes, *kept] if f'\n{line}\n' not in page]
    load_config('retinanet_ghost.py')
