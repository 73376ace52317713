# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time and memory of asking one picture for few and for very many names.

Encodes a picture of noise, then asks it for random embeddings, and for names
through the text tower where their number is given. Prints a JSON line each:
milliseconds of one ``Scene.find`` (median), of a call with new names, and the
memory that it takes above what is held, in MB (Linux).

Example:
    python tools/analysis_tools/benchmark_names.py --names 80 1203 13000
    python tools/analysis_tools/benchmark_names.py --config dito_vitb_lvis
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dito.apis import DITOInferencer
from dito.models.text import Vocabulary
from dito.utils.configs import config_root


def peak(work: Callable[[], Any]) -> float:
    """Memory that something takes above what is held before, in MB."""
    Path('/proc/self/clear_refs').write_text('5')
    before = resident('VmHWM')
    work()
    return resident('VmHWM') - before


def resident(key: str) -> float:
    """A figure of this process, in MB."""
    text = Path('/proc/self/status').read_text()
    return int(re.search(rf'{key}:\s+(\d+)', text)[1]) / 1024


def milliseconds(work: Callable[[], Any], times: int) -> float:
    """Median time of a call, of all threads together."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(1e3 * (time.process_time() - start))
    return round(statistics.median(taken), 1)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description='Few and many names.')
    add = parser.add_argument
    add('--names', type=int, nargs='+', default=[80, 1203, 13000])
    add('--config', help='with random weights (default: shipped detector)')
    add('--size', type=int, nargs=2, default=[768, 1024], help='of the input')
    add('--times', type=int, default=5)
    add('--device', default='cpu')
    args = parser.parse_args()
    source = args.config or config_root() / 'symbols/assets/dito_symbols'
    detector = DITOInferencer(source, device=args.device)
    model = detector.model
    noise = np.random.default_rng(0).integers(
        0, 255, (*args.size, 3), dtype=np.uint8
    )
    encoding = milliseconds(lambda: detector.encode(noise), 1)
    scene = detector.encode(noise)
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
        line = dict(
            names=count,
            regions=len(scene),
            encode_ms=encoding,
            find_ms=milliseconds(find, args.times),
            with_masks_ms=milliseconds(lambda f=find: f(True), args.times),
            peak_mb=round(peak(find), 1),
            swap_ms=milliseconds(
                lambda v=vocabulary: detector.set_vocabulary(v), args.times
            ),
        )
        if args.config is None:
            line['embed_ms'] = milliseconds(
                lambda n=names: detector.embed(list(n)), 1
            )
        print(json.dumps(line), flush=True)


if __name__ == '__main__':
    main()
