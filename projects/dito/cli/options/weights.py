# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Options of the tools that convert, embed and publish."""

from pathlib import Path

from . import shared
from .shared import ToolParser, natural

PATCH_METHODS = ('pinv', 'bilinear')
OFFICIAL_CONFIG = 'dito_vitl_official_lvis'
_SAFE = '.safetensors'


def get(parser: ToolParser) -> None:
    """Download the authors' detector and convert it, as "official".

    What is there already is kept, and a download that broke off goes on. The
    archives come to about 3 GB; the converted detector takes as much again.
    """
    add = parser.add_argument
    add(
        'what',
        choices=['official', 'pretrained'],
        help="official: the authors' detector; pretrained: their backbone "
        'and heads before detection training, for trainings of your own',
    )
    shared.add_source(parser, 'folder with archives', type=Path)
    add(
        '--address',
        help="where the archives are (default: the authors' address)",
    )
    add(
        '--lvis',
        metavar='FILE',
        help='annotations of LVIS v1, for the synonyms of its names',
    )
    add(
        '--config',
        default=OFFICIAL_CONFIG,
        help="config file, or the name of one of DITO's configs",
    )
    shared.add_sizes(parser)
    add(
        '--accept-change',
        action='store_true',
        help='take archives that are not what they were when seen first',
    )


def clip_to_dito(parser: ToolParser) -> None:
    """Convert a public image-text tower to a file that stages start from."""
    add = parser.add_argument
    add(
        'source',
        help='open_clip model such as ViT-B-16; timm:NAME for an image tower '
        'alone; or a folder with open_clip_config.json and weights',
    )
    _add_target(parser)
    add(
        '--weights',
        metavar='FILE',
        help='local file, .safetensors or a torch state dict; not needed for '
        'a folder',
    )
    add(
        '--tag',
        help="open_clip's name of the weights, such as openai or "
        'laion2b_s34b_b88k: decides the activation and mean and std',
    )
    add(
        '--patch-size',
        type=natural,
        metavar='PIXELS',
        help='resample the patch embedding (default: keep it)',
    )
    add(
        '--img-size',
        type=natural,
        metavar='PIXELS',
        help='resample the position grid to this size of the image (default: '
        'keep the grid)',
    )
    add(
        '--patch-method',
        choices=PATCH_METHODS,
        default=PATCH_METHODS[0],
        help='how patches are resampled; pinv: as FlexiViT',
    )
    add(
        '--dense',
        choices=['avg', 'value', 'attn_pool'],
        help='how regions are embedded (default: chosen by the tower)',
    )
    add(
        '--no-check',
        action='store_true',
        help='do not compare the embeddings of both models',
    )


def official_to_dito(parser: ToolParser) -> None:
    """Convert the authors' checkpoint, and their text embeddings."""
    add = parser.add_argument
    add(
        'source',
        help='checkpoint of the release: .npz, Flax (msgpack) file or folder '
        'with checkpoint_N, orbax folder, or folder of the SavedModel',
    )
    _add_target(parser)
    add(
        '--embeddings',
        metavar='NPY',
        help='text embeddings of the release, such as lvis_embed.npy; written '
        'beside OUT as OUT_vocabulary.safetensors',
    )
    add(
        '--names',
        metavar='FILE',
        help='classes of the embeddings: annotations of LVIS or COCO, the '
        "release's json from id to name, or a text file with row 1 first",
    )
    shared.add_novel(parser, '; the rare ones of LVIS annotations always are')
    add(
        '--keep-rest',
        action='store_true',
        help='keep rows without a class (padding), as the release does',
    )
    add(
        '--skip',
        nargs='+',
        default=[],
        metavar='PREFIX',
        help='leave out parameters whose names start so',
    )
    shared.add_sizes(parser)
    parser.check(
        lambda args: (
            '--names goes with --embeddings: give both'
            if (args.names is None) != (args.embeddings is None)
            else None
        )
    )


def _add_target(parser: ToolParser) -> None:
    parser.add_argument(
        'out', type=shared.ending(_SAFE), help='.safetensors file to write'
    )


def official_text_embeddings(parser: ToolParser) -> None:
    """Embed class names with the authors' text model (needs TensorFlow)."""
    add = parser.add_argument
    add('text_model', help='folder of the SavedModel')
    add(
        '--tokenizer',
        required=True,
        metavar='FILE',
        help='its SentencePiece model',
    )
    add(
        '--background-embeddings',
        required=True,
        metavar='NPY',
        help='embeddings of background and padding, bg_empty_embed.npy',
    )
    shared.add_names(parser, 'class names')
    shared.add_out(parser, '.safetensors file to write', '', _SAFE)
    shared.add_novel(
        parser, ' (default: all, as the release takes names of a user)'
    )
    shared.add_rare_is_novel(parser)
    add(
        '--pad-to',
        type=int,
        metavar='ROWS',
        help='rows in all, background included, filled up with classes '
        '"empty"; the demo has 1204. They take part in the softmax',
    )


def build_text_embeddings(parser: ToolParser) -> None:
    """Embed class names once, so that a detector needs no text tower."""
    add = parser.add_argument
    shared.add_config(parser)
    shared.add_checkpoint(parser)
    shared.add_names(parser, 'class names')
    shared.add_out(parser, '.safetensors file to write', '', _SAFE)
    add(
        '--templates',
        nargs='+',
        help='none, openai, simple, or texts with {} (default: those of the '
        'tests of the config, else openai, the 80 prompts of CLIP)',
    )
    shared.add_novel(parser, ' (default: none)')
    shared.add_rare_is_novel(parser)
    add(
        '--synonyms',
        action='store_true',
        help='average over the synonyms in the file, too',
    )
    add(
        '--background',
        default='background',
        metavar='TEXT',
        help='phrase of the background',
    )
    shared.add_device(parser)
    add(
        '--cache-dir',
        metavar='DIR',
        help='folder that keeps embeddings for the next time',
    )


def export(parser: ToolParser) -> None:
    """Write a detector as one file, by default for ONNX, without PyTorch.

    The file is run and compared with the detector first, and not written
    where they differ. Without --names these are an input of the file, of any
    number.
    """
    shared.add_checkpoint(parser, shared.PUBLISHED)
    parser.add_argument(
        'out',
        type=shared.ending('.onnx', '.pt2'),
        help='file to write: .onnx, or .pt2 of the other formats',
    )
    parser.add_argument(
        '--format',
        choices=('onnx', 'pt2', 'aoti'),
        default='onnx',
        help='pt2: of torch.export; aoti: compiled by AOTInductor for this '
        'kind of processor (both run in PyTorch, docs/deploy.md)',
    )
    parser.add_argument(
        '--dtype',
        choices=('float32', 'float16', 'int8'),
        default='float32',
        help='of weights in the file; float16 and int8 are '
        'allowed to differ more (docs/deploy.md)',
    )
    shared.add_config_of_checkpoint(parser)
    shared.add_names(parser, 'names to fold in', required=False)
    shared.add_negative_names(parser)
    parser.add_argument(
        '--licence',
        metavar='TEXT',
        help='of the weights, for the metadata (default: that in the card of '
        'a published folder, else unknown)',
    )
    parser.check(
        lambda args: (
            '--negative-names goes with --names: a file that takes names as '
            'an input takes those too'
            if args.negative_names and not args.names
            else None
        )
    )
    parser.check(
        lambda args: (
            f'--format {args.format} writes a file that ends in '
            f'{".onnx" if args.format == "onnx" else ".pt2"}, got {args.out}'
            if args.out.endswith('.onnx') != (args.format == 'onnx')
            else None
        )
    )
    parser.check(
        lambda args: (
            f'--dtype {args.dtype} goes with --format onnx'
            if args.dtype != 'float32' and args.format != 'onnx'
            else None
        )
    )


def publish_model(parser: ToolParser) -> None:
    """Make a checkpoint ready for others.

    OUT ending in .safetensors: the weights alone, with the config inside if
    it is given. Any other OUT is a new folder with all that belongs to a
    detector: weights named by their sha256, config, vocabulary, figures,
    model card.
    """
    add = parser.add_argument
    shared.add_checkpoint(parser)
    add('out', help='.safetensors file, or folder, to write')
    shared.add_config_of_checkpoint(parser)
    add(
        '--keep',
        nargs='+',
        default=[''],
        metavar='PREFIX',
        help='keep only weights whose names start with one of these '
        '(default: all)',
    )
    add(
        '--half',
        action='store_true',
        help='write weights of 32 bits as float16, in half the size; one '
        'that does not fit is refused',
    )
    add(
        '--note',
        action='append',
        default=[],
        metavar='KEY=TEXT',
        help='further metadata, such as accuracy or licence',
    )
    group = parser.add_argument_group('for a folder')
    group.add_argument(
        '--name',
        help="start of the name of the weights (default: the folder's)",
    )
    group.add_argument(
        '--vocabulary',
        metavar='FILE',
        help='.safetensors file with the default classes',
    )
    group.add_argument(
        '--metrics',
        metavar='FILE',
        help='evaluation.json that dito test has written',
    )
    group.add_argument(
        '--push',
        metavar='OWNER/NAME',
        help='upload the folder to the Hugging Face hub',
    )

    def folder(args: shared.Namespace) -> str | None:
        given = [
            f'--{key}'
            for key in ('name', 'vocabulary', 'metrics', 'push')
            if getattr(args, key) is not None
        ]
        if given and args.out.endswith(_SAFE):
            return f'{" and ".join(given)}: OUT must be a folder'
        return None

    parser.check(folder)


def mmdet_project(parser: ToolParser) -> None:
    """Put DITO into a clone of MMDetection, as one of its projects.

    Writes MMDETECTION/projects/DITO: README.md, configs/ and the package
    dito/, which needs no installation there. Its configs say
    custom_imports = dict(imports=['projects.DITO']).
    """
    parser.add_argument(
        'mmdetection', help='clone of MMDetection (a folder with tools/)'
    )
