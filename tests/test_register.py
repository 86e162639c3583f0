"""What an import changes: nothing that belongs to mmdet, mmengine, mmcv or torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.conftest import ROOT

PROGRAM = """
import contextlib, io, json, os, sys, warnings
os.environ['GHOST_DET_RUNTIME'] = '1'
from ghost_det.ops import ensure_ops
ensure_ops()
with contextlib.redirect_stdout(io.StringIO()):
    import mmdet.apis, mmdet.datasets, mmdet.evaluation, mmdet.models
import mmengine.runner, mmengine.hooks, torchvision, torch.utils

OWNERS = ('mmdet', 'mmengine', 'mmcv', 'torch')

def snapshot():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] in OWNERS and module is not None:
            found[name] = dict(vars(module))
            for part in list(vars(module).values()):
                if isinstance(part, type) and part.__module__.partition('.')[0] in OWNERS:
                    found[f'{part.__module__}.{part.__qualname__}'] = dict(vars(part))
    return found

def registered():
    found = {}
    for name, registry in [*vars(mmengine.registry).items(), *vars(mmdet.registry).items()]:
        if isinstance(registry, mmengine.registry.Registry):
            found.update({(registry.scope, name, key): kind for key, kind in registry.module_dict.items()})
    found.update(mmengine.fileio.backends.registry_utils.backends)
    found.update(mmengine.fileio.backends.registry_utils.prefix_to_backends)
    return found | mmengine.runner.CheckpointLoader._schemes

def settings():
    kept = [torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()]
    return kept + [list(warnings.filters), dict(os.environ)]

types, same = registered(), settings()
before = snapshot()  # which keeps what it holds alive: an id stays that of one object
import ghost_det.register
after = snapshot()
changed = [
    f'{owner}.{key}'
    for owner, old in before.items()
    for key in old.keys() | after[owner].keys()
    if key not in old or key not in after[owner] or old[key] is not after[owner][key]
    if f'{owner}.{key}' not in sys.modules  # a submodule is an attribute of its package
    and key != '_schemes'  # of CheckpointLoader, which sorts them again
]
changed += [str(key) for key, kind in types.items() if registered().get(key) is not kind]
print(json.dumps([len(before), same == settings(), changed]))
"""


def test_an_import_changes_nothing_of_others() -> None:
    ours = ('GHOST_DET', 'OPENCV', 'ORT_')  # what an earlier test, or a command, may have set
    env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    done = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    owners, same, changed = json.loads(done.stdout.splitlines()[-1])
    assert owners > 2000 and same and not changed, changed
