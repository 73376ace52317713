# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class names as a user gives them."""

from pathlib import Path
from typing import Sequence, Tuple, Union

from dito.models.text.name_checks import check_names


def parse_names(names: Union[str, Path, Sequence[str]]) -> Tuple[str, ...]:
    """Read class names from a list, a text, or a file.

    Args:
        names (str | Path | Sequence[str]): A list; or 'red umbrella, anchor';
            or the path of a ``.txt`` file with a name a line, where empty
            lines and lines that start with # do not count.

    Returns:
        tuple[str]: Names without surrounding blanks.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If there is no name, or one is blank or double.
        TypeError: If a name is no text.
    """
    if isinstance(names, Path) or (isinstance(names, str)
                                   and names.endswith('.txt')):
        return check_names(_read_lines(Path(names)))
    if isinstance(names, str):
        # A comma at the end is a slip; one in the middle is a lost name.
        names = names.strip().rstrip(',').split(',')
    return check_names(
        [n.strip() if isinstance(n, str) else n for n in names])


def _read_lines(path: Path) -> Sequence[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f'The list of names {path} does not exist; check the path.')
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is not a text file in UTF-8 ({error.reason} at byte '
            f'{error.start}); write a name a line.') from error
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith('#')]
