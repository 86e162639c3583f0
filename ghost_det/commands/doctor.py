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
ENGINES = ('openvino', 'onnxruntime')
ROOT = Path(__file__).resolve().parents[2]
PIP = f'{sys.executable} -m pip'
REINSTALL = f'{PIP} install --force-reinstall'
TORCH = f'{REINSTALL} torch==2.14.1 torchvision==0.29.1'
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
    yield _stack()
    imports = [_try(*each) for each in (*IMPORTS, *([PKG_RESOURCES] if versions(['mmengine']) else []))]
    yield from imports
    if all(fix is None for _, fix in imports):
        yield _gpu()
        yield _self_test()


def _install(stack: str = 'mm') -> str:
    """Return the command that installs ghost_det with a stack in the tested versions."""
    pins = ROOT / f'constraints/{"official" if stack == "official" else "default"}.txt'
    what = f'-c {pins} -e "{ROOT}[{stack}]"' if pins.exists() else f'"ghost-det[{stack}]"'
    return f'{PIP} install {what}'


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
    return f'stack {"default" if stack == "mm" else stack}: {listing}', None


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


def _self_test() -> Finding:
    """Run a network forward and backward, and an operator."""
    works, output = _call(sys.executable, '-c', _SELF_TEST)
    if works:
        return output, None
    fix = _install()
    if "mmcv's compiled operators cannot be loaded" in output:
        fix = f'{PIP} uninstall -y {" ".join(COMPILED)} && {fix}'
    return f'the self-test fails: {output}', fix
