# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What comes out of files is data: no entry point runs or reads more.

Each test gives a hostile file to every way into the package that takes such
files. A payload leaves a mark where it runs; none may be there afterwards,
and the user gets one sentence.
"""

import io
import re
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from dito.datasets.image_text.bad_samples import BadSample
from dito.datasets.image_text.image_header import (
    FORMATS,
    image_size,
    open_image,
)
from dito.datasets.image_text.transforms import CropTransform
from dito.datasets.load_image import DITOLoadImageFromFile
from dito.datasets.shard_files.encode import prepare_image

PACKAGE = Path(__file__).parents[1] / 'projects' / 'dito'


# ----------------------------------------------------------------- pictures


@pytest.fixture
def eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An EPS, and a Ghostscript that leaves a mark when it is started."""
    program = tmp_path / 'gs'
    program.write_text(f'#!/bin/sh\ntouch {tmp_path / "ran"}\n')
    program.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, 'gs_binary', str(program))
    monkeypatch.setattr(EpsImagePlugin, 'gs_windows_binary', None)
    buffer = io.BytesIO()
    Image.new('RGB', (40, 30)).save(buffer, 'EPS')
    return buffer.getvalue()


def _load(backend: str) -> Callable[[bytes, Path], Any]:

    def load(data: bytes, folder: Path) -> None:
        (folder / 'x.jpg').write_bytes(data)
        DITOLoadImageFromFile(imdecode_backend=backend).transform(
            dict(img_path=str(folder / 'x.jpg')))

    return load


PICTURES: Dict[str, Callable[[bytes, Path], Any]] = dict(
    training=lambda data, _: CropTransform(32)(data, np.random.default_rng(0)),
    shards=lambda data, _: prepare_image(data),
    detection=_load('cv2'),
    pillow=_load('pillow'))


@pytest.mark.parametrize('entry', PICTURES)
def test_an_eps_starts_no_program(eps: bytes, tmp_path: Path,
                                  entry: str) -> None:
    with pytest.raises((BadSample, ValueError), match='cannot be decoded'):
        PICTURES[entry](eps, tmp_path)
    assert image_size(eps) is None
    assert not (tmp_path / 'ran').exists()
    # The mark is left where Pillow may do what it can.
    with pytest.raises(OSError):
        Image.open(io.BytesIO(eps)).load()
    assert (tmp_path / 'ran').exists()


@pytest.mark.parametrize('kind', sorted(set(FORMATS) - {'HEIF', 'SUN'}))
def test_wanted_formats_are_opened(kind: str) -> None:
    buffer = io.BytesIO()
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f'This Pillow was built without {kind}.')
    Image.new('RGB', (32, 32), 'red').save(buffer, kind)
    with open_image(buffer.getvalue()) as image:
        assert image.size == (32, 32) and image.load()


def test_pillow_opens_files_in_one_place() -> None:
    found = [
        path.name for path in PACKAGE.rglob('*.py')
        if re.search(r'Image\.open\(|plt\.imread|Parser\(\)\.feed',
                     path.read_text(encoding='utf-8'))
    ]
    assert found == ['image_header.py']
