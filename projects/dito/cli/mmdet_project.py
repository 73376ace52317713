# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""DITO as one of the projects of a clone of MMDetection."""

import re
import shutil
from argparse import Namespace
from pathlib import Path

from dito.utils.configs import PACKAGE, config_root
from dito.utils.files import new_folder
from dito.version import __version__

from .options import command

_OWN_IMPORT = re.compile(
    r"^custom_imports = dict\(imports=\['dito'\]", re.MULTILINE
)
_PROJECT_IMPORT = "custom_imports = dict(imports=['projects.DITO']"
_INIT = '''# Copyright (c) DITO for MMDetection contributors. \
Licensed under Apache-2.0.
"""Find the package beside this file, and register all of it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import dito  # noqa: E402,F401
'''
_README = """# DITO

Region-centric Image-Language Pretraining for Open-Vocabulary Detection
(Kim, Angelova, Kuo; ECCV 2024), version {version}.

## Description

An independent implementation. A plain ViT with shifted-window learning, region
classification by text embeddings, and region-centric pretraining of the
detector's heads.

## Usage

All commands run from the root of MMDetection. What MMDetection does not
require itself: `pip install open_clip_torch safetensors webdataset
faster-coco-eval lvis rich`.

### Training commands

```bash
PYTHONPATH=. python tools/train.py projects/DITO/configs/dito_vitl_lvis.py
```

### Testing commands

```bash
PYTHONPATH=. python tools/test.py projects/DITO/configs/dito_vitl_lvis.py CKPT
```

Without mmcv's compiled operators `tools/test.py` of MMDetection imports what
it cannot before it reads the config; DITO's stand-in must come first:

```bash
PYTHONPATH=.:projects/DITO python -m dito run tools/test.py CONFIG CKPT
```

## Results

No weights in this format are published, and the configs of the paper were not
run; the figures of the paper are no results of this code.

## Citation

```latex
@inproceedings{{kim2024dito,
  title     = {{Region-centric Image-Language Pretraining for
               Open-Vocabulary Detection}},
  author    = {{Kim, Dahun and Angelova, Anelia and Kuo, Weicheng}},
  booktitle = {{European Conference on Computer Vision (ECCV)}},
  year      = {{2024}}
}}
```

## Checklist

- [ ] Milestone 1: correct at test time (no figures of the paper reproduced)
- [ ] Milestone 2: correct at training time
- [x] Milestone 3: type hints, docstrings, unit tests, metafile
"""


def write_project(root: Path) -> Path:
    """Write projects/DITO into a clone of MMDetection, as a whole.

    Raises:
        FileNotFoundError: If the root is no clone of MMDetection.
        ValueError: If the project is there already.
    """
    if not (root / 'tools' / 'train.py').is_file():
        raise FileNotFoundError(
            f'{root} has no tools/train.py; give the root of a clone of '
            'MMDetection.'
        )
    target = root / 'projects' / 'DITO'
    if target.exists():
        raise ValueError(
            f'{target} exists already; remove it to write it anew.'
        )
    unwanted = shutil.ignore_patterns('__pycache__', '.mim', '*.pyc')
    with new_folder(target) as parts:
        shutil.copytree(PACKAGE, parts / 'dito', ignore=unwanted)
        shutil.copytree(config_root(), parts / 'configs', ignore=unwanted)
        for path in (parts / 'configs').rglob('*.py'):
            text = path.read_text(encoding='utf-8')
            path.write_text(
                _OWN_IMPORT.sub(_PROJECT_IMPORT, text), encoding='utf-8'
            )
        (parts / '__init__.py').write_text(_INIT, encoding='utf-8')
        (parts / 'README.md').write_text(
            _README.format(version=__version__), encoding='utf-8'
        )
    return target


@command
def main(args: Namespace) -> int:
    """Write the project and say how to use it."""
    target = write_project(Path(args.mmdetection))
    print(f'{target}: see README.md there')
    return 0
