# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Options of the tools that train, test and detect, and look at models."""

import os
from argparse import REMAINDER, Namespace
from pathlib import Path

from dito.reports.ablation_tables import DATA_SETS, TABLES

from . import shared
from .shared import ToolParser, ending, named, natural

SCORES = ('vlm', 'det', 'ensemble')
# Iterations of the quickstart's stage 2: from its shipped result, and from
# the tower alone.
REP_ITERS, TOWER_ITERS = 150, 450
_IMAGES = "image files, addresses, folders, or patterns ('photos/*.jpg')"
_SHIPPED = 'the shipped detector, which knows drawn symbols only'
# Share of a tile that its neighbour has too.
TILE_OVERLAP = 0.2
# Of what a visitor of the page may ask.
DEMO_LIMITS = dict(
    mbytes=(20, 'size of a picture in megabytes'),
    megapixels=(50, 'its pixels in millions'),
    names=(500, 'names to look for, and as many negative ones'),
    seconds=(60, 'time that a visitor waits for the answer to one picture'),
    queue=(20, 'visitors that wait at a time'),
)


def train(parser: ToolParser) -> None:
    """Train any stage: image-text pretraining, REP, or detection."""
    add = parser.add_argument
    shared.add_config(parser)
    shared.add_work_dir(parser)
    shared.add_launcher(parser)
    shared.add_data(parser, "what to train on instead of the config's")
    add(
        '--val-data',
        metavar='FILE',
        help='the same to evaluate on (default: none, no evaluation); names '
        'that --data lacks are novel',
    )
    add(
        '--val-images',
        metavar='DIR',
        help='folder that the file names in --val-data are relative to '
        '(default: that of --images)',
    )
    add(
        '--amp',
        action='store_true',
        help='train in bfloat16 mixed precision, on a GPU or a CPU',
    )
    add(
        '--compile',
        action='store_true',
        help='compile the layers by torch.compile, once for all sizes of '
        'pictures; takes minutes at the start',
    )
    add(
        '--auto-scale-lr',
        action='store_true',
        help='train another batch than that of the schedule '
        '(auto_scale_lr.base_batch_size), with the learning rate scaled to '
        'it: train_cfg.total_batch_size where that is changed, else '
        'train_dataloader.batch_size images on every process',
    )
    add(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a value, from the last '
        'whole one in the work folder, or from the beginning if it has none',
    )
    parser.check(
        lambda args: (
            '--val-data and --val-images need --data'
            if args.data is None and (args.val_data or args.val_images)
            else shared.data_and_images(args)
        )
    )


def test(parser: ToolParser) -> None:
    """Evaluate a checkpoint on the test set of a config, or on any other."""
    add = parser.add_argument
    shared.add_config(parser)
    shared.add_checkpoint(parser, shared.PUBLISHED)
    shared.add_work_dir(parser)
    shared.add_launcher(parser)
    add(
        '--out',
        type=shared.ending('.pkl', '.pickle'),
        metavar='FILE',
        help='write the predictions to this .pkl file',
    )
    add('--show', action='store_true', help='show each result in a window')
    add(
        '--show-dir',
        metavar='DIR',
        help='folder for pictures of the results, inside the work folder',
    )
    add(
        '--wait-time',
        type=float,
        default=2,
        metavar='SECONDS',
        help='time between two shown results',
    )
    group = parser.add_argument_group(
        'another data set',
        'Evaluate on any set by the names of its categories; of the config '
        'only the model and the image processing are used.',
    )
    shared.add_data(group, 'another data set')
    group.add_argument(
        '--vocabulary',
        metavar='FILE',
        help='.safetensors file with all its names (default: the text tower '
        'of the model embeds them)',
    )
    shared.add_novel(
        group,
        ', for which the image-text score has the larger part; or unseen '
        '(what the checkpoint was not trained on), none, all',
        'unseen',
    )
    parser.check(shared.data_and_images)
    parser.check(
        lambda args: (
            '--vocabulary and --novel need --data'
            if args.data is None
            and (args.vocabulary or args.novel != 'unseen')
            else None
        )
    )


def detect(parser: ToolParser) -> None:
    """Find named objects in pictures and films; write what was found.

    Exits with 3 where some of several pictures could not be read, or a film
    breaks off. A camera is read until Ctrl-C.
    """
    add = parser.add_argument
    add(
        'image',
        nargs='+',
        help=f'{_IMAGES}; films (.mp4, .avi, .mkv ...); camera:0, the first '
        'camera, or rtsp:// addresses',
    )
    shared.add_names(parser, 'what to look for', required=False)
    _add_shown(parser)
    _add_detector(parser)
    shared.add_out_dir(
        parser, 'folder for pictures (vis/) and results (preds/)', 'outputs'
    )
    _add_reading(parser)
    _add_files(parser)
    add(
        '--score-thr',
        type=shared.share,
        default=0.3,
        help='least score of what is written',
    )
    add(
        '--agnostic-nms',
        type=shared.share,
        metavar='IOU',
        help='of detections that overlap by more keep only the best, '
        'whatever their names (0.5 gives one name per object)',
    )
    shared.add_device(parser)
    add(
        '--list-top-k',
        type=natural,
        metavar='K',
        help='print the K best of each image, whatever their score (default: '
        'those of --score-thr or more)',
    )
    parser.check(
        lambda args: (
            '--agnostic-nms is in (0, 1], got 0'
            if args.agnostic_nms == 0
            else None
        )
    )
    parser.check(_something_to_look_for)
    parser.check(_sound_tiles)
    parser.check(_files_apart)


def _add_shown(parser: ToolParser) -> None:
    """Add what is looked for beside names."""
    add = parser.add_argument
    add(
        '--example',
        type=named('NAME=PICTURE or NAME=PICTURE@x1,y1,x2,y2'),
        action='append',
        default=[],
        metavar='NAME=PICTURE',
        help='look for what a picture shows, or a box of it: "my '
        'mug=desk.jpg@10,20,80,90"; several of a name are averaged, with the '
        'name where it is one of --names',
    )
    add(
        '--group',
        type=named('LABEL=NAME,NAME'),
        action='append',
        default=[],
        metavar='LABEL=NAMES',
        help='names under one label, as synonyms: "bike=bicycle, tricycle"',
    )
    add(
        '--objects',
        action='store_true',
        help="look for objects without names, by the detector's objectness",
    )


def _add_reading(parser: ToolParser) -> None:
    """Add how films and large pictures are looked at."""
    add = parser.add_argument
    add(
        '--every',
        type=natural,
        default=1,
        metavar='N',
        help='look at every so many-th frame of films',
    )
    add(
        '--track',
        action='store_true',
        help='number the objects of films from frame to frame (needs '
        'trackers: pip install "dito-mmdet[track]")',
    )
    add(
        '--batch-size',
        type=natural,
        default=1,
        metavar='N',
        help='pictures, frames or tiles that pass the detector together',
    )
    add(
        '--tile',
        type=natural,
        metavar='SIZE',
        help='cut pictures and frames that are larger into tiles with a side '
        'of so many pixels, for objects that are small in them',
    )
    add(
        '--tile-overlap',
        type=float,
        default=TILE_OVERLAP,
        metavar='F',
        help='least share of a tile that its neighbour has too, below 1; what '
        'is no longer is seen whole',
    )


def _add_files(parser: ToolParser) -> None:
    """Add the files of all detections."""
    add = parser.add_argument
    add(
        '--save-json',
        type=shared.place,
        metavar='FILE',
        help="write what was found in all images to one file in COCO's "
        'format, with names, image files and sizes',
    )
    add(
        '--save-csv',
        type=shared.place,
        metavar='FILE',
        help='write it to a table with a row for each box',
    )
    add(
        '--save-label-studio',
        type=ending('.json'),
        metavar='FILE',
        help='write it as tasks with predictions for Label Studio, and the '
        'labelling interface beside (.xml)',
    )


def _sound_tiles(args: Namespace) -> str | None:
    """Refuse an overlap of no tiles, or one that leaves no step."""
    if not 0 <= args.tile_overlap < 1:
        return f'--tile-overlap is in [0, 1), got {args.tile_overlap:g}'
    if args.tile is None and args.tile_overlap != TILE_OVERLAP:
        return '--tile-overlap needs --tile'
    return None


def _files_apart(args: Namespace) -> str | None:
    """Refuse files of all detections that would replace each other."""
    given = [args.save_json, args.save_csv, args.save_label_studio]
    if args.save_label_studio:
        given.append(args.save_label_studio.removesuffix('.json') + '.xml')
    paths = [os.path.abspath(path) for path in given if path]
    twice = next((p for p in paths if paths.count(p) > 1), None)
    return twice and f'{twice} would be written twice; give each its own file'


def _something_to_look_for(args: Namespace) -> str | None:
    """Refuse a search for nothing, or for all and something."""
    asked = args.names or args.example or args.group
    if not args.objects:
        return (
            None
            if asked
            else 'there is nothing to look for; give --names, --example, '
            '--group or --objects'
        )
    return (
        '--objects looks for objects without names; leave it out, or the '
        'names, examples and groups'
        if asked or args.negative_names
        else None
    )


def index(parser: ToolParser) -> None:
    """Encode pictures once, to search them by any names.

    Exits with 3 where some of several pictures could not be read.
    """
    add = parser.add_argument
    add('image', nargs='+', help=_IMAGES)
    add(
        '--out',
        type=ending('.safetensors'),
        default='index.safetensors',
        metavar='FILE',
        help='file to write',
    )
    add(
        '--regions',
        type=natural,
        default=50,
        help='most objects that are kept of a picture',
    )
    shared.add_model(parser, _SHIPPED)
    shared.add_device(parser)


def search(parser: ToolParser) -> None:
    """Find objects in indexed pictures by names or examples, nearest first."""
    add = parser.add_argument
    add('index', help='file that dito index has written')
    add(
        'query',
        nargs='?',
        help='what to look for: "red umbrella, anchor", a file of names or a '
        'vocabulary file',
    )
    add(
        '--example',
        action='append',
        default=[],
        metavar='PICTURE',
        help='look for what a picture shows, or a box of it: '
        'desk.jpg@10,20,80,90; several are averaged',
    )
    add(
        '--negative-example',
        action='append',
        default=[],
        metavar='PICTURE',
        help='what is nearer to what this shows is left out',
    )
    add(
        '--top-k',
        type=natural,
        default=20,
        metavar='K',
        help='most objects to print',
    )
    _add_detector(parser)
    shared.add_device(parser)
    parser.check(
        lambda args: (
            'there is nothing to look for; give names, or --example PICTURE'
            if args.query is None and not args.example
            else None
        )
    )


def demo(parser: ToolParser) -> None:
    """Serve a web page that finds named objects in pictures (Gradio).

    The page has no accounts: whoever reaches the address may use it.
    """
    add = parser.add_argument
    shared.add_model(parser, _SHIPPED)
    add(
        '--rep-checkpoint',
        metavar='CHECKPOINT',
        help='result of stage 2 for the similarity maps (default: the '
        "shipped one of the shipped detector, else --checkpoint's own box "
        'head)',
    )
    add('--host', default='127.0.0.1', help='address to serve at')
    add('--port', type=natural, default=7860, metavar='N', help='its port')
    for name, (default, text) in DEMO_LIMITS.items():
        option = f'--max-{name}'
        add(option, type=natural, default=default, metavar='N', help=text)
    shared.add_device(parser)


def threshold(parser: ToolParser) -> None:
    """Find a score threshold on annotated pictures of one's own.

    Twenty pictures are enough for a first guess. Every object of the classes
    looked for must be annotated: one that is not counts as wrongly found.
    """
    shared.add_data(parser, 'what to find', required=True)
    _add_detector(parser)
    parser.add_argument(
        '--precision',
        type=float,
        default=0.9,
        metavar='F',
        help='share of right detections that one threshold must reach',
    )
    shared.add_device(parser)
    parser.check(
        lambda args: (
            None
            if 0 < args.precision <= 1
            else f'--precision is in (0, 1], got {args.precision:g}'
        )
    )


def _add_detector(parser: ToolParser) -> None:
    """Add what says how a detector finds what it is asked for."""
    shared.add_negative_names(parser)
    shared.add_model(parser, _SHIPPED)


def quickstart(parser: ToolParser) -> None:
    """Run the three stages' whole chain on the built-in data set "symbols"."""
    add = parser.add_argument
    shared.add_work_dir(
        parser,
        Path('work_dirs/quickstart'),
        'folder for checkpoints, logs, metrics.json and report.html; an '
        'earlier quickstart in it is replaced',
    )
    add(
        '--from-tower',
        action='store_true',
        help='train stage 2 from the tower of stage 1 alone; by default it '
        'goes on from the shipped result of a long stage 2',
    )
    add(
        '--rep-iters',
        type=natural,
        metavar='N',
        help='iterations of region-centric pretraining (default: '
        f'{REP_ITERS}; with --from-tower {TOWER_ITERS})',
    )
    add(
        '--det-iters',
        type=natural,
        default=200,
        metavar='N',
        help='iterations of detection finetuning',
    )
    shared.add_device(parser)


def make_report(parser: ToolParser) -> None:
    """Make the report of a quickstart again, or the picture of the README."""
    add = parser.add_argument
    add(
        'quickstart_dir',
        type=Path,
        nargs='?',
        default=Path('work_dirs/quickstart'),
        help='work folder of the quickstart',
    )
    add(
        '--data-root',
        type=Path,
        default=Path('data/symbols'),
        metavar='DIR',
        help='the data set "symbols"',
    )
    add(
        '--out',
        type=Path,
        metavar='FILE',
        help='file to write (default: report.html in the work folder)',
    )
    add(
        '--figure',
        type=Path,
        metavar='FILE',
        help='write a picture instead of the report: detections in the first '
        'validation pictures with a novel object alone of its class, and '
        'maps of that object before and after stage 2',
    )
    shared.add_model(parser, 'that of the quickstart')
    add(
        '--rep-checkpoint',
        metavar='CHECKPOINT',
        help='result of stage 2, for the maps; without it --checkpoint alone '
        'gives a picture without maps',
    )
    add('--rep-config', metavar='CONFIG', help='config of --rep-checkpoint')
    add(
        '--count',
        type=natural,
        default=4,
        metavar='N',
        help='pictures in the figure',
    )
    shared.add_device(parser)
    parser.check(_figure_alone)


def _figure_alone(args: Namespace) -> str | None:
    """Refuse what is only for a figure of given checkpoints."""
    given = args.checkpoint, args.config, args.rep_checkpoint, args.rep_config
    if not any(given) or (args.figure and args.checkpoint):
        return None
    return (
        '--config, --rep-checkpoint and --rep-config belong to --figure with '
        '--checkpoint; give both'
    )


def similarity_map(parser: ToolParser) -> None:
    """Draw where in a picture a model sees what a text says (paper, fig. 3).

    For each text a row: the picture, the map of the backbone's features, and
    that of the region embeddings of the box head, which slides over pyramid
    level 4. Each map is coloured from its own least to its own greatest
    cosine.
    """
    add = parser.add_argument
    add('image', help='image file')
    add('--text', nargs='+', required=True, help='one or more queries')
    shared.add_model(parser)
    add(
        '--out',
        type=ending('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif'),
        default='outputs/similarity.png',
        metavar='FILE',
        help='picture to write',
    )
    add(
        '--img-size',
        type=natural,
        metavar='PIXELS',
        help='longer side at the input (default: that of the config)',
    )
    add(
        '--windows',
        type=natural,
        nargs='+',
        default=[3, 5, 7],
        metavar='CELLS',
        help='sides of the sliding windows, the best of which counts',
    )
    shared.add_device(parser)
    parser.check(
        lambda args: (
            None
            if all(text.strip() for text in args.text)
            else 'a --text is blank; leave it out, or say what to look for'
        )
    )


def region_accuracy(parser: ToolParser) -> None:
    """Classify the annotated boxes of a test set (paper, Table 6a).

    The config is a detector's. With --score vlm the checkpoint may also be
    that of a pretraining: pyramid and heads take no part, and without a
    projection the backbone's map is used as it is. That is the row "before
    detection training".
    """
    shared.add_config(parser)
    shared.add_checkpoint(parser)
    shared.add_work_dir(parser)
    shared.add_launcher(parser)
    parser.add_argument(
        '--score',
        choices=SCORES,
        default=SCORES[0],
        help='which score names a box',
    )


def ablation(parser: ToolParser) -> None:
    """Train, evaluate and render the paper's ablation tables.

        dito ablation 4a --dataset symbols --seeds 3

    Every training and every evaluation is a step with a result file of its
    own: what is finished is never made again, also not for another table, and
    what was interrupted goes on from its last checkpoint. All rows of a table
    have one schedule.

    Batches are those of the schedules on any number of processes that divides
    them. For others give --cfg-options auto_scale_lr.enable=True.
    """
    add = parser.add_argument
    add(
        'table',
        nargs='+',
        choices=[*TABLES, 'all'],
        metavar='TABLE',
        help=f'one or more of {", ".join(TABLES)}, or all',
    )
    add(
        '--dataset',
        choices=DATA_SETS,
        default=DATA_SETS[0],
        help='where the tables are made',
    )
    add(
        '--seeds',
        type=natural,
        default=1,
        metavar='N',
        help='number of seeds, from 0',
    )
    add(
        '--rows',
        nargs='+',
        default=[],
        metavar='ROW',
        help='only these rows (default: all)',
    )
    _add_trainings(parser)
    shared.add_work_dir(
        parser,
        what='folder of runs and tables (default: work_dirs/ablation_DATASET)',
    )
    add(
        '--dry-run',
        action='store_true',
        help='show the steps and how long they take, and run nothing',
    )
    shared.add_cfg_options(parser)
    parser.check(
        lambda args: (
            f'--rep-checkpoint {args.rep_checkpoint} is not a file'
            if args.rep_checkpoint and not args.rep_checkpoint.is_file()
            else None
        )
    )


def _add_trainings(parser: ToolParser) -> None:
    """Add how the trainings of a table are made."""
    add = parser.add_argument
    add(
        '--iters-scale',
        type=float,
        default=1.0,
        metavar='F',
        help='factor of the lengths of all schedules',
    )
    add(
        '--budget-hours',
        type=float,
        metavar='H',
        help='begin nothing that would end later; 0 only renders (default: '
        'no end)',
    )
    add(
        '--own-pretraining',
        action='store_true',
        help='a pretraining for every seed (default: one for all)',
    )
    add(
        '--rep-checkpoint',
        type=Path,
        metavar='CHECKPOINT',
        help='result of the full stage 2, for the rows w/REP: it is not '
        'trained then (Tables 4b and 4c compare it with others, which are '
        'trained by the schedule)',
    )
    add(
        '--gpus',
        type=natural,
        default=1,
        metavar='N',
        help='processes of a run; see above',
    )


def memory(parser: ToolParser) -> None:
    """Peak memory of a training step, by its parts.

        dito memory                    # computed
        dito memory --measure small    # and measured
        dito memory --measure small base large --device cuda --bf16
        dito memory dito_vitb_lvis pretrain/clip_vitb16_laion2b --batch 64

    With configs the whole step of each is computed, at the batch, size and
    type that it trains with unless they are given: of pretraining by running
    it, of a detector as the sum below.

    Backbone: forward and backward pass of the ViT at 1024 x 1024 pixels in
    4 x 4 windows, over the loaded model: activations, transient values and
    gradients. Figures are computed by running the very modules on tensors
    without data, about a second each; measured ones are beside them, as
    PyTorch's allocator counts them. Heads: what pyramid, proposal, box and
    mask head keep for the backward pass, with the 512 RoIs of an image. A
    step of the detector takes about the sum of backbone, heads, teacher and
    weights; the optimizer's state and the weights of the heads come on top.
    """
    add = parser.add_argument
    archs = ('tiny', 'small', 'base', 'large', 'huge')
    shared.add_config(parser, nargs='*')
    add(
        '--arch',
        nargs='+',
        choices=archs,
        default=['small', 'base', 'large'],
        help='sizes of the ViT',
    )
    add(
        '--batch',
        nargs='+',
        type=natural,
        metavar='N',
        help='images that pass together (default: 1 2 3 4, or as the config '
        'has it)',
    )
    add(
        '--img-size',
        type=natural,
        metavar='PIXELS',
        help='side of the images (default: 1024, or as the config has it)',
    )
    add('--bf16', action='store_true', help='bfloat16 autocast')
    add(
        '--measure',
        nargs='*',
        choices=archs,
        default=[],
        help='measure these (each takes a forward and a backward pass)',
    )
    shared.add_device(parser)
    shared.add_json(parser)


def print_config(parser: ToolParser) -> None:
    """Print a config with everything it inherits and every override."""
    shared.add_config(parser)
    parser.add_argument(
        '--out',
        type=shared.ending('.py', '.yml', '.yaml', '.json'),
        metavar='FILE',
        help='write it here too (.py, .yml or .json)',
    )


def run(parser: ToolParser) -> None:
    """Run another script with DITO imported first.

    Importing DITO puts the stand-in for mmcv's compiled operators in place
    and registers its classes; MMDetection's own tools/test.py needs both, and
    imports parts of MMDetection before it reads the config's custom_imports.
    """
    parser.add_argument('script', help='a .py file')
    parser.add_argument('args', nargs=REMAINDER, help='its arguments')


def check_env(parser: ToolParser) -> None:
    """Check the installation: versions, operators, devices.

    Each problem has a remedy. Exits with 1 when something keeps DITO from
    running; works where DITO cannot be imported.
    """
