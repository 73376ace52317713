# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Draw where in a picture a model sees what a text says (paper, fig. 3).

    python tools/analysis_tools/similarity_map.py street.jpg \
        --text 'a red umbrella' --checkpoint work_dirs/rep_symbols/iter_450.pth

For each text a row: the picture, the map of the backbone's features, and
that of the region embeddings of the box head, which slides over pyramid
level 4. Each map is coloured from its own least to its own greatest cosine.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmcv import imread

from dito.apis import SimilarityMaps, TextSimilarity
from dito.apis.results import write_picture
from dito.apis.similarity import WINDOWS
from dito.cli.errors import one_sentence_errors
from dito.reports.figures import similarity_strip


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--text', nargs='+', required=True, help='one or more queries'
    )
    parser.add_argument(
        '--config', help="config of any stage (default: the checkpoint's)"
    )
    parser.add_argument('--checkpoint', required=True, help='its weights')
    parser.add_argument(
        '--out',
        default='outputs/similarity.png',
        help='picture to write (default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=int,
        help='longer side at the input, in pixels '
        '(default: that of the config)',
    )
    parser.add_argument(
        '--windows',
        type=int,
        nargs='+',
        default=WINDOWS,
        help='sides of '
        'the sliding windows in cells, the best of which counts '
        '(default: %(default)s)',
    )
    parser.add_argument('--device', default='cpu', help='such as cuda')
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors'
    )
    return parser.parse_args(argv)


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


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Compute and draw the maps."""
    args = parse_args(argv)
    if not Path(args.image).is_file():
        raise FileNotFoundError(f'The image {args.image} does not exist.')
    image: np.ndarray | None = imread(args.image, channel_order='rgb')
    if image is None:
        raise ValueError(f'{args.image} cannot be decoded as an image.')
    similarity = TextSimilarity.from_files(
        args.config, args.checkpoint, args.device, args.size, args.windows
    )
    maps = similarity(image, args.text)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_picture(out, similarity_strip(image, args.text, maps))
    print(report(args.text, maps))
    print(f'The picture is {out}.')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
