# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Options of the tools for data: layouts, checks, conversions, shards."""

from . import shared
from .shared import ToolParser

LABELS = ('yolo', 'voc', 'coco', 'cvat')
DATASETS = ('lvis', 'coco', 'objects365', 'objects365v2')
# Defaults of ShardOptions and of SymbolsConfig.
SHARDS = dict(shard_size=10_000, seed=0, quality=95, max_broken_share=0.1)
SYMBOLS = dict(
    size=(192, 'side of the detection pictures in pixels'),
    single_shards=(8, 'image-text shards with one object a picture'),
    scene_shards=(8, 'image-text shards with several objects per picture'),
    lone_shards=(10, 'image-text shards with one object somewhere in a scene'),
    shard_size=(1188, 'samples per shard'),
    single_size=(64, 'side of the single-object pictures in pixels'),
    scene_size=(128, 'side of the image-text scenes in pixels'),
    retrieval_images=(1000, 'held-out image-text pairs'),
    zero_shot_images=(
        20,
        'held-out single objects per category, and of held-out drawings',
    ),
)


def prepare(parser: ToolParser) -> None:
    """Lay out LVIS, COCO or Objects365 as the configs expect.

    Makes links, unpacks annotation files from their archives, and says what
    is missing and where its owner publishes it. Downloads nothing; a second
    run changes nothing. Exits with 1 if something is missing.
    """
    parser.add_argument('dataset', choices=DATASETS, help='which data set')
    parser.add_argument(
        '--out-dir',
        metavar='DIR',
        help='folder to lay it out in (default: where the configs look, such '
        'as data/lvis_v1)',
    )
    shared.add_source(
        parser,
        'folders with the published files, unpacked or, for annotations, as '
        'zip,',
        nargs='+',
        default=[],
    )
    parser.add_argument(
        '--convert',
        action='store_true',
        help='write the smaller files for other programs, too: base classes '
        'only, categories alone, repaired names',
    )


def import_(parser: ToolParser) -> None:
    """Write labels of YOLO, Pascal VOC, CVAT ... in the format of COCO.

    Takes the unpacked exports of Ultralytics, Label Studio, Roboflow and
    CVAT: yolo (YOLO, YOLO with images), voc (Pascal VOC), coco (COCO), and
    cvat ("CVAT for images 1.1"). Roboflow's and Label Studio's own json is
    not read: export one of these. What cannot be used is left out and
    counted. yolo and voc need supervision, cvat needs datumaro:
    pip install "dito-mmdet[import]".
    """
    parser.add_argument('kind', choices=LABELS, help='format of labels')
    parser.add_argument('source', help='the unpacked export')
    parser.add_argument('out', help='.json file to write')
    parser.add_argument(
        '--split', help='train, valid, val or test, where there are several'
    )


def check_dataset(parser: ToolParser) -> None:
    """Check annotations and images before anything is trained or tested.

    Compares classes and annotation files by name, counts base, novel and
    unknown classes, looks for contradictions in the files and for missing or
    broken images. Exits with 1 if there is a problem.
    """
    shared.add_config(parser, '?')
    shared.add_data(parser, 'what to check instead of the sets of a config')
    parser.add_argument(
        '--max-images',
        type=int,
        metavar='N',
        help='images of each set to decode (default: all; 0: none); that '
        'they exist is checked of all',
    )
    parser.add_argument(
        '--allow',
        nargs='+',
        default=[],
        metavar='KIND',
        help='problems that are known and shall only be counted, such as '
        'zero_area_box',
    )
    shared.add_json(parser)
    shared.add_workers(parser, 'threads that decode images')
    parser.check(
        lambda args: (
            'give a config, or --data and --images'
            if (args.config is None) == (args.data is None)
            else shared.data_and_images(args)
        )
    )


def lvis2ov(parser: ToolParser) -> None:
    """Write an LVIS training file without the rare (novel) classes.

    The configs read the unchanged LVIS files, so this is not needed to train.
    A base-only file loads faster, and other programs can use it. With
    --categories the names, synonyms and frequencies alone, to build
    vocabularies from.
    """
    parser.add_argument('source', help='annotations of LVIS')
    shared.add_out(
        parser,
        'file to write',
        'SOURCE with _base.json, or with _categories.json',
    )
    _add_drop_empty(parser)
    parser.add_argument(
        '--categories',
        action='store_true',
        help='write the metadata of all categories instead',
    )


def coco2ov(parser: ToolParser) -> None:
    """Write COCO annotations of the 48 base, 17 novel or all 65 classes.

    The configs read the unchanged COCO files, so this is not needed to train.
    The smaller files load faster, and other programs can use them.
    """
    parser.add_argument('source', help='annotations of COCO')
    parser.add_argument(
        '--classes',
        choices=('base', 'novel', 'all'),
        required=True,
        help='base: 48 classes (training); novel: 17; all: 65 (evaluation)',
    )
    shared.add_out(parser, 'file to write', 'SOURCE with _ov_CLASSES.json')
    _add_drop_empty(parser)


def _add_drop_empty(parser: ToolParser) -> None:
    parser.add_argument(
        '--drop-empty',
        action='store_true',
        help='leave out images without any object of these classes',
    )


def fix_objects365(parser: ToolParser) -> None:
    """Repair category names and order of an Objects365 annotation file.

    The data set of the configs reads the published files and repairs names
    while loading, so this is needed for other programs only.
    """
    parser.add_argument('source', help='annotations of Objects365, v1 or v2')
    shared.add_out(parser, 'file to write', 'SOURCE with _fixed.json')


def make_symbols(parser: ToolParser) -> None:
    """Draw the small open-vocabulary data set "symbols" (no download).

    LVIS-format detection, image-text shards, zero-shot test pictures.
    """
    add = parser.add_argument
    shared.add_out_dir(parser, 'folder to make', 'data/symbols')
    add('--seed', type=int, default=0, metavar='N', help='seed of the set')
    add(
        '--pictures',
        type=int,
        nargs=2,
        metavar=('TRAIN', 'VAL'),
        default=(1200, 300),
        help='number of detection pictures',
    )
    add(
        '--drawings',
        type=int,
        default=150,
        metavar='N',
        help='detection pictures of known names in held-out drawings',
    )
    for name, (default, text) in SYMBOLS.items():
        option = f'--{name.replace("_", "-")}'
        add(option, type=int, default=default, metavar='N', help=text)
    shared.add_workers(parser)
    shared.add_overwrite(parser)


def pairs2shards(parser: ToolParser) -> None:
    r"""Write image-caption pairs to tar shards for pretraining.

    The pairs are a folder of images with a text file beside each, or a table
    (.csv, .tsv, .jsonl, .parquet) with columns of paths and captions; further
    columns go into each sample's json. Examples:

        dito pairs2shards photos/ --out-dir data/mine
        dito pairs2shards pairs.csv --out-dir data/mine \
            --image-column file --caption-column text --max-side 512
    """
    add = parser.add_argument
    add('source', help='folder of images and texts, or table of pairs')
    shared.add_out_dir(parser, 'folder for shards and manifest.json')
    add(
        '--image-column',
        default='path',
        metavar='NAME',
        help="column of the images' paths",
    )
    add(
        '--caption-column',
        default='caption',
        metavar='NAME',
        help='column of the captions',
    )
    add(
        '--images',
        metavar='DIR',
        help='folder that the paths in a table are relative to (default: '
        'the folder of the table)',
    )
    add(
        '--shard-size',
        type=int,
        default=SHARDS['shard_size'],
        metavar='N',
        help='pairs per shard',
    )
    add('--prefix', default='', help='first part of the file names')
    add(
        '--seed',
        type=int,
        default=SHARDS['seed'],
        metavar='N',
        help='seed of the order',
    )
    add(
        '--keep-order',
        action='store_true',
        help="keep the table's order; then similar pairs share batches",
    )
    add(
        '--max-side',
        type=int,
        metavar='PIXELS',
        help='shrink images whose shorter side is longer; all others are kept '
        'byte for byte (default: shrink none)',
    )
    add(
        '--quality',
        type=int,
        default=SHARDS['quality'],
        metavar='N',
        help='of JPEGs that are encoded anew',
    )
    add(
        '--max-broken-share',
        type=shared.share,
        default=SHARDS['max_broken_share'],
        metavar='F',
        help='share of unusable pairs that is an error',
    )
    shared.add_workers(parser)
    shared.add_overwrite(parser)


def check_shards(parser: ToolParser) -> None:
    """Check image-text shards before days are spent on them.

    Reads every shard: its structure, its checksum where there is a manifest,
    that each sample has an image that can be decoded and a caption. Exits
    with 1 if there is a problem.
    """
    _add_shards(parser)
    parser.add_argument(
        '--manifest',
        metavar='FILE',
        help='manifest.json of the shards (default: that of the folder, if '
        'it has one)',
    )
    parser.add_argument(
        '--no-decode',
        action='store_true',
        help="read the images' headers alone: faster, finds less",
    )


def shard_stats(parser: ToolParser) -> None:
    """Describe image-text shards: sizes, captions, duplicates.

    Images are not decoded; their headers tell their size.
    """
    _add_shards(parser)


def _add_shards(parser: ToolParser) -> None:
    """Add what the tools that read shards share."""
    parser.add_argument(
        'shards',
        nargs='+',
        help='folders of shards, paths, patterns such as {000..127}.tar in '
        'quotes, or addresses as in configs',
    )
    parser.add_argument(
        '--captions',
        nargs='+',
        default=['txt'],
        metavar='PLACE',
        help='where captions are: an extension or json.FIELD',
    )
    shared.add_workers(parser)
    shared.add_json(parser)
