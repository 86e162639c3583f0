"""Check the installation and print how to fix it.

Exit code: 1 if there are problems.
"""
# Uses only the standard library, because anything else may be broken; what may fail runs in its own process.

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ghost_det.utils.system import cores, versions
from ghost_det.utils.text import plural

STACKS = {
    'mm': ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'),
    'official': ('mmengine', 'mmcv-lite', 'mmdet'),
}
COMPILED = ('mmcv', 'mmcv-full')
TESTED = {
    ('torch 2.0', 'mmdet 3.0', 'mmcv-lite 2.0'),
    ('torch 2.1', 'mmdet 3.1', 'mmcv-lite 2.0'),
    ('torch 2.1', 'mmdet 3.2', 'mmcv-lite 2.1'),
    ('torch 2.1', 'mmdet 3.3', 'mmcv-lite 2.1'),
    ('torch 2.1', 'mmdet 3.3', 'mmcv 2.1'),
    ('torch 2.4', 'mmdet 3.3', 'mmcv-lite 2.1'),
    ('torch 2.6', 'onedl-mmdetection 3.4', 'onedl-mmcv 2.3'),
    ('torch 2.6', 'onedl-mmdetection 3.5', 'onedl-mmcv 2.3'),
    ('torch 2.14', 'onedl-mmdetection 3.5', 'onedl-mmcv 2.3'),
    ('torch 2.14', 'mmdet 3.3', 'mmcv-lite 2.1'),
}
"""Combinations of docs/environments.md."""
ENGINES = ('openvino', 'onnxruntime')
ROOT = Path(__file__).resolve().parents[2]
PIP = f'{sys.executable} -m pip'
REINSTALL = f'{PIP} install --force-reinstall'
# pip chooses the torchvision that was made for this torch.
TORCH = f'{REINSTALL} torch=={versions(["torch"]).get("torch", "2.14.1").partition("+")[0]} torchvision'
OPENCV = ('OpenCV', 'import cv2', f'{REINSTALL} --no-deps opencv-python-headless')
IMPORTS = (
    ('torch', 'import torch', TORCH),
    ('torchvision', 'import torch, torchvision; torch.ops.torchvision.nms', TORCH),
    OPENCV,
)
"""What must work, how to try it, and how to fix it."""
# mmengine 0.10.7 needs it to find mmdet:: configs, and setuptools 81 removed it.
PKG_RESOURCES = ('pkg_resources', 'import pkg_resources', f"{PIP} install 'setuptools<81'")

Finding = tuple[str, str | None]
"""A line of the report and, if it is a problem, its fix."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Do nothing: this command has no options."""


def run(args: argparse.Namespace) -> None:
    """Print what is found; exit code 1 if there are problems."""
    problems = 0
    for what, fix in examine():
        if fix is None:
            print(f'     ok  {what}', flush=True)
        else:
            problems += 1
            print(f'PROBLEM  {what}\n         fix: {fix}', flush=True)
    print(f'{plural(problems, "problem")} found' if problems else 'No problems found.')
    sys.exit(1 if problems else 0)


def examine() -> Iterator[Finding]:
    """Yield what is found, part by part."""
    python = f'Python {".".join(map(str, sys.version_info[:3]))}, {sys.executable}'
    supported = (3, 10) <= sys.version_info[:2] < (3, 14)
    yield python, None if supported else 'install Python 3.10 to 3.13'
    if not versions(['torch', *STACKS['mm'], *STACKS['official']]) and versions(ENGINES):
        yield _try(*OPENCV)
        engines = ', '.join(versions(ENGINES))
        yield _try('the runtime', f'import ghost_det.deploy.detect, {engines}', _install('runtime'))
        return
    imports = [IMPORTS[0]]
    if versions([*STACKS['mm'], *STACKS['official']]) or not versions(['torch']):
        yield _stack()
        imports = [*IMPORTS, *([PKG_RESOURCES] if versions(['mmengine']) else [])]
        test = _SELF_TEST
    else:
        yield (
            'no MMDetection: the networks work without it; to train with our commands, install the extra mm',
            None,
        )
        test = _SELF_TEST_NETWORKS
    yield from _refusals()
    tried = [_try(*each) for each in imports]
    yield from tried
    if all(fix is None for _, fix in tried):
        yield _gpu()
        yield _self_test(test)


def _install(stack: str = 'mm') -> str:
    """Return the command that installs ghost_det with a stack: in the tested versions, or for this torch."""
    pins = ROOT / f'constraints/{"official" if stack == "official" else "default"}.txt'
    what = f'-e "{ROOT}[{stack}]"' if pins.exists() else f'"ghost-det[{stack}]"'
    return f'{PIP} install {f"-c {pins} " if pins.exists() and not versions(["torch"]) else ""}{what}'


def _call(*words: str) -> tuple[bool, str]:
    """Run a program; return whether it succeeded, and its last line or error."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    if done.returncode == 0:
        return True, done.stdout.strip().rpartition('\n')[2]
    errors = re.findall(r'^[\w.]+(?:Error|Exception)\b.*', done.stderr, re.MULTILINE)
    return False, errors[-1] if errors else f'exit code {done.returncode}: {done.stderr.strip()[-200:]}'


def _try(name: str, code: str, fix: str) -> Finding:
    works, output = _call(sys.executable, '-c', code)
    return (f'{name} works', None) if works else (f'{name} does not work: {output}', fix)


def _stack() -> Finding:
    """Check that exactly one of the two stacks is installed, completely."""
    here = {stack: versions(names) for stack, names in STACKS.items()}
    compiled = versions(COMPILED)
    every = {**here['mm'], **here['official'], **compiled}
    listing = ', '.join(f'{name} {version}' for name, version in every.items())
    if all(here.values()):
        fix = f'{PIP} uninstall -y {" ".join(every)} && {_install()}'
        return f'both stacks are installed and overwrite each other: {listing}', fix
    if not any(here.values()):
        return 'neither stack is installed: no mmengine, no mmdet', _install()
    stack = 'mm' if here['mm'] else 'official'
    absent = [n for n in STACKS[stack] if n not in here[stack] and not (compiled and 'mmcv' in n)]
    if absent:
        return f'{listing}, but not {", ".join(absent)}', _install(stack)
    if 'mmcv-lite' in every and compiled:
        fix = f'{PIP} uninstall -y mmcv-lite {" ".join(compiled)} && {PIP} install the one that you want'
        return f'two mmcv are installed and overwrite each other: {listing}', fix
    versions_of = versions(['torch']) | every
    found = {f'{name} {_minor(version)}' for name, version in versions_of.items()}
    known = any(found >= {*combination} for combination in TESTED)
    status = 'tested' if known else 'should work: not tested in this combination (docs/environments.md)'
    return f'torch {versions_of.get("torch")}, {listing}: {status}', None


def _minor(version: str) -> str:
    return '.'.join(version.split('.')[:2])


def _refusals() -> Iterator[Finding]:
    """Yield the packages with which it will not work, and why."""
    rules = (
        ('torch', (2, 0), 'ghost_det needs torch 2.0 or newer', "'torch>=2.0' torchvision"),
        ('mmdet', (3, 0), 'this is MMDetection 2, with other configs; ghost_det needs 3', 'mmdet==3.3.0'),
        ('mmcv', (2, 0), 'this is for MMDetection 2; ghost_det needs MMDetection 3', "'mmcv>=2.0,<2.2'"),
    )
    here = {name: version for name, version in versions(['torch', 'mmdet', 'mmcv', 'numpy']).items()}
    numbers = {
        name: tuple(int(part) for part in _minor(version).split('.')) for name, version in here.items()
    }
    for name, least, why, fix in rules:
        if numbers.get(name, least) < least:
            yield f'{name} {here[name]} will not work: {why}', f'{PIP} install {fix}'
    if numbers.get('numpy', (1,)) >= (2,) and numbers.get('torch', (2, 3)) < (2, 3):
        why = f'torch {here["torch"]} was compiled for numpy 1'
        yield f'numpy {here["numpy"]} will not work: {why}', f"{PIP} install 'numpy<2'"


def _gpu() -> Finding:
    """Check that torch can use the GPU, if there is one."""
    _, output = _call(
        sys.executable, '-c', 'import torch; print(torch.__version__, torch.cuda.is_available())'
    )
    version, _, available = output.partition(' ')
    if available == 'True':
        return f'torch {version} can use a GPU', None
    has_driver, driver = _call('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')
    if not has_driver:
        return f'no GPU; torch will use {cores()} CPU cores', None
    what = f'there is a GPU (driver {driver}), but torch {version} cannot use it'
    return what, 'update the driver, or install a torch built for it: https://pytorch.org'


_SELF_TEST = """
import warnings
warnings.simplefilter('ignore')
import torch, ghost_det.register
from ghost_det.ops import ensure_ops
from mmcv.ops import nms
sum(m.mean() for m in ghost_det.GhostNet(width=0.5)(torch.rand(2, 3, 96, 96))).backward()
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 30., 30.]])
assert len(nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1]) == 2
print(f"ghost_det {ghost_det.__version__} runs; mmcv's operators: {ensure_ops()}; {ghost_det.__file__}")
"""

_SELF_TEST_NETWORKS = """
import torch, ghost_det
from ghost_det.models import GhostNet
sum(m.mean() for m in GhostNet(width=0.5)(torch.rand(2, 3, 96, 96))).backward()
print(f"ghost_det {ghost_det.__version__} runs; torch {torch.__version__}; {ghost_det.__file__}")
"""


def _self_test(code: str) -> Finding:
    """Run a network forward and backward, and an operator."""
    works, output = _call(sys.executable, '-c', code)
    if works:
        return output, None
    fix = _install('mm' if versions(STACKS['mm']) else 'official')
    needed = re.search(r'is used but incompatible.*install (mmcv|mmengine)(\S+ ?\S+?)\.?$', output)
    if needed:  # mmdet's own assertion
        name = next(iter(versions(['mmcv-lite', needed[1]])), needed[1])
        fix = f"{PIP} install '{name}{needed[2]}'"
    if "mmcv's compiled operators cannot be loaded" in output:
        fix = f'{PIP} uninstall -y {" ".join(COMPILED)} && {fix}'
    return f'the self-test fails: {output}', fix
