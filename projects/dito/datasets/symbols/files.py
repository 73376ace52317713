# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A folder that appears complete or not at all."""

import contextlib
import hashlib
import json
import os
import os.path as osp
import shutil
import tempfile
from typing import Iterator, Optional

MANIFEST = 'manifest.json'


def check_target(out_dir: str, overwrite: bool) -> None:
    """Refuse to write into a folder that holds something.

    Args:
        out_dir (str): Folder of the data set.
        overwrite (bool): Whether an earlier build may be replaced.

    Raises:
        FileExistsError: If the folder holds files and ``overwrite`` is off.
        ValueError: If it is a file, or a folder this tool did not write.
    """
    if not osp.exists(out_dir):
        return
    if not osp.isdir(out_dir):
        raise ValueError(f'{out_dir} is a file; give a folder.')
    if not os.listdir(out_dir):
        return
    if not overwrite:
        raise FileExistsError(
            f'{out_dir} is not empty; pass --overwrite to replace an earlier '
            'build, or choose another folder.'
        )
    if not osp.isfile(osp.join(out_dir, MANIFEST)):
        raise ValueError(
            f'{out_dir} has no {MANIFEST}, so it is not a symbols data set '
            'and is not replaced; choose another folder.'
        )


@contextlib.contextmanager
def atomic_folder(out_dir: str, overwrite: bool) -> Iterator[str]:
    """Give a temporary folder that becomes ``out_dir`` on success.

    Args:
        out_dir (str): Final folder.
        overwrite (bool): Whether an earlier build may be replaced.

    Yields:
        str: The folder to write into, on the same file system.
    """
    out_dir = osp.abspath(out_dir)
    check_target(out_dir, overwrite)
    parent = osp.dirname(out_dir)
    os.makedirs(parent, exist_ok=True)
    base = osp.basename(out_dir)
    scratch = tempfile.mkdtemp(prefix=f'.{base}.', dir=parent)
    # mkdtemp makes it private; a data set follows the umask.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(scratch, 0o777 & ~umask)
    try:
        yield scratch
        check_target(out_dir, overwrite)
        if osp.exists(out_dir):
            old = tempfile.mkdtemp(prefix=f'.{base}.old.', dir=parent)
            os.rename(out_dir, osp.join(old, base))
            os.rename(scratch, out_dir)
            shutil.rmtree(old)
        else:
            os.rename(scratch, out_dir)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(
    path: str, content: object, indent: Optional[int] = None
) -> None:
    """Write JSON with a stable layout and a final newline."""
    separators = (',', ':') if indent is None else (',', ': ')
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(content, file, indent=indent, separators=separators)
        file.write('\n')


def sha256(path: str) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()
