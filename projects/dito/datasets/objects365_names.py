# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Category names of Objects365 that are misspelt in its annotation files.

Only spelling is repaired: a name is also the prompt of a text tower, which
knows 'camel' and not 'campel'. What an object is called stays as it is, for
figures of others were computed with it. The two versions of the data set are
two sets of categories, each of 365; :data:`O365_SAME_IN_BOTH` pairs what
both have under different names.
"""

from typing import Dict, Iterable, Tuple

#: Published name -> repaired name, of v1 (objects365_train/val.json).
O365_V1_REPAIRS: Dict[str, str] = {
    'tissue ': 'tissue',
    'pine apple': 'pineapple',
    'hamimelon': 'hami melon',
    'hotair balloon': 'hot-air balloon',
}

#: The same of v2 (zhiyuan_objv2_train/val.json).
O365_V2_REPAIRS: Dict[str, str] = {
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
O365_REPAIRS: Dict[str, str] = {**O365_V1_REPAIRS, **O365_V2_REPAIRS}

#: Name in v1 -> name in v2 of the same category, both repaired, where they
#: differ by more than case. What one version splits and the other does not
#: ('orange', 'tangerine'; 'towel/napkin') is left out.
O365_SAME_IN_BOTH: Dict[str, str] = {
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

#: Names of v1 that overlap in meaning: a detector shares its score between
#: them.
O365_V1_OVERLAPS: Tuple[Tuple[str, str], ...] = (
    ('bread', 'bread/bun'),
    ('gas stove', 'electronic stove and gas stove'),
    ('fish', 'goldfish'),
    ('bear', 'polar bear'),
)


def repair_o365_name(name: str) -> str:
    """Spell a category name of Objects365 as it was meant.

    Args:
        name (str): As published, in either version.

    Returns:
        str: Repaired; other names are returned as they are.
    """
    return O365_REPAIRS.get(name) or O365_REPAIRS.get(
        name.strip(), name.strip()
    )


def find_o365_version(names: Iterable[str]) -> str:
    """Tell from the category names which version a file is of.

    Args:
        names (Iterable[str]): Names of a file, published or repaired.

    Returns:
        str: 'v1', 'v2', or '' if it is neither.
    """
    found = {repair_o365_name(name) for name in names}
    hits = {
        'v1': len(found & set(O365_SAME_IN_BOTH)),
        'v2': len(found & set(O365_SAME_IN_BOTH.values())),
    }
    best = max(hits, key=lambda version: hits[version])
    return best if hits[best] > len(O365_SAME_IN_BOTH) // 2 else ''
