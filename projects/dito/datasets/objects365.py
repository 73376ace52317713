# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Objects365, the target of the paper's transfer experiment.

Of misspelt category names only the spelling is repaired: a name is also the
prompt of a text tower, which knows 'camel' and not 'campel'. What an object is
called stays, for figures of others were computed with it. The two versions are
two sets of 365 categories; :data:`O365_SAME_IN_BOTH` pairs what both have
under different names.
"""

import posixpath
from collections.abc import Iterable

from mmdet.registry import DATASETS

from .annotations import image_file
from .ov_dataset import OpenVocabularyDataset

# In the annotations of v2, but not in its image archives.
_MISSING_IN_V2 = frozenset(
    {
        'patch16/objects365_v2_00908726.jpg',
        'patch6/objects365_v1_00320532.jpg',
        'patch6/objects365_v1_00320534.jpg',
    }
)
#: Published name -> repaired name, of v1 (objects365_train/val.json).
O365_V1_REPAIRS: dict[str, str] = {
    'tissue ': 'tissue',
    'pine apple': 'pineapple',
    'hamimelon': 'hami melon',
    'hotair balloon': 'hot-air balloon',
}

#: The same of v2 (zhiyuan_objv2_train/val.json).
O365_V2_REPAIRS: dict[str, str] = {
    'Moniter/TV': 'Monitor/TV',
    'Trash bin Can': 'Trash bin/can',
    'Bakset': 'Basket',
    'Ballon': 'Balloon',
    'Dinning Table': 'Dining Table',
    'Billards': 'Billiards',
    'Cigar/Cigarette ': 'Cigar/Cigarette',
    'Extention Cord': 'Extension Cord',
    'Hotair ballon': 'Hot-air balloon',
    'Hamimelon': 'Hami melon',
    'Mushroon': 'Mushroom',
    'Tape Measur/ Ruler': 'Tape Measure/Ruler',
    'Campel': 'Camel',
    'Formula 1 ': 'Formula 1',
    'Buttefly': 'Butterfly',
    # The second word was lost; v1 has 'french horn' in its place.
    'French': 'French Horn',
    'Noddles': 'Noodles',
    'Table Teniis paddle': 'Table Tennis paddle',
    'Table Tennis ': 'Table Tennis',
}

#: Repairs of both versions; no name has two.
O365_REPAIRS: dict[str, str] = {**O365_V1_REPAIRS, **O365_V2_REPAIRS}

#: Name in v1 -> name in v2 of the same category, both repaired, where they
#: differ by more than case. What one version splits and the other does not
#: ('orange', 'tangerine'; 'towel/napkin') is left out.
O365_SAME_IN_BOTH: dict[str, str] = {
    'handbag': 'Handbag/Satchel',
    'glove': 'Gloves',
    'tv': 'Monitor/TV',
    'bowl': 'Bowl/Basin',
    'life saver': 'Lifesaver',
    'hockey': 'Hockey Stick',
    'skis': 'Skiboard',
    'toiletries': 'Toiletry',
    'grapes': 'Grape',
    'facial mask': 'Mask',
    'tennis ball': 'Tennis',
    'washing machine': 'Washing Machine/Drying Machine',
    'cigar': 'Cigar/Cigarette',
    'meat balls': 'Meat ball',
    'hair drier': 'Hair Dryer',
}


def o365_image_path(file_name: str, version: str) -> str | None:
    """Path of an image as it is stored.

    In v2 ``patchN/name.jpg``, or None for an image that is not in the
    archives.
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
            :data:`O365_REPAIRS`. Names in ``metainfo`` are found in
            either spelling. Defaults to True.
    """

    def __init__(
        self, *args, version: str = 'v1', repair_names: bool = True, **kwargs
    ) -> None:
        if version not in ('v1', 'v2'):
            raise ValueError(f"version must be 'v1' or 'v2', not {version!r}")
        self.version = version
        if repair_names:
            self.name_repair = repair_o365_name
        super().__init__(*args, **kwargs)

    def image_file_name(self, image: dict) -> str | None:
        """Path below ``data_prefix['img']``; None for one missing from v2."""
        return o365_image_path(image_file(image), self.version)


def repair_o365_name(name: str) -> str:
    """Spell a category name of Objects365 as it was meant."""
    return O365_REPAIRS.get(name) or O365_REPAIRS.get(
        name.strip(), name.strip()
    )


def find_o365_version(names: Iterable[str]) -> str:
    """Which version has these names: 'v1', 'v2', or '' for neither."""
    found = {repair_o365_name(name) for name in names}
    hits = {
        'v1': len(found & set(O365_SAME_IN_BOTH)),
        'v2': len(found & set(O365_SAME_IN_BOTH.values())),
    }
    best = max(hits, key=lambda version: hits[version])
    return best if hits[best] > len(O365_SAME_IN_BOTH) // 2 else ''
