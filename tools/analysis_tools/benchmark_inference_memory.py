# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Memory of an inference against size and kind of the picture.

Draws pictures of noise, detects in each in a process of its own, with masks,
the drawn picture and the json, and prints a JSON line for each: the largest
resident memory above that of the loaded detector, in MB, and seconds.

The detector of symbols has random weights by default, so that there are as
many detections as it may give, at any threshold.

Example:
    python tools/analysis_tools/benchmark_inference_memory.py \
        --img-sizes 4000x3000 12000x9000 --kinds jpg png
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

# Patterns of this size are repeated, which encodes fast.
_TILE = 500


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Memory of an inference.')
    add = parser.add_argument
    add(
        '--img-sizes',
        nargs='+',
        default=['4000x3000', '12000x9000'],
        help='WIDTHxHEIGHT',
    )
    add(
        '--kinds',
        nargs='+',
        default=['jpg'],
        help='suffixes; "array" is a picture in memory, which does not count',
    )
    add('--score-thr', type=float, default=0.0)
    add('--detections', type=int, default=300, help='at most')
    add('--config', default='symbols/dito_symbols.py')
    add('--checkpoint', help='weights; random ones by default')
    add('--names', default='anchor, key, heart, red umbrella, snowman')
    add('--one', help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def draw(width: int, height: int) -> np.ndarray:
    """A picture of noise with some structure, (H, W, 3)."""
    noise = np.random.default_rng(0).integers(
        0, 255, (_TILE // 10, _TILE // 10, 3), dtype=np.uint8
    )
    tile = cv2.resize(noise, (_TILE, _TILE), interpolation=cv2.INTER_NEAREST)
    times = -(-height // _TILE), -(-width // _TILE), 1
    return np.ascontiguousarray(np.tile(tile, times)[:height, :width])


def detect(args: argparse.Namespace, source: str, out: str) -> dict:
    """Detect in one picture and measure."""
    # Here, so that the parent process stays small.
    import torch
    from benchmark_postprocessing import peak_kb
    from mmengine.config import Config

    from dito.apis import DITOInferencer
    from dito.utils.configs import find_config

    torch.manual_seed(0)
    config = Config.fromfile(find_config(args.config))
    config.model.test_cfg.rcnn.max_per_img = args.detections
    inferencer = DITOInferencer(config, args.checkpoint, args.names)
    # What is loaded with the first image does not grow with pictures.
    inferencer(np.zeros((64, 64, 3), np.uint8), score_thr=0)
    image = source
    if source.startswith('array'):
        image = draw(*map(int, source.split(':')[1].split('x')))
    Path('/proc/self/clear_refs').write_text('5')
    with open('/proc/self/status', encoding='utf-8') as status:
        before = next(
            int(line.split()[1]) for line in status if line.startswith('VmRSS')
        )
    start = time.perf_counter()
    found = inferencer(image, score_thr=args.score_thr, out_dir=out)
    result = found['predictions'][0]
    return dict(
        mb=round((peak_kb() - before) / 1024),
        seconds=round(time.perf_counter() - start, 1),
        detections=len(result['scores']),
        masks=len(result.get('masks', ())),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each picture in a process."""
    args = parse_args(argv)
    if args.one:
        source, out = args.one.split('|')
        print(json.dumps(detect(args, source, out)))
        return
    given: list[str] = list(sys.argv[1:] if argv is None else argv)
    with tempfile.TemporaryDirectory() as folder:
        for size in args.img_sizes:
            for kind in args.kinds:
                source = f'array:{size}'
                if kind != 'array':
                    source = os.path.join(folder, f'{size}.{kind}')
                    cv2.imwrite(source, draw(*map(int, size.split('x'))))
                run = subprocess.run(
                    [
                        sys.executable,
                        __file__,
                        *given,
                        '--one',
                        f'{source}|{folder}/out',
                    ],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=False,
                )
                last = run.stdout.strip().splitlines()[-1:]
                line = dict(size=size, kind=kind, code=run.returncode)
                if run.returncode == 0:
                    line.update(json.loads(last[0]))
                print(json.dumps(line), flush=True)


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parent))
    main()
