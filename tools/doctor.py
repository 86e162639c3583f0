"""Examine the installation: python tools/doctor.py. Works where ghost_det itself cannot be imported."""

import argparse
import importlib.util
import sys
from pathlib import Path


def main() -> None:
    argparse.ArgumentParser(description='Examine this installation, and say how to mend it.').parse_args()
    path = Path(__file__).resolve().parents[1] / 'ghost_det/doctor.py'
    spec = importlib.util.spec_from_file_location('ghost_det_doctor', path)
    assert spec is not None and spec.loader is not None
    doctor = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = doctor
    spec.loader.exec_module(doctor)
    sys.exit(doctor.main())


if __name__ == '__main__':
    main()
