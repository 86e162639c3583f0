"""Examine the installation: python tools/doctor.py. Works where ghost_det itself cannot be imported."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[1] / f'ghost_det/{name}.py'
    spec = importlib.util.spec_from_file_location(f'ghost_det_{name}', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    argparse.ArgumentParser(description='Examine this installation, and say how to mend it.').parse_args()
    sys.exit(load('doctor').main())


if __name__ == '__main__':
    load('errors').run_tool(main)
