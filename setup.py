"""Puts the folder configs/ into wheels, as ghost_det/configs; all the rest is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # then the package finds the folder next to it
            for path, target in self.configs():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)

    def configs(self) -> list[tuple[Path, Path]]:
        build = Path(self.build_lib) / 'ghost_det'
        return [(path, build / path) for path in sorted(Path('configs').rglob('*.py'))]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self.configs())]


setup(cmdclass={'build_py': BuildWithConfigs})
