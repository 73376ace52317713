# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time and memory of post-processing against the size of the vocabulary.

From region embeddings to final detections: scores of all classes, the
ensemble, the best detections after class-wise NMS. The plain way is
MMDetection's: all scores, then ``multiclass_nms``. Both run on the same
numbers, each in a process of its own for the peak of its memory, and must
give the same detections. Times are processor seconds on one thread, which
other programs on the machine disturb little. One JSON line a size.

Example:
    python tools/analysis_tools/benchmark_postprocessing.py \
        --classes 80 1203 13000 50000
"""

import argparse
import json
import multiprocessing
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dito.models.roi_heads.box_ops import topk_class_nms
from dito.models.roi_heads.geometric_ensemble import (
    GeometricEnsemble,
    cosine_logits,
)

TEMPERATURE, IOU = 0.01, 0.5
ENSEMBLE = GeometricEnsemble(alpha=0.3, beta=0.65)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Time and memory of post-processing.'
    )
    add = parser.add_argument
    add('--classes', type=int, nargs='+', default=[80, 1203, 13000, 50000])
    add('--proposals', type=int, default=1000)
    add('--dims', type=int, default=1024, help='width of the embeddings')
    add('--dets', type=int, default=300, help='detections kept')
    add('--score-thr', type=float, default=1e-4)
    add('--chunk', type=int, default=4096, help='classes at a time')
    add('--repeat', type=int, default=1, help='runs of each; the best counts')
    add('--seed', type=int, default=0)
    add(
        '--plain-limit',
        type=int,
        default=20000,
        help='no plain way above this number of classes (it needs about '
        '60 bytes per proposal and class)',
    )
    return parser.parse_args()


def make_data(args: argparse.Namespace, classes: int) -> tuple[Tensor, ...]:
    """Boxes in clusters, and embeddings near a few classes each."""
    rng = torch.Generator().manual_seed(args.seed)
    num, dims = args.proposals, args.dims
    centres = torch.rand(num // 10 + 1, 2, generator=rng) * 900
    corner = centres[torch.randint(len(centres), (num,), generator=rng)]
    corner = corner + torch.randn(num, 2, generator=rng) * 8
    sides = 20 + 100 * torch.rand(num, 2, generator=rng)
    text = F.normalize(torch.randn(classes + 1, dims, generator=rng), dim=-1)
    near = torch.randint(classes, (2, num), generator=rng)
    # A cosine of about 0.1 with the own class and of 0 +- 0.03 with others:
    # over the temperature that is a flat softmax, as on real images.
    noise = torch.randn(2, num, dims, generator=rng) * dims**-0.5
    det, vlm = 0.1 * text[near] + noise
    novel = torch.rand(classes, generator=rng) < 0.3
    return torch.cat([corner, corner + sides], 1), det, vlm, text, novel


def run_ours(args: argparse.Namespace, data: tuple[Tensor, ...]) -> tuple:
    """This package, as the RoI head does it."""
    boxes, det, vlm, text, novel = data
    if len(novel) > args.chunk:
        scores = ENSEMBLE.chunked(
            det,
            vlm,
            text,
            novel,
            det_temperature=TEMPERATURE,
            vlm_temperature=TEMPERATURE,
            chunk=args.chunk,
        )
        stage = time.process_time()
    else:
        scores = plain_scores(data)[:, :-1]
        stage = time.process_time()
    found = topk_class_nms(boxes, scores, args.score_thr, IOU, args.dets)
    return found[:3], time.process_time() - stage


def plain_scores(data: tuple[Tensor, ...]) -> Tensor:
    """All scores at once, (N, K + 1)."""
    _, det, vlm, text, novel = data
    return ENSEMBLE(
        cosine_logits(det, text, TEMPERATURE),
        cosine_logits(vlm, text[:-1], TEMPERATURE),
        novel,
    )


def run_plain(args: argparse.Namespace, data: tuple[Tensor, ...]) -> tuple:
    """MMDetection's function."""
    from mmdet.models.layers import multiclass_nms  # after dito's operators

    scores = plain_scores(data)
    stage = time.process_time()
    dets, labels = multiclass_nms(
        data[0],
        scores,
        args.score_thr,
        dict(type='nms', iou_threshold=IOU),
        args.dets,
    )
    spent = time.process_time() - stage
    return (dets[:, :4], dets[:, 4], labels), spent


def measure(
    name: str, args: argparse.Namespace, classes: int, pipe: Any
) -> None:
    """Run one way and send times, peak memory and detections."""
    torch.set_num_threads(1)
    run = dict(ours=run_ours, plain=run_plain)[name]
    data = make_data(args, classes)
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # forget the peak of making the data
    before = peak_kb()
    best: list[float] = [float('inf')] * 2
    for _ in range(args.repeat):
        start = time.process_time()
        found, nms_s = run(args, data)
        best = [min(best[0], time.process_time() - start), min(best[1], nms_s)]
    memory = (peak_kb() - before) / 1024
    pipe.send((best, memory, [x.numpy() for x in found]))
    pipe.close()


def peak_kb() -> int:
    """Largest resident memory of this process so far, in KB (Linux)."""
    with open('/proc/self/status') as file:
        line = next(x for x in file if x.startswith('VmHWM'))
    return int(line.split()[1])


def in_process(name: str, args: argparse.Namespace, classes: int) -> tuple:
    """Call :func:`measure` in a process of its own."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(
        target=measure, args=(name, args, classes, theirs)
    )
    worker.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        worker.join()


def compare(args: argparse.Namespace, classes: int) -> dict[str, Any]:
    """Both ways at one size."""
    (total, nms_s), memory, found = in_process('ours', args, classes)
    line = dict(
        benchmark='post_processing',
        classes=classes,
        proposals=args.proposals,
        detections=len(found[1]),
        ours_s=round(total, 3),
        ours_nms_s=round(nms_s, 4),
        ours_mb=round(memory),
    )
    if classes > args.plain_limit:
        return line
    (plain, plain_nms_s), memory, expected = in_process('plain', args, classes)
    same = len(found[1]) == len(expected[1]) and bool(
        (found[2] == expected[2]).all()
        and abs(found[0] - expected[0]).max(initial=0) < 1e-3
    )
    error = abs(found[1] - expected[1]).max(initial=0) if same else None
    line.update(
        plain_s=round(plain, 3),
        plain_nms_s=round(plain_nms_s, 3),
        plain_mb=round(memory),
        ratio=round(plain / total, 1),
        nms_ratio=round(plain_nms_s / nms_s, 1),
        same_detections=same,
        max_score_error=None if error is None else float(error),
    )
    return line


def main() -> None:
    """Print one JSON line a size."""
    args = parse_args()
    import mmdet.models.layers  # noqa: F401  (before the processes fork)

    differ = False
    for classes in args.classes:
        line = compare(args, classes)
        print(json.dumps(line), flush=True)
        differ |= not line.get('same_detections', True)
    if differ:
        raise SystemExit('the detections differ')


if __name__ == '__main__':
    main()
