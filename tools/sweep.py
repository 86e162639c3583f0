"""A backbone under every kind of detector that mmdet ships: swapped, trained for a step, asked for boxes.

python -m tools.sweep --backbone GhostNet -o docs/sweep.csv
"""

from __future__ import annotations

import argparse
import collections
import csv
import logging
import multiprocessing
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from tqdm import tqdm

from ghost_det.config.load import load_config
from ghost_det.config.query import get_path, necks
from ghost_det.config.shipped import MMDET, mmdet_folder
from ghost_det.errors import UserError, reason, run_tool
from ghost_det.models import BACKBONES
from ghost_det.swap.swap import parse_backbone, swap
from ghost_det.utils.files import require_writable, write_or_fail
from ghost_det.utils.system import cores, versions

from .exercise import all_parts, exercise

RESULTS = {
    'works': 'swapped, trained for one step with its own optimizer, and predicts',
    'in part': 'swapped; what follows the neck does not run on random images, with the old backbone either',
    'refused': 'the swap is refused, with a reason',
    'unreadable': 'the config cannot be read here, with either backbone',
    'fails': 'runs with the old backbone, but not with the new one',
}
_STARTING = threading.Lock()
"""One process starts at a time: another would inherit the pipe whose end marks the exit of the first."""
_PIECE = 'a config without data, for others to inherit from'


class Outcome(NamedTuple):
    """The result for one config; a row of the CSV."""

    stack: str
    config: str
    detector: str
    old_backbone: str
    new_backbone: str
    result: str
    reason: str


def find_configs(folders: Sequence[str] = ()) -> list[str]:
    """Return one of mmdet's configs for each kind of detector, backbone, neck, head and dcn, by folder.

    All of mmdet's folders are searched by default; configs, as ``mmdet::NAME``, stand for themselves.
    """
    root = mmdet_folder()
    known = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name != '_base_')
    chosen = []
    for folder in folders or known:
        folder = folder.rstrip('/')
        if folder.startswith(MMDET) or folder.endswith('.py'):
            load_config(folder)  # which raises a UserError where it cannot be read
            chosen.append(folder)
            continue
        if folder not in known:
            raise UserError(f'{folder}: mmdet ships no such folder of configs; it has {", ".join(known)}')
        kinds: dict[Any, str] = {}
        paths = sorted((root / folder).glob('*.py'), key=lambda p: (len(p.name), p.name))
        for path in tqdm(paths, desc=f'reading {folder}', leave=False):
            name = f'{MMDET}{folder}/{path.name}'
            kinds.setdefault(_kind(name), name)
        kinds.pop(None, None)
        if len(kinds) > 1:
            kinds.pop(_PIECE, None)
        chosen += kinds.values()
    return chosen


def _kind(name: str) -> Any:
    """Return what makes a config another case for the swap; ``None`` if it has no model."""
    try:
        # Not as load_config does: through ``mmdet::``, mmengine reads all of mmdet's index for each.
        cfg = Config.fromfile(str(mmdet_folder() / name.removeprefix(MMDET)))
    except Exception as error:
        return reason(error)[:60]
    if not cfg.get('model'):
        return None
    if 'train_dataloader' not in cfg or 'val_dataloader' not in cfg:
        return _PIECE
    model = cfg.model
    detector = model if 'backbone' in model else model.get('detector') or model
    backbone = detector.get('backbone') or {}
    heads = all_parts([part for key, part in detector.items() if key.endswith('head')])
    return (
        *(str(part.get('type')) for part in (model, detector, backbone, *necks(detector))),
        *sorted(str(part['type']) for part in heads if str(part.get('type')).endswith('Head')),
        str((backbone.get('dcn') or {}).get('type')),
        bool(backbone.get('plugins')),
        tuple(backbone.get('out_indices') or ()),
    )


def try_config(name: str, backbone: str) -> Outcome:
    """Swap the backbone, ``NAME`` or ``NAME:WIDTH``, of a config and exercise the result."""
    init_default_scope('mmdet')
    detector = old = ''

    def outcome(result: str, why: str = '') -> Outcome:
        for folder in (mmdet_folder(), mmdet_folder().parents[2]):  # no paths of this machine
            why = why.replace(f'{folder}/', '')
        why = ' '.join(why.partition(', the current sys.path')[0].split())
        return Outcome(stack(), name.removeprefix(MMDET), detector, old, backbone, result, why)

    try:
        source = load_config(name)
    except UserError as error:
        return outcome('unreadable', str(error).removeprefix(f'{name}: '))
    detector = str(source.model.get('type'))
    network, settings = parse_backbone(backbone)
    try:
        swapped = swap(source, network, 'none', **settings)
    except UserError as error:
        return outcome('refused', str(error).partition('cannot be swapped: ')[2] or str(error))
    was, now = (get_path(cfg, swapped.place) for cfg in (source, swapped.config))
    old = str(was.backbone.type)
    wrapper = swapped.config.get('optim_wrapper') if len(swapped.place) == 1 else None
    try:
        exercise(now, _full_precision(wrapper))
    except Exception as error:
        after = reason(error)
        try:
            exercise(was)
        except Exception as before:
            return outcome('in part', reason(before))
        return outcome('fails', after)
    return outcome('works')


def _full_precision(wrapper: Any) -> Any:
    """Return an optimizer's config without the loss scale of a GPU, and without accumulation."""
    if not wrapper:
        return wrapper
    kept = ('optimizer', 'paramwise_cfg', 'clip_grad', 'constructor')
    return ConfigDict({key: value for key, value in wrapper.items() if key in kept}, type='OptimWrapper')


def _send(pipe: Any, name: str, backbone: str) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # a line for each tensor that is initialised
    warnings.simplefilter('ignore')
    pipe.send(try_config(name, backbone))


def _try_in_process(name: str, backbone: str, seconds: float) -> Outcome:
    """Run `try_config` in a process of its own: neither a crash nor a loop ends the others."""
    context = multiprocessing.get_context()
    with _STARTING:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(there, name, backbone), daemon=True)
        process.start()
        there.close()
    try:
        if here.poll(seconds):
            outcome: Outcome = here.recv()
            return outcome
        why = f'not done after {seconds:g} s'
    except EOFError:
        process.join()
        why = f'its process ended with exit code {process.exitcode}'
    finally:
        process.kill()
        process.join()
    return Outcome(stack(), name.removeprefix(MMDET), '', '', backbone, 'fails', why)


def sweep(configs: Sequence[str], backbone: str, jobs: int = 1, seconds: float = 600) -> list[Outcome]:
    """Run `try_config` on many configs, ``jobs`` at once, of one thread each; see `find_configs`."""
    if MODELS.get(parse_backbone(backbone)[0]) is None:
        raise UserError(f'--backbone {backbone}: there is no such backbone; ours are {", ".join(BACKBONES)}')
    with ThreadPoolExecutor(jobs) as pool:
        rows = pool.map(lambda name: _try_in_process(name, backbone, seconds), configs)
        return list(tqdm(rows, total=len(configs), unit='config'))


def stack() -> str:
    """Return the distribution of mmdet that is installed, and its version."""
    return ' '.join(*versions(('mmdet', 'onedl-mmdetection')).items())


def read_rows(path: Path) -> list[Outcome]:
    """Read the rows of a CSV; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline='', encoding='utf-8') as file:
        return [Outcome(**row) for row in csv.DictReader(file)]


def write_rows(path: Path, rows: Iterable[Outcome]) -> None:
    """Write rows as CSV, sorted, and next to it a page of Markdown about them."""
    rows = sorted(rows)
    with write_or_fail(path, '-o') as partial, partial.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerows([Outcome._fields, *rows])
    with write_or_fail(path.with_suffix('.md'), '-o') as partial:
        partial.write_text(page(rows, path.name), encoding='utf-8')


def page(rows: Sequence[Outcome], source: str) -> str:
    """Return a page of Markdown: counts by stack and result, and all that does not work, by reason."""
    stacks = sorted({row.stack for row in rows}, reverse=True)
    counts = collections.Counter((row.stack, row.result) for row in rows)
    reasons: dict[tuple[str, str], dict[str, set[str]]] = {}
    for row in rows:
        if row.result != 'works':
            configs = reasons.setdefault((row.result, row.reason), {})
            configs.setdefault(row.config, set()).add(row.stack)
    lines = [
        f'# {rows[0].new_backbone} under every kind of detector of MMDetection',
        '',
        'From each folder of configs that MMDetection ships: one config for each combination of detector,',
        'backbone, neck, heads and deformable convolution.',
        '',
        f'[{source}]({source}) has a row for each. `make sweep` runs it again with the installed packages.',
        '',
        f'| result | {" | ".join(stacks)} | meaning |',
        '|---' * (len(stacks) + 2) + '|',
    ]
    for result, meaning in RESULTS.items():
        lines.append(f'| {result} | {" | ".join(str(counts[each, result]) for each in stacks)} | {meaning} |')
    lines += ['', '## What does not work', '', '| result | reason | configs |', '|---|---|---|']
    for result, why in sorted(reasons, key=lambda key: (list(RESULTS).index(key[0]), key[1])):
        names = [
            config if len(found) == len(stacks) else f'{config} ({", ".join(found)})'
            for config, found in sorted(reasons[result, why].items())
        ]
        why = why.replace('|', '\\|').replace('<', '&lt;')
        lines.append(f'| {result} | {why} | {"<br>".join(names)} |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    folders = "of mmdet's configs, or mmdet::NAME configs (default: all)"
    parser.add_argument('folders', nargs='*', help=folders)
    parser.add_argument('--backbone', default='GhostNet', metavar='NAME[:WIDTH]', help='default: GhostNet')
    out = 'its rows of the installed stack are replaced; a page is written to FILE.md'
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.csv', help=out)
    parser.add_argument('--jobs', type=int, default=cores(), help='at once, of one thread each')
    parser.add_argument('--timeout', type=float, default=600, help='seconds for one config (default: 600)')
    args = parser.parse_args()
    require_writable(args.out, '-o')  # now, not after an hour
    outcomes = sweep(find_configs(args.folders), args.backbone, args.jobs, args.timeout)
    package = stack().split()[0]
    others = [row for row in read_rows(args.out) if row.stack.split()[0] != package]
    write_rows(args.out, [*others, *outcomes])
    failed = [each.config for each in outcomes if each.result == 'fails']
    if failed:
        raise UserError(f'{len(failed)} of {len(outcomes)} fail: {", ".join(failed)}')
    print(f'{len(outcomes)} configs, none fails', file=sys.stderr)


if __name__ == '__main__':
    run_tool(main)
