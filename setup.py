# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Ship configs and tools inside the package, as OpenMMLab's packages do.

Everything else about the package stands in setup.cfg. A wheel gets copies
under ``dito/.mim``; an editable install gets links, so that
``mmengine.hub.get_config('dito::...')`` works the same in both.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_ITEMS = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """``build_py`` that also fills ``dito/.mim``."""

    def run(self) -> None:
        """Build, then copy (wheel) or link (editable install)."""
        if self.editable_mode:
            super().run()
            self._link(ROOT / 'projects' / 'dito' / '.mim')
            return
        target = Path(self.build_lib) / 'dito'
        # Files deleted since the last build must not reach the wheel.
        shutil.rmtree(target, ignore_errors=True)
        super().run()
        self._copy(target / '.mim')

    def _copy(self, mim: Path) -> None:
        mim.mkdir(parents=True, exist_ok=True)
        for item in MIM_ITEMS:
            source = ROOT / item
            if source.is_dir():
                shutil.copytree(
                    source,
                    mim / item,
                    ignore=shutil.ignore_patterns('__pycache__', '*.pyc'),
                )
            else:
                shutil.copy2(source, mim / item)

    def _link(self, mim: Path) -> None:
        mim.mkdir(exist_ok=True)
        for item in MIM_ITEMS:
            link = mim / item
            if link.is_symlink():
                link.unlink()
            link.symlink_to(Path('..', '..', '..', item))


setup(cmdclass={'build_py': BuildWithMim})
