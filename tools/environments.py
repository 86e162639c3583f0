"""Install the wheel into fresh environments, as users have them, and run mmdet's own programs there.

    python -m tools.environments -o FOLDER [NAME ...]

needs Python 3.10 to 3.13 on PATH or in pyenv's folder, PyPI, and 7 GB of disk at a time. The logs stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLD = 'numpy<2 setuptools<81'  # mmengine needs pkg_resources
FORK = 'onedl-mmengine onedl-mmcv onedl-mmdetection==3.5.1'
ROWS = {
    'torch2.0': f'3.10 torch==2.0.1 {OLD} mmengine==0.7.4 mmcv-lite==2.0.0 mmdet==3.0.0',
    'torch2.1': f'3.10 torch==2.1.2 {OLD} mmengine==0.8.5 mmcv-lite==2.0.1 mmdet==3.1.0',
    'mmdet3.2': f'3.11 torch==2.1.2 {OLD} mmengine==0.10.3 mmcv-lite==2.1.0 mmdet==3.2.0',
    'compiled': f'3.11 torch==2.1.2 {OLD} mmengine==0.10.7 mmcv==2.1.0 mmdet==3.3.0',
    'mmcv2.2': f'3.11 torch==2.1.2 {OLD} mmengine==0.10.7 mmcv-lite==2.2.0 mmdet==3.3.0',
    'torch2.4': f'3.12 torch==2.4.1 {OLD} mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0',
    'no-mm': '3.12 torch==2.4.1 numpy>=2',
    'torch2.6': '3.12 torch==2.6.0 onedl-mmengine onedl-mmcv onedl-mmdetection==3.4.7',
    'torch2.6-py3.13': f'3.13 torch==2.6.0 {FORK}',
    'torch2.14-py3.10': f'3.10 torch==2.14.1 {FORK}',
    'torch2.14-py3.13': f'3.13 torch==2.14.1 {FORK}',
    'official': '3.12 torch==2.14.1 setuptools<81 mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0',
}
"""Python and packages of each environment; torchvision is the one that pip takes for this torch."""
REFUSED = {'mmcv2.2': 'MMCV==2.2.0 is used but incompatible'}  # by mmdet itself, which says so
HEAVY = re.compile('torch|numpy|opencv|onedl|mm(cv|det|engine)')

NETWORKS = """
import torch, ghost_det.models as models
for name, network in models.NETWORKS.items():
    net = network(width=0.5)
    sum(level.mean() for level in net(torch.rand(2, 3, 96, 96))).backward()
    assert all(p.grad is not None for p in net.parameters()), name
print(*models.NETWORKS)
"""
DATA = """
from pathlib import Path
from ghost_det.data.sample import make_sample
make_sample(Path('cache'), train=4, val=2).rename('data')
Path('mine.py').write_text('''
_base_ = 'swapped.py'
train_cfg = dict(max_epochs=1)
model = dict(bbox_head=dict(num_classes=6))
classes = ('disc', 'ring', 'square', 'triangle', 'star', 'cross')
dataset = dict(data_root='data/', metainfo=dict(classes=classes))
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = test_dataloader = train_dataloader
val_evaluator = test_evaluator = dict(ann_file='data/annotations/instances_val2017.json')
''')
"""
# Without compiled operators, mmdet's scripts need our import before mmdet's.
SCRIPT = 'import ghost_det, runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name="__main__")'


def steps(name: str, bin: Path, tests: Path) -> Iterator[tuple[str, list[str | Path], str]]:
    """Yield title, command line and expected words of each program."""
    python, ghost_det, mmdet = bin / 'python', bin / 'ghost-det', 'mmdet' in ROWS[name]
    yield 'import', [python, '-c', 'import ghost_det'], REFUSED.get(name, '')
    if name in REFUSED:
        return
    yield 'networks', [python, '-c', NETWORKS], 'RepGhostNet'
    if mmdet:
        yield 'doctor', [ghost_det, 'doctor'], 'No problems found'
        base = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        swap = [ghost_det, 'swap', base, '--backbone', 'GhostNet', '--pretrained', 'none', '-o', 'swapped.py']
        yield 'swap', swap, 'GhostNet width'
        yield 'data', [python, '-c', DATA], ''
        tools = next(bin.parent.glob('lib/python*/site-packages/mmdet/.mim/tools'))
        run = [python] if ' mmcv==' in ROWS[name] else [python, '-c', SCRIPT]
        places = (('train', 2), ('val', 1), ('test', 1))
        scales = [f'{split}_dataloader.dataset.pipeline.{n}.scale=320,320' for split, n in places]
        tail = ['--work-dir', 'run', '--cfg-options', *scales]
        yield 'train.py', [*run, tools / 'train.py', 'mine.py', *tail], 'bbox_mAP'
        yield 'test.py', [*run, tools / 'test.py', 'mine.py', 'run/epoch_1.pth', *tail], 'bbox_mAP'
    which = [tests / folder for folder in ('models', 'weights', *(['ops'] if mmdet else []))]
    yield 'our tests', [python, '-m', 'pytest', '-q', '-m', 'not slow', *which], 'passed'


def call(folder: Path, title: str, words: list[str | Path], expected: str = '') -> str:
    """Run a program in a folder and return what it printed, or raise with its last words."""
    own = [*map(str, Path.home().glob('.pyenv/versions/*/bin')), os.environ['PATH']]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PATH': ':'.join(own)}
    with open(folder / f'{title}.log', 'w') as log:
        code = subprocess.run(words, cwd=folder, env=env, stdout=log, stderr=log).returncode
    printed = (folder / f'{title}.log').read_text()
    if expected not in printed or (code and expected not in REFUSED.values()):
        raise RuntimeError(f'{title}: exit code {code}: {printed.strip()[-300:]}')
    return printed


def examine(name: str, folder: Path, wheel: Path) -> str:
    """Make an environment, run everything in it, delete it, and return its row of the table."""
    folder.mkdir()
    version, *packages = ROWS[name].split()
    bin, problems, ran = folder / 'venv/bin', [], []
    pip = [bin / 'python', '-m', 'pip', '--disable-pip-version-check']
    call(folder, 'venv', [f'python{version}', '-m', 'venv', 'venv'])
    call(folder, 'install', [*pip, 'install', '-q', *packages, 'torchvision'])
    frozen = dict(re.findall('^(.+)==(.+)$', call(folder, 'freeze', [*pip, 'freeze', '--all']), re.M))
    call(folder, 'dry-run', [*pip, 'install', '--dry-run', '--report', 'report.json', wheel])
    report = json.loads((folder / 'report.json').read_text())['install']
    added = sorted({each['metadata']['name'].lower().replace('_', '-') for each in report} - {'ghost-det'})
    here = {each.lower().replace('_', '-') for each in frozen}
    problems += [f'pip would install {each}' for each in added if each in here or HEAVY.match(each)]
    call(folder, 'wheel', [*pip, 'install', wheel])
    call(
        folder,
        'pytest',
        [*pip, 'install', '--no-deps', 'timm', 'pytest', 'pytest-timeout', 'pluggy', 'iniconfig'],
    )
    for title, words, expected in steps(name, bin, wheel.parent / 'source/tests'):
        start = time.monotonic()
        try:
            call(folder, title, words, expected)
        except RuntimeError as error:
            problems.append(str(error))
        ran.append(f'{title} {time.monotonic() - start:.0f}')
    shutil.rmtree(folder / 'venv')
    versions = ', '.join(f'{key} {value}' for key, value in frozen.items() if HEAVY.match(key))
    result = '; '.join(problems) or ('refused' if name in REFUSED else 'works')
    return f'| {name} | {version} | {versions} | {", ".join(added)} | {", ".join(ran)} | {result} |'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('-o', '--out', type=Path, required=True)
    parser.add_argument('names', nargs='*', default=list(ROWS))
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    source = args.out.resolve() / 'source'
    subprocess.run(['git', 'clone', '-q', ROOT, source], check=True)
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', args.out, source], check=True
    )
    (wheel,) = args.out.resolve().glob('*.whl')
    rows = []
    for name in args.names:
        rows.append(examine(name, args.out.resolve() / name, wheel))
        print(rows[-1], flush=True)
    sys.exit(not all(row.endswith(('| works |', '| refused |')) for row in rows))


if __name__ == '__main__':
    main()
