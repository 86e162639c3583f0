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
"""The rows of docs/environments.md, and what `make test` and `make smoke` run."""
ENGINES = ('openvino', 'onnxruntime')
ROOT = Path(__file__).resolve().parents[2]
PIP = f'{sys.executable} -m pip'
REINSTALL = f'{PIP} install --force-reinstall'
# pip chooses the torchvision that fits.
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
    if versions([*STACKS['mm'], *STACKS['official']]) or not versions(['torch']):
        yield _stack()
        imports, test = [*IMPORTS, *([PKG_RESOURCES] if versions(['mmengine']) else [])], _TEST_OPERATORS
    else:
        yield 'no MMDetection: the networks work; to train, install mm (official before torch 2.6)', None
        imports, test = [IMPORTS[0]], ''
    yield from _refusals()
    tried = [_try(*each) for each in imports]
    yield from tried
    if all(fix is None for _, fix in tried):
        yield _gpu()
        yield _self_test(_TEST_NETWORK + test)


def _install(stack: str = 'mm') -> str:
    """Return the command that installs a stack, in the tested versions if there is no torch yet."""
    pins = ROOT / f'constraints/{"official" if stack == "official" else "default"}.txt'
    if not pins.exists():
        return f'{PIP} install "ghost-det[{stack}]"'
    return f'{PIP} install {"" if versions(["torch"]) else f"-c {pins} "}-e "{ROOT}[{stack}]"'


def _call(*words: str) -> tuple[bool, str]:
    """Run a program; return whether it succeeded, and its last line or error."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
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
    """Check that one of the two stacks is installed, completely, and name the combination."""
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
    absent = [name for name in STACKS[stack] if name not in here[stack] and not (compiled and 'mmcv' in name)]
    if absent:
        return f'{listing}, but not {", ".join(absent)}', _install(stack)
    if 'mmcv-lite' in every and compiled:
        fix = f'{PIP} uninstall -y mmcv-lite {" ".join(compiled)}, then install the one that you want'
        return f'two mmcv packages are installed and overwrite each other: {listing}', fix
    torch = versions(['torch'])
    found = {f'{name} {_minor(version)}' for name, version in (torch | every).items()}
    known = any(found >= {*combination} for combination in TESTED)
    status = 'tested' if known else 'should work; not tested in this combination (docs/environments.md)'
    return f'torch {torch.get("torch", "is missing")}, {listing}: {status}', None


def _minor(version: str) -> str:
    return '.'.join(version.split('.')[:2])


def _refusals() -> Iterator[Finding]:
    """Yield the packages with which ghost_det will not work, and why."""
    here = versions(['torch', 'mmdet', 'mmcv', 'numpy'])
    numbers = {name: tuple(map(int, _minor(version).split('.'))) for name, version in here.items()}
    for name, least, why, fix in (
        ('torch', (2, 0), 'ghost_det needs torch 2.0 or newer', "'torch>=2.0' torchvision"),
        ('mmdet', (3, 0), 'this is MMDetection 2; ghost_det needs MMDetection 3', 'mmdet==3.3.0'),
        ('mmcv', (2, 0), 'this is for MMDetection 2; ghost_det needs MMDetection 3', "'mmcv>=2.0,<2.2'"),
    ):
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


_TEST_NETWORK = """
import warnings
warnings.simplefilter('ignore')
import torch, ghost_det
sum(m.mean() for m in ghost_det.GhostNet(width=0.5)(torch.rand(2, 3, 96, 96))).backward()
print(f"ghost_det {ghost_det.__version__} runs; {ghost_det.__file__}")
"""
_TEST_OPERATORS = """
import ghost_det.register
from ghost_det.ops import ensure_ops
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 30., 30.]])
assert len(nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1]) == 2
print(f"ghost_det {ghost_det.__version__} runs; mmcv's operators: {ensure_ops()}; {ghost_det.__file__}")
"""


def _self_test(code: str) -> Finding:
    """Run a network forward and backward and, with mmcv, an operator."""
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
