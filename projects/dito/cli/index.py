# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""An index of pictures."""

from argparse import Namespace

from dito.apis import DITOInferencer, Index
from dito.utils.printable import printable

from .detect import model_source, say_broken
from .options import command

# Pictures between two lines of progress.
_EVERY = 100


@command
def main(args: Namespace) -> int:
    """Write an index."""
    detector = DITOInferencer(
        *model_source(args.config, args.checkpoint), device=args.device
    )
    images = [
        path for item in args.image for path in detector.list_images(item)
    ]

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
