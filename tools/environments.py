"""The wheel in fresh environments, as users have them: pip changes no package, and mmdet's programs run.

python -m tools.environments FOLDER [NAME ...]  # needs Python 3.10 to 3.13 on PATH, and 7 GB at a time
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ghost_det.data.sample import make_sample

ROOT = Path(__file__).resolve().parents[1]
OLD = 'numpy<2 setuptools<81'  # mmengine needs pkg_resources
FORK = 'onedl-mmengine onedl-mmcv onedl-mmdetection==3.5.1'
ROWS = {
    'torch2.0': f'3.10 torch==2.0.1 {OLD} yapf==0.40.1 mmengine==0.7.4 mmcv-lite==2.0.0 mmdet==3.0.0',
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
HEAVY = re.compile('torch|numpy|opencv|onedl|mm(cv|det|engine)')
RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
CONFIG = """
_base_ = 'swapped.py'
train_cfg = dict(max_epochs=1)
model = dict(bbox_head=dict(num_classes=6))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
steps = dict(type='Resize', scale=(320, 320)), dict(type='RandomFlip', prob=0.0), dict(type='PackDetInputs')
classes = ('disc', 'ring', 'square', 'triangle', 'star', 'cross')
dataset = dict(data_root='data/', metainfo=dict(classes=classes), pipeline=[*load, *steps])
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = test_dataloader = train_dataloader
val_evaluator = test_evaluator = dict(ann_file='data/annotations/instances_val2017.json')
"""
# Without compiled operators, mmdet's test.py needs our import before mmdet's.
SCRIPT = 'import ghost_det, runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name="__main__")'


def steps(packages: str, bin: Path, tests: Path) -> Iterator[tuple[str, list[str | Path]]]:
    """Yield the title and the command line of each program."""
    python, ours = bin / 'python', bin / 'ghost-det'
    yield 'import', [python, '-c', 'import ghost_det']
    yield 'doctor', [ours, 'doctor']
    if 'mmdet' in packages:
        yield 'swap', [ours, 'swap', RETINANET, '--pretrained', 'none', '-o', 'swapped.py']
        tools = next(bin.parent.glob('lib/python*/site-packages/mmdet/.mim/tools'))
        run = [python] if ' mmcv==' in packages else [python, '-c', SCRIPT]
        yield 'train.py', [*run, tools / 'train.py', 'mine.py', '--work-dir', 'run']
        # mmengine cannot load its own checkpoints with torch 2.6 or newer otherwise; the fork can.
        trust = ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1'] if ' mmengine==' in packages else []
        test = ['env', *trust, *run, tools / 'test.py', 'mine.py', 'run/epoch_1.pth']
        yield 'test.py', [*test, '--work-dir', 'run']
    files = ['models/test_ghostnet.py', *(['weights/test_checkpoint.py'] if 'mmdet' in packages else [])]
    which = ['-k', 'exported or frozen or checkpoint', *(tests / name for name in files)]
    yield 'tests', [python, '-m', 'pytest', '-q', *which]


def call(folder: Path, title: str, words: list[str | Path]) -> str:
    """Run a program in a folder and return what it printed, or raise with its last words."""
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (folder / f'{title}.log').write_text(done.stdout)
    if done.returncode:
        raise RuntimeError(f'{title}: exit code {done.returncode}: {" ".join(done.stdout[-300:].split())}')
    return done.stdout


def examine(name: str, folder: Path, wheel: Path) -> str:
    """Make an environment, run everything in it, delete it, and return its row of the table."""
    version, *packages = ROWS[name].split()
    make_sample(folder / 'cache', train=4, val=2).rename(folder / 'data')
    (folder / 'mine.py').write_text(CONFIG)
    bin, ran = folder / 'venv/bin', []
    install = [bin / 'python', '-m', 'pip', 'install', '--no-compile']
    call(folder, 'venv', [f'python{version}', '-m', 'venv', 'venv'])
    call(folder, 'install', [*install, *packages, 'torchvision'])
    frozen = call(folder, 'freeze', [bin / 'python', '-m', 'pip', 'freeze']).replace('_', '-').lower()
    call(folder, 'dry-run', [*install, '--dry-run', '--report', 'report.json', wheel])
    report = json.loads((folder / 'report.json').read_text())['install']
    added = {each['metadata']['name'].replace('_', '-').lower() for each in report} - {'ghost-det'}
    problems = [f'pip takes {each}' for each in added if f'\n{each}==' in frozen or HEAVY.match(each)]
    call(folder, 'wheel', [*install, wheel])
    tests = ['--no-deps', 'timm', 'pytest', 'pytest-timeout', 'pluggy', 'iniconfig', 'pygments']
    call(folder, 'pytest', [*install, *tests])
    for title, words in steps(ROWS[name], bin, wheel.parent / 'source/tests'):
        start = time.monotonic()
        try:
            call(folder, title, words)
        except RuntimeError as error:
            problems.append(str(error))
        ran.append(f'{title} {time.monotonic() - start:.0f}')
    shutil.rmtree(folder / 'venv')
    versions = ', '.join(line for line in frozen.split() if HEAVY.match(line)).replace('==', ' ')
    result = (
        'refused by mmdet' if 'is used but incompatible' in str(problems) else '; '.join(problems) or 'works'
    )
    return f'| {name} | {version} | {versions} | {", ".join(sorted(added))} | {", ".join(ran)} | {result} |'


def main() -> None:
    os.environ.pop('PYTHONPATH', None)
    out, results = Path(sys.argv[1]).resolve(), []
    out.mkdir(parents=True)
    call(out, 'clone', ['git', 'clone', '-q', ROOT, 'source'])
    call(out, 'build', [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-w', out, out / 'source'])
    (wheel,) = out.glob('*.whl')
    for name in sys.argv[2:] or ROWS:
        print(row := examine(name, out / name, wheel), flush=True)
        results.append(row.endswith(('| works |', '| refused by mmdet |')))
    sys.exit(not all(results))


if __name__ == '__main__':
    main()
