# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time and memory of asking one picture for few and for very many names.

Encodes a picture of noise, then asks it for random embeddings, and for names
through the text tower. Prints a JSON line for each size of the picture and
number of names: milliseconds of one ``Scene.find`` (median), of a call with
new names, of their parts, and the memory that it takes above what is held, in
MB (Linux). The parts of a call without masks are the text tower
(``embed_ms``), the backbone, the heads (with pyramid and scores) and what
comes after them; above 4,096 names the scores are made in the last, in
chunks.

Example:
    python tools/analysis_tools/benchmark_names.py --names 80 1203 13000
    python tools/analysis_tools/benchmark_names.py --img-sizes 192 384 768
    python tools/analysis_tools/benchmark_names.py --config dito_vitb_lvis
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from benchmark_peers import noise, peak
from mmengine.config import Config

from dito.apis import DITOInferencer
from dito.models.text import Vocabulary
from dito.utils.configs import config_root, find_config

SHIPPED = 'symbols/assets/dito_symbols'


def milliseconds(work: Callable[[], Any], times: int) -> float:
    """Median time of a call, of all threads together."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(1e3 * (time.process_time() - start))
    return round(statistics.median(taken), 1)


class Timer:
    """Time that is spent in a method, in milliseconds.

    Args:
        owner (Any): Whose method is measured from now on.
        name (str): Of the method.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.spent = 0.0
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.spent += 1e3 * (time.process_time() - start)

        setattr(owner, name, timed)

    def share(
        self, work: Callable[[], Any], times: int
    ) -> tuple[float, float]:
        """Median time of some work, and the method's mean in it."""
        self.spent = 0.0
        total = milliseconds(work, times)
        return total, round(self.spent / times, 1)


def resized(config: str, size: int | None) -> Config:
    """A config whose tests have pictures of another side."""
    cfg = Config.fromfile(find_config(config))
    if size is not None:
        cfg.model.data_preprocessor.pad_size_divisor = size
        for step in cfg.test_dataloader.dataset.pipeline:
            if step['type'] == 'Resize':
                step['scale'] = (size, size)
    return cfg


def measure(
    args: argparse.Namespace, detector: Any, size: int | None, text: bool
) -> None:
    """Ask one detector for few and many names."""
    model = detector.model
    picture = noise(size or 1024)
    backbone = Timer(model.backbone, 'forward')
    scoring = Timer(model.roi_head, 'scores')
    scene = detector.encode(picture)
    encoding, inside = backbone.share(
        lambda: detector.encode(picture), args.times
    )
    tower = model.text_encoder
    dims = model.roi_head.bbox_head.embed_dims
    known = detector.train_meta.get('classes') or map(str, range(200))
    words = [' '.join(pair) for pair in product(known, repeat=2)]
    for count in args.names:
        rows = F.normalize(torch.randn(count + 1, dims), dim=1)
        names = tuple(words[:count])
        vocabulary = Vocabulary(
            names,
            rows[:-1],
            rows[-1],
            torch.ones(count, dtype=torch.bool),
            tower.fingerprint() if tower is not None else '',
        )

        def find(
            masks: bool = False, vocabulary: Vocabulary = vocabulary
        ) -> None:
            scene.find(vocabulary, masks=masks)

        find()
        finding, scored = scoring.share(find, args.times)
        line = dict(
            size=size,
            names=count,
            regions=len(scene),
            encode_ms=encoding,
            backbone_ms=inside,
            heads_ms=round(encoding - inside + scored, 1),
            after_ms=round(finding - scored, 1),
            find_ms=finding,
            with_masks_ms=milliseconds(lambda f=find: f(True), args.times),
            peak_mb=round(peak(find), 1),
            swap_ms=milliseconds(
                lambda v=vocabulary: detector.set_vocabulary(v), args.times
            ),
        )
        if text:
            line['embed_ms'] = milliseconds(
                lambda n=names: detector.embed(list(n)), 1
            )
        print(json.dumps(line), flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description='Few and many names.')
    add = parser.add_argument
    add('--names', type=int, nargs='+', default=[80, 1203, 13000])
    add('--config', help='with random weights (default: shipped detector)')
    add(
        '--img-sizes',
        type=int,
        nargs='+',
        default=[None],
        help="sides of the input (default: the config's, of 1,024 pixels)",
    )
    add('--times', type=int, default=5)
    add('--device', default='cpu')
    args = parser.parse_args()
    weights = None if args.config else config_root() / SHIPPED
    for number, size in enumerate(args.img_sizes):
        detector = DITOInferencer(
            resized(args.config or 'symbols/dito_symbols.py', size),
            weights,
            device=args.device,
        )
        # The text tower does not see the picture.
        measure(args, detector, size, not args.config and not number)


if __name__ == '__main__':
    main()
