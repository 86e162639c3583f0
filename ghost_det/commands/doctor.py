"""Examine the installation.

Needs only the standard library, so that it runs where everything else is broken. What may fail is tried in
processes of its own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ghost_det.utils.system import cores, versions
from ghost_det.utils.text import plural

from ._options import Parser, parse

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
REINSTALL = f'{PIP} install --force-reinstall'
TORCH = f'{REINSTALL} torch==2.14.1 torchvision==0.29.1'


class Finding(NamedTuple):
    """One line of the report; ``fix`` is a command, or words, where something is wrong."""

    what: str
    fix: str | None = None


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return Parser(description='Examine this installation, and print how to fix it.')


def main() -> None:
    """Print what is found; exit code 1 where something is wrong."""
    parse(make_parser(), light=True)
    problems = 0
    for finding in examine():
        if finding.fix is None:
            print(f'     ok  {finding.what}', flush=True)
        else:
            problems += 1
            print(f'PROBLEM  {finding.what}\n         fix: {finding.fix}', flush=True)
    print(f'{plural(problems, "problem")} found' if problems else 'No problems found.')
    sys.exit(min(problems, 1))


def examine() -> Iterator[Finding]:
    """Yield what is found, part by part; later parts are left out where earlier ones make them moot."""
    yield _python()
    if not versions(['torch', *STACKS['mm'], *STACKS['official']]) and versions(ENGINES):
        yield from _runtime()
        return
    yield from _packages()
    torch = list(_torch())
    yield from torch
    yield _opencv()
    yield from _setuptools()
    if all(finding.fix is None for finding in torch):
        yield from _self_test()


def _install(stack: str = 'mm') -> str:
    """Return the command that installs ghost_det with a stack, in the tested versions."""
    pins = ROOT / f'constraints/{"official" if stack == "official" else "default"}.txt'
    what = f'-c {pins} -e "{ROOT}[{stack}]"' if pins.exists() else f'"ghost-det[{stack}]"'
    return f'{PIP} install {what}'


def _run(code: str) -> tuple[bool, str]:
    """Run Python code in a process of its own; return whether it went well, and its last line or error."""
    return _call(sys.executable, '-c', code)


def _call(*words: str) -> tuple[bool, str]:
    """Run a program; return whether it went well, and its last line or error."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    except OSError as error:
        return False, str(error)
    except subprocess.TimeoutExpired:
        return False, f'no answer in {SECONDS} s'
    if done.returncode == 0:
        return True, done.stdout.strip().rpartition('\n')[2]
    errors = re.findall(r'^[\w.]+(?:Error|Exception)\b.*', done.stderr, re.MULTILINE)
    return False, errors[-1] if errors else f'exit code {done.returncode}: {done.stderr.strip()[-200:]}'


def _python() -> Finding:
    what = f'Python {".".join(map(str, sys.version_info[:3]))}, {sys.executable}'
    if (3, 10) <= sys.version_info[:2] < (3, 14):
        return Finding(what)
    return Finding(what, 'install Python 3.10 to 3.13: make setup PYTHON=python3.12')


def _runtime() -> Iterator[Finding]:
    """Examine an installation that runs exported detectors and has no torch."""
    engines = versions(ENGINES)
    yield from (Finding(f'{name} {version}') for name, version in engines.items())
    yield _opencv()
    works, said = _run(f'import ghost_det.deploy.detect, {", ".join(engines)}; print(1)')
    if works:
        yield Finding('ghost_det.deploy runs exported detectors; no torch, so nothing is trained here')
    else:
        yield Finding(f'ghost_det.deploy does not load: {said}', _install('runtime'))


def _packages() -> Iterator[Finding]:
    """Examine which stack is here: one of the two, complete, and nothing of the other."""
    for name in NEEDED:
        found = versions([name])
        yield Finding(f'{name} {found[name]}') if found else Finding(f'{name} is not installed', _install())
    here = {stack: versions(names) for stack, names in STACKS.items()}
    compiled = versions(COMPILED)
    every = {**here['mm'], **here['official'], **compiled}
    listing = ', '.join(f'{name} {version}' for name, version in every.items())
    if here['mm'] and here['official']:
        fix = f'{PIP} uninstall -y {" ".join(every)} && {_install()}'
        yield Finding(f'both stacks are installed, one over the other: {listing}', fix)
    elif not here['mm'] and not here['official']:
        yield Finding('neither stack is installed: no mmengine, no mmdet', _install())
    else:
        stack = 'mm' if here['mm'] else 'official'
        absent = [n for n in STACKS[stack] if n not in here[stack] and not (compiled and 'mmcv' in n)]
        if absent:
            yield Finding(f'{listing}, but not {", ".join(absent)}', _install(stack))
        else:
            yield Finding(f'stack {"default" if stack == "mm" else stack}: {listing}')


def _torch() -> Iterator[Finding]:
    found = versions(['torch', 'torchvision'])
    if 'torch' not in found:
        return
    works, said = _run('import torch; print(torch.version.cuda or "", torch.cuda.is_available())')
    if not works:
        yield Finding(f'torch does not load: {said}', TORCH)
        return
    cuda, available = said.rpartition(' ')[::2]
    driver = _driver()
    if available == 'True':
        yield Finding(f'torch sees a GPU: CUDA {cuda}, driver {driver}')
    elif driver and cuda:
        what = f'a GPU is here with driver {driver}, but torch, built for CUDA {cuda}, does not see it'
        fix = f'update the driver to one for CUDA {cuda}, or choose a torch for yours: https://pytorch.org'
        yield Finding(what, fix)
    elif driver:
        what = f'a GPU is here with driver {driver}, but torch is built only for the CPU'
        yield Finding(what, f'{REINSTALL} torch==2.14.1')
    else:
        yield Finding(f'no GPU; torch will use {cores()} CPU cores')
    if 'torchvision' in found:
        works, said = _run('import torch, torchvision; torch.ops.torchvision.nms; print()')
        if not works:
            what = f'torchvision {found["torchvision"]} does not fit torch {found["torch"]}: {said}'
            yield Finding(what, TORCH)


def _driver() -> str | None:
    works, said = _call('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')
    return said if works and said else None


def _opencv() -> Finding:
    works, said = _run('import cv2; print(cv2.__version__)')
    if works:
        return Finding(f'OpenCV {said}')
    lacks_libraries = 'libGL' in said or 'libgthread' in said  # which the headless build does without
    package = '--no-deps opencv-python-headless' if lacks_libraries else 'opencv-python'
    return Finding(f'OpenCV does not load: {said}', f'{REINSTALL} {package}')


def _setuptools() -> Iterator[Finding]:
    """Look for a trap: mmengine 0.10.7 finds ``mmdet::`` by pkg_resources, which setuptools 81 dropped."""
    found = versions(['mmengine', 'setuptools'])
    if 'mmengine' in found and not _run('import pkg_resources')[0]:
        what = (
            f'setuptools {found.get("setuptools")} has no pkg_resources, which mmengine {found["mmengine"]} '
            'needs for configs that inherit from mmdet::'
        )
        yield Finding(what, f"{PIP} install 'setuptools<81'")


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


def _self_test() -> Iterator[Finding]:
    works, said = _run(_SELF_TEST)
    if not works:
        fix = _install()
        if "mmcv's compiled operators do not load" in said:
            fix = f'{PIP} uninstall -y {" ".join(COMPILED)} && {fix}'
        yield Finding(f'the self-test fails: {said}', fix)
        return
    kind, version, imported, ran, where = said.split(maxsplit=4)
    stand_ins = "ghost_det's stand-ins on torch and torchvision"
    yield Finding(f'ghost_det {version}, {where}')
    yield Finding(f"mmcv's operators: {'compiled, by mmcv' if kind == 'compiled' else stand_ins}")
    yield Finding(f'self-test: imported in {imported} s, a training step and the operators in {ran} s')
