"""Imports go down only, and the networks need only torch, the runtime of exported files not even that."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / 'ghost_det'
ORDER = [
    *('errors', 'utils', 'ops', 'models', 'deploy', 'weights', 'config', 'data', 'evaluation', 'swap'),
    *('reports', 'engine', 'export', 'visualization', 'demo', 'commands'),
]
TORCH, MM = {'torch', 'torchvision'}, {'mmengine', 'mmcv', 'mmdet'}
FOREIGN = {'errors': TORCH | MM, 'utils': TORCH | MM, 'deploy': TORCH | MM, 'models': MM, 'weights': MM}
"""What a folder must not import, not even within a function."""
ABOVE = {'register': ORDER, '__init__': ORDER, '__main__': ['commands']}
"""What the modules at the root of the package may import; `register` is for the commands and the demo."""
OWN = {'deploy': ['errors', 'utils'], 'models': ['errors', 'utils']}


def imported(path: Path) -> Iterator[str]:
    """Yield the absolute names of the modules that a file imports, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            yield from (f'{module}.{each.name}' for each in node.names)


@pytest.mark.parametrize(
    'path', sorted(PACKAGE.rglob('*.py')), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_go_down_only(path: Path) -> None:
    folder = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    below = ABOVE.get(folder) or OWN.get(folder) or ORDER[: ORDER.index(folder)]
    allowed = {folder, '__version__', *below, *(['register'] if folder in ('commands', 'demo') else [])}
    for name in imported(path):
        first, _, rest = name.partition('.')
        assert first not in FOREIGN.get(folder, set()), f'{folder} must not import {name}'
        if first == 'ghost_det':
            assert rest.partition('.')[0] in allowed, f'{folder} must not import {name}'


WITHOUT = 'import sys; sys.modules.update(dict.fromkeys({names!r}))\n'
NETWORKS = """
import torch, ghost_det.models as models
x = torch.rand(1, 3, 64, 64)
for name, network in models.NETWORKS.items():
    net = network(width=0.35).eval()
    neck = models.GhostPAN(net.out_channels, out_channels=8, num_outs=5).eval()
    assert [out.shape[2] for out in neck(net(x))] == [16, 8, 4, 2, 1], name
    assert len(models.optimize(models.ghostify(net))(x)) == 4
from ghost_det import feature_extractor, ghostnet_050
assert feature_extractor('ghostnet_050', (1, 3)).out_strides == (8, 32)
print(len(models.NETWORKS))
"""
RUNTIME = """
import importlib, pkgutil, ghost_det.deploy as deploy
names = [each.name for each in pkgutil.iter_modules(deploy.__path__) if each.name not in ('bulk', 'stores')]
for name in names:
    importlib.import_module('ghost_det.deploy.' + name)
print(len(names))
"""


@pytest.mark.parametrize(
    ('absent', 'code'), [(sorted({*MM, 'torchvision'}), NETWORKS), (sorted(TORCH | MM), RUNTIME)]
)
def test_networks_need_no_mm_package_and_the_runtime_no_torch(absent: list[str], code: str) -> None:
    words = [sys.executable, '-c', WITHOUT.format(names=absent) + code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) >= 4, done.stderr
