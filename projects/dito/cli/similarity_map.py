# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Where in a picture a model sees what a text says."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import mmcv

from dito.apis import SimilarityMaps, TextSimilarity
from dito.apis.pictures import check_file
from dito.apis.results import write_picture
from dito.apis.writers import refuse_source
from dito.datasets.load_image import DITOLoadImageFromFile
from dito.reports.figures import similarity_strip
from dito.utils.files import require_place

from . import common
from .options import command


def report(texts: Sequence[str], maps: SimilarityMaps) -> str:
    """Least and greatest cosine of each map, a line each."""
    lines = []
    for number, text in enumerate(texts):
        for name, values in (
            ('backbone', maps.backbone),
            ('box head', maps.regions),
        ):
            if values is not None:
                low, high = values[number].min(), values[number].max()
                lines.append(f'{text}: {name} {low:.3f} to {high:.3f}')
    return '\n'.join(lines)


@command
def main(args: Namespace) -> int:
    """Compute and draw the maps."""
    out = Path(args.out)
    check_file(args.image)
    refuse_source(args.image, out)
    require_place(out)
    loader = DITOLoadImageFromFile()
    content = loader.fetch(args.image)
    image = mmcv.bgr2rgb(loader.decode(args.image, content))
    similarity = TextSimilarity.from_files(
        args.config,
        common.find_checkpoint(args.checkpoint),
        common.device_of(args),
        args.img_size,
        args.windows,
    )
    maps = similarity(image, args.text)
    write_picture(out, similarity_strip(image, args.text, maps))
    print(report(args.text, maps))
    print(f'The picture is {out}.')
    return 0
