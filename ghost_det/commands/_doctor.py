"""Is this machine's installation sound, and if not, which command mends it?

Needs the standard library alone, so that it runs where everything else is broken. What may fail is tried in
processes of its own.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

STACKS = {
    'mm': ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'),
    'official': ('mmengine', 'mmcv-lite', 'mmdet'),
}
COMPILED = ('mmcv', 'mmcv-full')
NEEDED = ('torch', 'torchvision', 'huggingface_hub', 'safetensors')
ENGINES = ('openvino', 'onnxruntime')
SECONDS = 120
ROOT = Path(__file__).resolve().parents[2]
PIP = f'{sys.executable} -m pip'
TORCH = f'{PIP} install --force-reinstall torch==2.14.1 torchvision==0.29.1'


def _install(stack: str = 'mm') -> str:
    """Return the command that installs ghost_det with a stack, in the tested versions."""
    pins = ROOT / f'constraints/{"official" if stack == "official" else "default"}.txt'
    return f'{PIP} install ' + (
        f'-c {pins} -e "{ROOT}[{stack}]"' if pins.exists() else f'"ghost-det[{stack}]"'
    )


class Finding(NamedTuple):
    """One line of the report; ``mend`` is a command, or words, where something is wrong."""

    what: str
    mend: str | None = None


def examine() -> Iterator[Finding]:
    """Yield what is found, part by part; later parts are left out where earlier ones make them moot."""
    yield _python()
    if not any(map(_installed, ['torch', *STACKS['mm'], *STACKS['official']])) and any(
        map(_installed, ENGINES)
    ):
        yield from _runtime()
        return
    yield from _packages()
    yield from _files()
    torch_works = True
    for finding in _torch():
        torch_works &= finding.mend is None
        yield finding
    yield from _opencv()
    yield from _setuptools()
    if torch_works:
        yield from _ghost_det()
    yield from _folders()


def _python() -> Finding:
    version = '.'.join(map(str, sys.version_info[:3]))
    what = f'Python {version}, {sys.executable}'
    if (3, 10) <= sys.version_info[:2] < (3, 14):
        return Finding(what)
    return Finding(what, 'Python 3.10 to 3.13 is needed: make setup PYTHON=python3.12')


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _runtime() -> Iterator[Finding]:
    """Examine an installation that runs exported detectors and has no torch."""
    for name in ENGINES:
        if _installed(name):
            yield Finding(f'{name} {_installed(name)}')
    yield from _opencv()
    works, said = _run(f'import ghost_det.deploy.detect, {", ".join(filter(_installed, ENGINES))}; print(1)')
    if works:
        yield Finding('ghost_det.deploy runs exported detectors; no torch, so nothing is trained here')
    else:
        yield Finding(f'ghost_det.deploy does not load: {said}', _install('runtime'))


def _packages() -> Iterator[Finding]:
    """Which stack is here: one of the two, whole, and nothing of the other."""
    for name in NEEDED:
        found = _installed(name)
        if found is None:
            yield Finding(f'{name} is not installed', _install())
        else:
            yield Finding(f'{name} {found}')
    here = {stack: [n for n in names if _installed(n)] for stack, names in STACKS.items()}
    compiled = [name for name in COMPILED if _installed(name)]
    listing = ', '.join(f'{n} {_installed(n)}' for n in [*here['mm'], *here['official'], *compiled])
    if here['mm'] and here['official']:
        every = ' '.join([*here['mm'], *here['official'], *compiled])
        yield Finding(
            f'both stacks are installed, one over the other: {listing}',
            f'{PIP} uninstall -y {every} && {_install()}',
        )
    elif not here['mm'] and not here['official']:
        yield Finding('neither stack is installed: no mmengine, no mmdet', _install())
    else:
        stack = 'mm' if here['mm'] else 'official'
        lacking = [n for n in STACKS[stack] if n not in here[stack] and not (compiled and 'mmcv' in n)]
        if lacking:
            yield Finding(f'{listing}, but not {", ".join(lacking)}', _install(stack))
        else:
            yield Finding(f'stack {"default" if stack == "mm" else stack}: {listing}')


def _files() -> Iterator[Finding]:
    """Are the packages' files those that were installed? A package laid over another changes them."""
    for name in [*STACKS['mm'], *STACKS['official'], *COMPILED]:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        wrong = [str(file) for file in files if file.hash and not _is_as_recorded(file)]
        if wrong:
            version = _installed(name)
            yield Finding(
                f'{name} {version}: {len(wrong)} of {len(files)} files are missing or changed, as {wrong[0]}',
                f'{PIP} install --force-reinstall --no-deps {name}=={version}',
            )


def _is_as_recorded(file: metadata.PackagePath) -> bool:
    path = Path(str(file.locate()))
    if file.hash is None or not path.is_file():
        return path.is_file()
    digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b'=').decode() == file.hash.value


def _run(code: str) -> tuple[bool, str]:
    """Run Python code in a process of its own; return whether it went well, and its last line or error."""
    try:
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f'no answer in {SECONDS} s'
    if done.returncode == 0:
        return True, done.stdout.strip().rpartition('\n')[2]
    errors = re.findall(r'^[\w.]+(?:Error|Exception)\b.*', done.stderr, re.MULTILINE)
    return False, errors[-1] if errors else f'exit code {done.returncode}: {done.stderr.strip()[-200:]}'


def _torch() -> Iterator[Finding]:
    if not _installed('torch'):
        return
    works, said = _run('import torch; print(torch.version.cuda or "", torch.cuda.is_available())')
    if not works:
        yield Finding(
            f'torch does not load: {said}',
            TORCH,
        )
        return
    cuda, available = said.rpartition(' ')[::2]
    driver = _driver()
    if available == 'True':
        yield Finding(f'torch sees a GPU: CUDA {cuda}, driver {driver}')
    elif driver and cuda:
        yield Finding(
            f'a GPU is here with driver {driver}, but torch, built for CUDA {cuda}, does not see it',
            f'update the driver to one for CUDA {cuda}, or choose a torch for yours: https://pytorch.org',
        )
    elif driver:
        yield Finding(
            f'a GPU is here with driver {driver}, but torch is built for the CPU alone',
            f'{PIP} install --force-reinstall torch==2.14.1',
        )
    else:
        yield Finding(f'no GPU; torch will use {len(_cores())} CPU cores')
    if _installed('torchvision'):
        works, said = _run('import torch, torchvision; torch.ops.torchvision.nms; print()')
        if not works:
            yield Finding(
                f'torchvision {_installed("torchvision")} does not fit torch {_installed("torch")}: {said}',
                TORCH,
            )


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else set(range(os.cpu_count() or 1))


def _driver() -> str | None:
    tool = shutil.which('nvidia-smi')
    if tool is None:
        return None
    query = [tool, '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None


def _opencv() -> Iterator[Finding]:
    works, said = _run('import cv2; print(cv2.__version__)')
    if works:
        yield Finding(f'OpenCV {said}')
    elif 'libGL' in said or 'libgthread' in said:
        yield Finding(
            f'OpenCV does not load: {said}',
            f'{PIP} install --force-reinstall --no-deps opencv-python-headless',
        )
    else:
        yield Finding(f'OpenCV does not load: {said}', f'{PIP} install --force-reinstall opencv-python')


def _setuptools() -> Iterator[Finding]:
    """Look for a trap: mmengine 0.10.7 finds ``mmdet::`` by pkg_resources, which setuptools 81 dropped."""
    if _installed('mmengine') and not _run('import pkg_resources')[0]:
        yield Finding(
            f'setuptools {_installed("setuptools")} has no pkg_resources, which mmengine '
            f'{_installed("mmengine")} needs for configs that inherit from mmdet::',
            f"{PIP} install 'setuptools<81'",
        )


_SELF_TEST = """
import time, warnings
warnings.simplefilter('ignore')
start = time.time()
import torch, ghost_det.register
from ghost_det.ops import ensure_ops
from mmcv.ops import nms, RoIAlign
imported = time.time() - start
model = ghost_det.GhostNet(width=0.5)
sum(m.mean() for m in model(torch.rand(2, 3, 96, 96))).backward()
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 30., 30.]])
assert len(nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1]) == 2
assert RoIAlign(2)(torch.rand(1, 3, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]])).shape == (1, 3, 2, 2)
ran = time.time() - start - imported
print(f'{ensure_ops()} {ghost_det.__version__} {imported:.1f} {ran:.1f} {ghost_det.__file__}')
"""


def _ghost_det() -> Iterator[Finding]:
    works, said = _run(_SELF_TEST)
    if not works:
        text = f'the self-test fails: {said}'
        if "No module named 'ghost_det'" in said:
            yield Finding(text, _install())
        elif "mmcv's compiled operators do not load" in said:
            yield Finding(text, f'{PIP} uninstall -y {" ".join(COMPILED)} && {_install()}')
        else:
            yield Finding(text, _install())
        return
    kind, version, imported, ran, where = said.split(maxsplit=4)
    ops = 'compiled, by mmcv' if kind == 'compiled' else "ghost_det's stand-ins on torch and torchvision"
    yield Finding(f'ghost_det {version}, {where}')
    yield Finding(f"mmcv's operators: {ops}")
    yield Finding(f'self-test: imported in {imported} s, a training step and the operators in {ran} s')


def _folders() -> Iterator[Finding]:
    """Can caches and results be written?"""
    home = Path.home()
    cache = Path(os.environ.get('XDG_CACHE_HOME', home / '.cache'))
    hub = Path(os.environ.get('HF_HOME', cache / 'huggingface'))
    folders = {
        'GHOST_DET_CACHE': Path(os.environ.get('GHOST_DET_CACHE', cache / 'ghost_det')),
        'HF_HUB_CACHE': Path(os.environ.get('HF_HUB_CACHE', hub / 'hub')),
        'TORCH_HOME': Path(os.environ.get('TORCH_HOME', cache / 'torch')),
        '--work-dir': Path('work_dirs'),
    }
    for name, folder in folders.items():
        place = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK):
            why = 'not writable' if place.is_dir() else 'no folder'
            yield Finding(
                f'{folder} cannot be written ({place} is {why})',
                f'chown it to you, or name another: {name}'
                + (' FOLDER' if name.startswith('-') else '=FOLDER'),
            )
        elif shutil.disk_usage(place).free < 2**30:
            free = shutil.disk_usage(place).free / 2**20
            yield Finding(f'{folder}: {free:.0f} MB of disk are free', f'make room, or set {name}')


def main() -> int:
    """Print what `examine` finds; return how many faults there are, at most 1 for the exit code."""
    faults = 0
    for finding in examine():
        if finding.mend is None:
            print(f'   ok  {finding.what}', flush=True)
        else:
            faults += 1
            print(f'FAULT  {finding.what}\n       mend it: {finding.mend}', flush=True)
    print(f'{faults} fault{"s" * (faults != 1)} found' if faults else 'All is well.')
    return min(faults, 1)
