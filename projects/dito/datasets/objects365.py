# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Objects365, the target of the paper's transfer experiment."""

import posixpath
from typing import Optional

from mmdet.registry import DATASETS

from .annotations import image_file
from .objects365_names import repair_o365_name
from .ov_dataset import OpenVocabularyDataset

# In the annotations of v2, but not in its image archives.
_MISSING_IN_V2 = frozenset(
    {
        'patch16/objects365_v2_00908726.jpg',
        'patch6/objects365_v1_00320532.jpg',
        'patch6/objects365_v1_00320534.jpg',
    }
)


def o365_image_path(file_name: str, version: str) -> Optional[str]:
    """Path of an image as it is stored.

    Args:
        file_name (str): As in the annotation file.
        version (str): 'v1' or 'v2'.

    Returns:
        str | None: v1: the same. v2: ``patchN/name.jpg``, or None for an
        image that is not in the archives.
    """
    if version == 'v1':
        return file_name
    folder = posixpath.basename(posixpath.dirname(file_name))
    name = posixpath.join(folder, posixpath.basename(file_name))
    return None if name in _MISSING_IN_V2 else name


@DATASETS.register_module()
class DITOObjects365Dataset(OpenVocabularyDataset):
    """Objects365 v1 or v2, with classes matched by name.

    The train and val files of Objects365 list their 365 categories in
    different orders, and class lists in circulation have a third one. Labels
    here follow the names, so all of them agree. Without novel classes in
    ``metainfo`` every class counts as base; in the transfer setting (paper,
    table 3) a model trained on LVIS base is tested on all 365.

    Args:
        version (str): 'v1' takes ``file_name`` as it is; 'v2' reduces it to
            ``patchN/name.jpg``, as the images are stored, and leaves the
            three images out that are not in the archives. Defaults to 'v1'.
        repair_names (bool): Whether to correct misspelt category names
            ('Campel'), which a text tower would not understand; see
            ``objects365_names.py``. Names in ``metainfo`` are found in
            either spelling. Defaults to True.
    """

    def __init__(
        self,
        *args,
        version: str = 'v1',
        repair_names: bool = True,
        **kwargs,
    ) -> None:
        if version not in ('v1', 'v2'):
            raise ValueError(f"version must be 'v1' or 'v2', not {version!r}")
        self.version = version
        if repair_names:
            self.name_repair = repair_o365_name
        super().__init__(*args, **kwargs)

    def image_file_name(self, image: dict) -> Optional[str]:
        """Path of an image below ``data_prefix['img']``.

        Args:
            image (dict): Entry of the file's ``images``.

        Returns:
            str | None: The path; None for an image missing from v2.
        """
        return o365_image_path(image_file(image), self.version)
