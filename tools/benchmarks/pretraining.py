"""What a pretrained start is worth, and how other detectors compare, on data sets of your own.

python -m tools.benchmarks.pretraining --data kangaroo:36 chess:24 --start scratch ghostnet mosaics --out runs
python -m tools.benchmarks.pretraining --data kangaroo:36 chess:24 --start rtmdet-tiny yolox-nano --out runs
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
from ghost_det.config.load import load_config
from ghost_det.errors import UserError
from ghost_det.weights.load import read_tensors

from ._common import run

CONFIG = Path(__file__).parents[2] / 'configs/gfl_ghostnet_ghostpan_lite.py'
RETINANET = CONFIG.with_name('retinanet_ghostnet_fpn_lite.py')
_MOBILENET = dict(type='MobileNetV2', out_indices=(1, 2, 4, 6))
_RESNET = dict(type='ResNet', depth=18, num_stages=4, out_indices=(0, 1, 2, 3), norm_cfg=dict(type='BN'))
STARTS = {'scratch': 'none', 'ghostnet': 'ghostnet_100.tin', 'mosaics': 'gfl_ghostnet.tin'}
"""What our detector starts from, by the option ``--pretrained``."""
BACKBONES = {
    'mobilenet-scratch': (_MOBILENET, [24, 32, 96, 320]),
    'mobilenet': (_MOBILENET, [24, 32, 96, 320]),
    'resnet18-scratch': (_RESNET, [64, 128, 256, 512]),
}
"""Other backbones for it, and their channels."""
PEERS = {
    'rtmdet-tiny': 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'ssdlite-scratch': 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'ssdlite': 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'yolox-nano': 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py',
}
"""Other detectors, by the schedule of ours: their own are for 300 epochs and up to 256 images a step."""
IMAGENET = ('mobilenet', 'ssdlite')  # by torchvision's weights
POINTS = 4  # evaluations in a run, at equal distances


def train(data: Path, epochs: int, start: str, seed: int, args: argparse.Namespace) -> None:
    """Train a detector, and note the figures of its evaluations."""
    folder = args.out / f'{data.name}-{epochs}-{start}-{seed}'
    weights = args.mobilenet if start in IMAGENET else getattr(args, start, None) or STARTS.get(start, 'none')
    settings = dict(folder=str(data.resolve()), weights=str(weights), options=args.options)
    if (folder / 'figures.json').exists():
        found = json.loads((folder / 'figures.json').read_text())
        if any(found.get(name, value) != value for name, value in settings.items()):
            raise UserError(f'{folder}: was made with other data, weights or options; choose another --out')
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = config_of(start, args.mobilenet, folder)
    config.randomness = dict(seed=seed)
    config.dump(folder / 'config.py')
    command = [sys.executable, '-m', 'ghost_det', 'train', str(folder / 'config.py'), '--data', str(data)]
    command += ['--epochs', str(epochs), '--work-dir', str(folder / 'run')]
    if start in STARTS:
        command += ['--pretrained', str(weights)]
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
    figures = dict(data=data.name, start=start, seed=seed, epochs=epochs, **settings)
    figures['seconds'] = time.monotonic() - began
    (folder / 'figures.json').write_text(json.dumps({**figures, 'curve': curve}))
    for checkpoint in (folder / 'run').glob('*.pth'):
        checkpoint.unlink()
    print(figures | {'AP': curve[-1][1], 'AP50': curve[-1][2]}, flush=True)


def config_of(start: str, mobilenet: Path, folder: Path) -> Any:
    """Return the config of a detector; the weights of a MobileNetV2 are written into the folder."""
    if start == 'retinanet':
        return load_config(RETINANET)
    config = load_config(CONFIG)
    if start in STARTS:
        return config
    config.load_from = None
    if start in PEERS:
        peer, ours = load_config(PEERS[start]), config.model.data_preprocessor
        config.model = peer.model
        config.model.backbone.init_cfg = None
        if 'ssd' in start:  # its anchors need images of 320 x 320
            config.train_dataloader.dataset.pipeline = peer.train_dataloader.dataset.dataset.pipeline
            config.val_dataloader.dataset.pipeline = peer.val_dataloader.dataset.pipeline
            config.test_dataloader = config.val_dataloader
        else:
            sizes = dict(batch_augments=ours.batch_augments, pad_size_divisor=ours.pad_size_divisor)
            config.model.data_preprocessor.update(sizes)
    else:
        backbone, channels = BACKBONES[start]
        config.model.backbone = backbone
        config.model.neck.in_channels = channels
    if start in IMAGENET:
        renamed = folder / 'mobilenet_v2.pth'
        rename(mobilenet, renamed)
        config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(renamed))
    return config


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


def folder_and_epochs(text: str) -> tuple[Path, int]:
    folder, _, epochs = text.rpartition(':')
    return Path(folder), int(epochs)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [*STARTS, *BACKBONES, 'retinanet', *PEERS]
    parser.add_argument('--data', nargs='+', default=[], type=folder_and_epochs, metavar='FOLDER:EPOCHS')
    parser.add_argument('--start', nargs='+', choices=every, default=[*STARTS, *BACKBONES])
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
    if args.data and {*IMAGENET} & {*args.start} and args.mobilenet is None:
        parser.error(f'--start {" and ".join(IMAGENET)}: need --mobilenet FILE')
    if not args.table:
        for seed in args.seeds:
            for data, epochs in args.data:
                for start in args.start:
                    train(data, epochs, start, seed, args)
    print(table(args.out))


if __name__ == '__main__':
    run(main)
