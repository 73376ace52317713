# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Named objects, found in pictures."""

import os
import signal
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from dito.apis import DITOInferencer, Film, parse_names
from dito.apis.examples import typed_example
from dito.apis.pictures import list_images
from dito.apis.results import Detections, to_dict
from dito.apis.tracks import Followed
from dito.apis.writers import (
    CocoWriter,
    CsvWriter,
    FileWriter,
    LabelStudioWriter,
)
from dito.utils.configs import config_root
from dito.utils.files import require_place
from dito.utils.printable import Console, printable_line

from .errors import ExitCode
from .options import command

# The detector that comes with the package, a published folder.
SHIPPED = Path('symbols/assets/dito_symbols')

# With fewer names a detector has hardly a choice.
FEW_NAMES = 5


def model_source(
    config: str | None, checkpoint: str | None
) -> tuple[str | None, str]:
    """Config and weights to use.

    Returns:
        tuple: Config file or None; weights as :class:`DITOInferencer` takes
        them.

    Raises:
        FileNotFoundError: If the package lacks the shipped detector.
        ValueError: If there is a config without weights.
    """
    if checkpoint is None:
        if config is not None:
            raise ValueError(
                f'--config {config} needs --checkpoint too; a '
                'detector without trained weights finds nothing.'
            )
        checkpoint = str(config_root() / SHIPPED)
        print(
            'Note: the shipped detector has seen drawings only, the 198 '
            'things of the data set "symbols". Photographs need '
            '--checkpoint: "official" after "dito get official", or one '
            'of your own training; docs/routes.md has the ways.'
        )
    return config, checkpoint


def format_rows(result: dict[str, Any], limit: int) -> str:
    """The first detections of an image, one per line."""
    rows = zip(
        result['scores'], result['names'], result['bboxes'], strict=True
    )
    lines = []
    for _, (score, name, box) in zip(range(limit), rows, strict=False):
        name = printable_line(name)
        corners = ', '.join(f'{value:.0f}' for value in box)
        lines.append(f'  {score:.3f}  {name}  ({corners})')
    return '\n'.join(lines)


def report(
    image: str,
    result: dict[str, Any],
    score_thr: float,
    top_k: int | None,
    negative: int = 0,
) -> str:
    """Say what was found in an image.

    Args:
        image (str): Its path.
        result (dict): All detections, best first.
        score_thr (float): Least score that counts as found.
        top_k (int, optional): Lines to print, whatever their score; None
            prints what was found.
        negative (int): Detections that went to negative names.

    Returns:
        str: A line with the count, then detections.
    """
    scores = result['scores']
    count = sum(score >= score_thr for score in scores)
    text = (
        f'{printable_line(image)}: {count} found with a score of {score_thr} '
        'or more'
    )
    shown = count if top_k is None else top_k
    if not shown and scores:
        text += f'; the best has {scores[0]:.3f}'
    if shown > len(scores):
        boxes = f'{len(scores) + negative} boxes'
        text += (
            f'; of the best {boxes} {negative} went to negative names'
            if negative
            else f'; there are {boxes} in all'
        )
    rows = format_rows(result, shown)
    return f'{text}\n{rows}' if rows else text


def by_label(
    given: Sequence[tuple[str, str]], read: Callable[[str], Sequence[Any]]
) -> dict[str, list[Any]]:
    """What was given for each label, in one or in several options."""
    found: dict[str, list[Any]] = {}
    for label, text in given:
        found.setdefault(label, []).extend(read(text))
    return found


def listed(given: Sequence[str]) -> list[Any]:
    """Pictures and films that are meant, found before anything loads."""
    return [image for item in given for image in list_images(item, None)]


def load(args: Namespace) -> DITOInferencer:
    """Detector that looks for what is asked for."""
    # Errors in names come before anything loads.
    for names in (args.names, args.negative_names):
        if names not in (None, 'trained'):
            parse_names(names)
    groups = by_label(args.group, parse_names)
    examples = by_label(args.example, lambda text: [typed_example(text)])
    config, weights = model_source(args.config, args.checkpoint)
    detector = DITOInferencer(
        config,
        weights,
        device=args.device,
        negative_names=args.negative_names,
    )
    if args.objects:
        return detector
    asked = detector.embed(args.names, examples=examples, groups=groups)
    labels = detector.set_vocabulary(asked).labels
    if len(labels) < FEW_NAMES and args.negative_names is None:
        count = len(labels)
        print(
            'Note: every object is taken for '
            f'{f"one of {count} names" if count > 1 else "this name"} or '
            'for background; --negative-names trained lets others compete.'
        )
    return detector


@command
def main(args: Namespace) -> int:
    """Detect."""
    images = listed(args.image)
    if args.track:
        Followed(args.score_thr)  # It needs a library.
    writers = _writers(args, images)
    require_place(Path(args.out_dir, 'vis', 'any'))
    inferencer = load(args)
    films = [image for image in images if isinstance(image, Film)]
    for film in films:
        film.every = args.every
    broken = []
    said = Reports(args.score_thr, args.list_top_k)
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        advance = stack.enter_context(_progress(images))
        alone = len(films) == len(images)
        stack.enter_context(_stopped_by_signals(films, alone))
        for found in inferencer.stream(
            images,
            score_thr=args.score_thr,
            out_dir=args.out_dir,
            batch_size=args.batch_size,
            agnostic_nms=args.agnostic_nms,
            objects=args.objects,
            on_error='collect',
            track=args.track,
            tile=args.tile,
            tile_overlap=args.tile_overlap,
        ):
            if found.error is not None:
                broken.append(found.error)
                continue
            for writer in writers:
                writer.add(found)
            said.add(found)
            advance()
        said.end_film()
    if said.count:
        print(f'Pictures and results are in {args.out_dir}.')
        _say_files(args, writers)
    if any(film.stopped and not film.live for film in films):
        print('interrupted; what was read is kept', file=sys.stderr)
        return ExitCode.INTERRUPTED
    return say_broken(broken, len(images), said.count > 0)


def _writers(args: Namespace, images: Sequence[Any]) -> list[FileWriter]:
    """The files of all detections that are wanted."""
    # From the folder that all images lie in.
    root = common_folder([getattr(image, 'name', image) for image in images])
    kinds = (
        (CocoWriter, args.save_json),
        (CsvWriter, args.save_csv),
        (LabelStudioWriter, args.save_label_studio),
    )
    return [kind(path, root) for kind, path in kinds if path]


def _say_files(args: Namespace, writers: Sequence[FileWriter]) -> None:
    """Name the files of all detections."""
    if args.save_json:
        print(f'All detections in the format of COCO are in {args.save_json}.')
    if args.save_csv:
        print(f'All detections as a table are in {args.save_csv}.')
    for writer in writers:
        if isinstance(writer, LabelStudioWriter):
            print(
                f'Tasks for Label Studio are in {args.save_label_studio}, '
                f'its labelling interface in {writer.interface}; start it '
                'with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true '
                'LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT='
                f'{writer.document_root}.'
            )


class Reports:
    """Print what was found: of a picture its boxes, of a film the numbers.

    Args:
        score_thr (float): Least score that counts as found.
        top_k (int, optional): See :func:`report`.
    """

    def __init__(self, score_thr: float, top_k: int | None) -> None:
        self._options = score_thr, top_k
        self._film, self._frames = '', 0
        self._found: Counter[str] = Counter()
        self.count = 0

    def add(self, found: Detections) -> None:
        """Take what was found in a picture or frame."""
        self.count += 1
        if found.frame is None:
            self.end_film()
            text = report(
                found.source,
                plain_result(found),
                *self._options,
                found.negative,
            )
            print(text)
            return
        if found.frame == 0:
            self.end_film()
        self._film, self._frames = found.source, self._frames + 1
        labels = found.kept.pred_instances.labels.tolist()
        self._found.update(found.names[i] for i in labels)

    def end_film(self) -> None:
        """Print what was found in the film whose frames came."""
        if self._frames:
            names = ', '.join(
                f'{count} {name}' for name, count in self._found.most_common()
            )
            print(
                printable_line(
                    f'{self._film}: in {self._frames} frames '
                    f'{names or "nothing"} with a score of '
                    f'{self._options[0]} or more'
                )
            )
        self._frames = 0
        self._found.clear()


@contextmanager
def _progress(images: Sequence[Any]) -> Iterator[Callable[[], None]]:
    """Show on a terminal how many images are done and the time left."""
    console = Console(stderr=True)
    counts = [
        _frames_of(image) if isinstance(image, Film) else 1 for image in images
    ]
    with Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # What goes into a file or pipe stays there.
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        total = None if None in counts else sum(counts)
        task = bar.add_task('detecting', total=total)
        yield lambda: bar.advance(task)


def _frames_of(film: Film) -> int | None:
    """Frames of a film; 0 of one that cannot be opened, which comes later."""
    try:
        return film.count
    except (OSError, ValueError):
        return 0


@contextmanager
def _stopped_by_signals(films: Sequence[Film], alone: bool) -> Iterator[None]:
    """End cameras, or a film alone, by a signal; keep what was read."""
    ended = [film for film in films if film.live or alone]
    before = {}

    def stop(number: int, _: Any) -> None:
        for film in ended:
            film.stop()
        signal.signal(number, before[number])  # a second one ends at once

    if ended and current_thread() is main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def common_folder(images: Sequence[str]) -> str:
    """Start that the paths of all images share, up to a folder's end."""
    start = os.path.commonprefix(list(images))
    return start[: start.rfind('/') + 1]


def plain_result(found: Detections) -> dict[str, Any]:
    """All detections of an image, best first, without their masks."""
    sample = found.every.new()
    sample.pred_instances = found.every.pred_instances[:]
    sample.pred_instances.pop('box_masks', None)
    return to_dict(sample, found.names)


def say_broken(
    errors: Sequence[str], count: int, begun: bool = False
) -> ExitCode:
    """Name at the end the images that could not be read.

    Args:
        errors (Sequence[str]): A sentence of each.
        count (int): Images in all.
        begun (bool): Whether something was read, such as the beginning of a
            film that breaks off.

    Returns:
        ExitCode: ``PARTIAL`` where some were read and some were not.
    """
    for error in errors:
        print(f'error: {printable_line(error)}', file=sys.stderr)
    if not errors:
        return ExitCode.RIGHT
    if len(errors) < count:
        print(
            f'error: {len(errors)} of {count} images could not be read; '
            'the others are done.',
            file=sys.stderr,
        )
        return ExitCode.PARTIAL
    return ExitCode.PARTIAL if begun else ExitCode.USAGE
