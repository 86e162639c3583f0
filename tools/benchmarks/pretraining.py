"""What a pretrained start is worth: one lite detector from several starts on data sets of your own.

python -m tools.benchmarks.pretraining --data kangaroo:36 chess:30 --start scratch ghostnet mosaics --out runs
python -m tools.benchmarks.pretraining --out runs --table

Each run is a `ghost-det train` of its own with a folder of its own in ``--out``; finished runs are kept, so
the command continues where it was stopped. ``DATA:EPOCHS`` is a folder that `ghost-det train --data` reads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from tabulate import tabulate

import ghost_det.register  # noqa: F401
from ghost_det.errors import UserError
from ghost_det.weights.load import read_tensors

CONFIG = Path(__file__).parents[2] / 'configs/gfl_ghostnet_ghostpan_lite.py'
_OTHER = """
model = dict(
    backbone=dict(_delete_=True, {backbone}),
    neck=dict(in_channels={channels}),
)
"""
_MOBILENET = "type='MobileNetV2', out_indices=(1, 2, 4, 6)"
_RESNET = "type='ResNet', depth=18, num_stages=4, out_indices=(0, 1, 2, 3), norm_cfg=dict(type='BN')"
STARTS: dict[str, tuple[str, list[int], str]] = {
    'scratch': ('', [], 'none'),
    'ghostnet': ('', [], 'ghostnet_100.tin'),
    'mosaics': ('', [], 'gfl_ghostnet.tin'),
    'mobilenet-scratch': (_MOBILENET, [24, 32, 96, 320], ''),
    'mobilenet': (_MOBILENET, [24, 32, 96, 320], 'weights'),
    'resnet18-scratch': (_RESNET, [64, 128, 256, 512], ''),
}
"""Name of a start to the backbone and its channels, if not GhostNet, and to its weights."""
POINTS = 4  # evaluations in a run, at equal distances


def train(data: Path, epochs: int, start: str, seed: int, args: argparse.Namespace) -> None:
    """Train a detector, and note the figures of its evaluations."""
    folder = args.out / f'{data.name}-{epochs}-{start}-{seed}'
    if (folder / 'figures.json').exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    backbone, channels, weights = STARTS[start]
    if weights == 'weights':
        renamed = folder / 'mobilenet_v2.pth'
        rename(args.mobilenet, renamed)
        backbone += f", init_cfg=dict(type='Pretrained', checkpoint={str(renamed)!r})"
    config = folder / 'config.py'
    config.write_text(
        f'_base_ = {str(CONFIG)!r}\nrandomness = dict(seed={seed})\nload_from = None\n'
        + (_OTHER.format(backbone=backbone, channels=channels) if backbone else '')
    )
    command = [sys.executable, '-m', 'ghost_det', 'train', str(config), '--data', str(data)]
    command += ['--epochs', str(epochs), '--work-dir', str(folder / 'run')]
    if not backbone:
        command += ['--pretrained', getattr(args, start, None) or weights]
    command += ['--cfg-options', f'train_cfg.val_interval={max(1, epochs // POINTS)}', *args.options]
    command += [f'default_hooks.checkpoint.interval={epochs}']
    began = time.monotonic()
    with (folder / 'log.txt').open('w') as log:
        result = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        print(f'{folder}/log.txt: {data.name} from {start} failed', flush=True)
        return
    scalars = next((folder / 'run').glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    curve = [
        (line['step'], line['coco/bbox_mAP'], line['coco/bbox_mAP_50'])
        for line in lines
        if 'coco/bbox_mAP' in line
    ]
    figures = dict(data=data.name, start=start, seed=seed, epochs=epochs, seconds=time.monotonic() - began)
    (folder / 'figures.json').write_text(json.dumps({**figures, 'curve': curve}))
    for checkpoint in (folder / 'run').glob('*.pth'):
        checkpoint.unlink()
    print(figures | {'AP': curve[-1][1], 'AP50': curve[-1][2]}, flush=True)


def rename(source: Path, out: Path) -> None:
    """Write torchvision's MobileNetV2 under mmdet's names, which are in the same order."""
    from mmdet.models.backbones import MobileNetV2

    tensors = [value for key, value in read_tensors(source).items() if not key.startswith('classifier.')]
    expected = MobileNetV2().state_dict()
    if [value.shape for value in tensors] != [value.shape for value in expected.values()]:
        raise UserError(f'--mobilenet {source}: not the tensors of MobileNetV2')
    torch.save(dict(zip(expected, tensors)), out)


def table(out: Path) -> str:
    """Return AP and AP50 by data set and start, over the seeds; AP at a quarter and half of the run."""
    found: dict[tuple[str, int, str], list[Any]] = defaultdict(list)
    for path in sorted(out.glob('*/figures.json')):
        figures = json.loads(path.read_text())
        found[figures['data'], figures['epochs'], figures['start']].append(figures)
    rows = []
    for (data, epochs, start), runs in found.items():
        at = [[100 * run['curve'][i][1] for run in runs] for i in (0, len(runs[0]['curve']) // 2 - 1, -1)]
        ap50 = mean(100 * run['curve'][-1][2] for run in runs)
        spread = f' ± {stdev(at[-1]):.1f}' if len(runs) > 1 else ''
        minutes = mean(run['seconds'] for run in runs) / 60
        aps = [f'{mean(values):.1f}' for values in at]
        rows.append(
            (
                data,
                start,
                epochs,
                len(runs),
                *aps[:2],
                aps[2] + spread,
                f'{ap50:.1f}',
                f'{minutes:.1f}',
            )
        )
    head = ('data', 'start', 'epochs', 'seeds', 'AP at 1/4', 'AP at 1/2', 'AP', 'AP50', 'minutes')
    return tabulate(rows, head, 'github', disable_numparse=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', nargs='+', default=[], metavar='FOLDER:EPOCHS')
    parser.add_argument('--start', nargs='+', choices=STARTS, default=[*STARTS])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument(
        '--ghostnet', help='file of weights for this start, instead of those that are included'
    )
    parser.add_argument('--mosaics', help='the same')
    parser.add_argument('--mobilenet', type=Path, help="torchvision's mobilenet_v2-b0353104.pth")
    parser.add_argument(
        '--options', nargs='+', default=[], metavar='KEY=VALUE', help='settings of the config'
    )
    parser.add_argument('--table', action='store_true', help='only print the table of the runs in --out')
    args = parser.parse_args(words)
    if args.data and 'mobilenet' in args.start and args.mobilenet is None:
        parser.error('--start mobilenet needs --mobilenet FILE')
    if not args.table:
        for seed in args.seeds:
            for each in args.data:
                data, _, epochs = each.rpartition(':')
                for start in args.start:
                    train(Path(data), int(epochs), start, seed, args)
    print(table(args.out))


if __name__ == '__main__':
    main()
