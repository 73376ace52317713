# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Indexes of pictures, and objects found in them."""

from argparse import Namespace
from typing import Any

from dito.apis import DITOInferencer, Index, parse_names
from dito.apis.examples import typed_example
from dito.apis.pictures import refuse_films
from dito.utils.files import require_place
from dito.utils.printable import printable, printable_line

from .detect import listed, model_source, say_broken
from .options import command

# Pictures between two lines of progress.
_EVERY = 100


@command
def index(args: Namespace) -> int:
    """Write an index."""
    images = listed(args.image)
    refuse_films(images)
    require_place(args.out)
    detector = DITOInferencer(
        *model_source(args.config, args.checkpoint), device=args.device
    )

    def progress(done: int) -> None:
        if done % _EVERY == 0:
            print(f'{done} of {len(images)} pictures', flush=True)

    index = Index.build(
        detector, images, regions=args.regions, on_picture=progress
    )
    index.save(args.out)
    print(
        printable(
            f'{args.out}: {len(index)} objects of {len(index.paths)} pictures'
        )
    )
    return say_broken(index.errors, len(images))


def as_examples(given: list[str]) -> dict[str, Any] | None:
    """Pictures as they are typed, for :meth:`DITOInferencer.embed`."""
    return {'example': list(map(typed_example, given))} if given else None


@command
def search(args: Namespace) -> int:
    """Search an index."""
    for names in (args.query, args.negative_names):
        if names not in (None, 'trained'):
            parse_names(names)  # Errors in names come before anything loads.
    Index.check(args.index)
    examples, against = map(as_examples, (args.example, args.negative_example))
    detector = DITOInferencer(
        *model_source(args.config, args.checkpoint),
        device=args.device,
        negative_names=args.negative_names,
    )
    index = Index.load(args.index, detector)
    asked = detector.embed(args.query, examples=examples)
    negatives = detector.negatives
    if against is not None:
        negatives = detector.embed(negatives, examples=against)
    for hit in index.search(asked, args.top_k, negative_names=negatives):
        corners = ', '.join(f'{value:.0f}' for value in hit.box)
        print(
            printable_line(
                f'{hit.similarity:.3f}  {hit.name}  {hit.path}  ({corners})'
            )
        )
    return 0
