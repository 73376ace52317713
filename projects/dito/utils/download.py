# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Large files from the web: resumed where they broke off, and known again."""

import datetime
import http.client
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from .errors import FULL
from .files import new_folder, read_json, sha256_of, write_json

#: Told the bytes that are there and all of them, None where that is unknown.
Progress = Callable[[int, int | None], None]

_BLOCK = 1 << 20
_TIMEOUT = 60
# Bytes that an archive may become; text models and detectors are below 10 GB.
_MOST = 64 << 30
# What is known of files that were downloaded.
_SUMS = 'sums.json'


def download(url: str, path: Path, progress: Progress | None = None) -> Path:
    """Fetch a file; what an earlier attempt left is gone on with.

    The part that is there lies in ``path`` with ``.part`` appended, and only a
    whole file gets the name; one that is there is kept. ValueError if it
    cannot be fetched, or has another size than the server says.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    try:
        size = _fetch(url, part, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        # Asked for what is behind its end: the file there is a shorter one.
        if getattr(error, 'code', None) == 416:
            part.unlink(missing_ok=True)
        kept = part.stat().st_size if part.exists() else 0
        raise ValueError(
            f'{url} cannot be downloaded ({error}); check the address and '
            f'the connection and start again ({kept:,} bytes are kept), or '
            'download it elsewhere and use --from.'
        ) from error
    found = part.stat().st_size
    if size is not None and found != size:
        if found > size:
            part.unlink()
        raise ValueError(
            f'{url} broke off after {found:,} of {size:,} bytes; start again '
            'to go on from there.'
        )
    part.rename(path)
    _version_of(part).unlink(missing_ok=True)
    return path


def _version_of(part: Path) -> Path:
    """Where the server's name for this version of a file is noted."""
    return part.with_name(f'{part.name}.etag')


def _fetch(url: str, part: Path, progress: Progress | None) -> int | None:
    """Append what is missing; returns the size of the whole, if known."""
    have = part.stat().st_size if part.exists() else 0
    request, version = urllib.request.Request(url), _version_of(part)
    if have:
        request.add_header('Range', f'bytes={have}-')
        if version.is_file():  # all of it, if it is another one by now
            request.add_header('If-Range', version.read_text('utf-8'))
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if answer.status != 206:  # the server sends all of it
            have = 0
            version.unlink(missing_ok=True)
            if etag := answer.headers.get('ETag'):
                version.write_text(etag, 'utf-8')
        left = answer.headers.get('Content-Length')
        size = have + int(left) if left else None
        with part.open('ab' if have else 'wb') as file:
            try:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    have += len(block)
                    if progress is not None:
                        progress(have, size)
            except http.client.IncompleteRead as error:
                file.write(error.partial)
    return size


def check_known(
    path: Path, accept_change: bool = False, folder: Path | None = None
) -> str:
    """Sha256 of a file, compared with what it was when it was seen first.

    Size, sha256 and day are noted in a file ``sums.json`` of ``folder``, or
    beside it; ``accept_change`` notes them anew. ValueError if it has changed.
    """
    file = (folder or path.parent) / _SUMS
    known = read_json(file) if file.is_file() else {}
    if not isinstance(known, dict):
        raise ValueError(f'{file} is no list of files; remove it.')
    digest = sha256_of(path)
    before = known.get(path.name)
    if isinstance(before, dict) and not accept_change:
        if before.get('sha256') != digest:
            raise ValueError(
                f'{path} has the sha256 {digest[:16]}..., but on '
                f'{before.get("seen")} it was '
                f'{str(before.get("sha256"))[:16]}...; remove it to download '
                'it again, or take the new one with --accept-change.'
            )
        return digest
    known[path.name] = dict(
        sha256=digest,
        size=path.stat().st_size,
        seen=datetime.date.today().isoformat(),
    )
    write_json(file, known, indent=1)
    return digest


def unpack_zip(path: Path, folder: Path, most: int = _MOST) -> Path:
    """Unpack an archive into a folder that appears whole or not at all.

    ValueError if it is damaged, leads out of the folder, holds anything but
    files and folders, or becomes larger than ``most`` bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive, new_folder(folder) as parts:
            members = archive.infolist()
            _check_members(path, members, most)
            for member in members:
                target = parts.joinpath(*PurePosixPath(member.filename).parts)
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open('wb') as file:
                    # Ends with an error where it is not what the list says.
                    shutil.copyfileobj(source, file, _BLOCK)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        FileExistsError,
        IsADirectoryError,
        NotADirectoryError,
    ) as error:
        raise ValueError(
            f'{path} is no sound zip archive ({error}); remove it and '
            'download it again.'
        ) from error
    return folder


def _check_members(
    path: Path, members: list[zipfile.ZipInfo], most: int
) -> None:
    """Refuse an archive before a byte of it is written."""
    for member in members:
        name = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if (
            name.is_absolute()
            or '..' in name.parts
            or '\\' in str(name)
            or not name.parts
        ):
            raise ValueError(
                f'{path} has the member {str(name)!r:.80}, which leads out '
                'of the folder; it is not unpacked.'
            )
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(
                f'{path} has the member {str(name)!r:.80}, which is a link '
                'or a device; it is not unpacked.'
            )
    total = sum(member.file_size for member in members)
    if total > most:
        raise ValueError(
            f'{path} would become {total:,} bytes, over the limit of '
            f'{most:,}; it is not unpacked.'
        )
