# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time the backbone against another one, both in this run.

``windows``: windowed attention against mmpretrain's ``ViTSAM`` (relative
positions off), with the same sizes and the same weights.
``swl``: shifted-window learning against the same tower without shift, in time
and, in processes of their own, in peak memory over the loaded model.

Prints one line of JSON. The runs of both sides take turns, and the best of
each counts. Example::

    python tools/analysis_tools/benchmark_backbone.py windows --arch base
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

import dito  # noqa: F401  (mmcv's ops, before mmpretrain)
from dito.models.backbones import DITOViT
from dito.models.backbones.vit_layers import ARCHS


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('what', choices=['windows', 'swl'])
    parser.add_argument('--arch', default='base', choices=list(ARCHS))
    parser.add_argument(
        '--img-size',
        type=int,
        default=1024,
        help='side of the square image in pixels',
    )
    parser.add_argument(
        '--grid', type=int, default=4, help='windows on each side of the map'
    )
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument(
        '--repeat',
        type=int,
        default=3,
        help='timed runs of each side, after one untimed',
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--bf16', action='store_true', help='run under bfloat16 autocast'
    )
    parser.add_argument(
        '--train', action='store_true', help='time forward and backward'
    )
    parser.add_argument(
        '--threads',
        type=int,
        default=0,
        help="CPU threads; 0 for torch's own choice",
    )
    return parser.parse_args(argv)


def build(args: argparse.Namespace, **kwargs) -> DITOViT:
    """Build our tower; the same weights every time."""
    torch.manual_seed(0)
    model = DITOViT(
        args.arch,
        img_size=args.img_size,
        window=dict(grid=args.grid),
        **kwargs,
    )
    return model.to(args.device).train(args.train)


def build_vit_sam(args: argparse.Namespace, ours: DITOViT) -> nn.Module:
    """Build ViTSAM with the weights of our tower.

    Raises:
        ImportError: If mmpretrain is not installed.
        ValueError: If the windows do not fit ViTSAM.
    """
    try:
        from mmpretrain.models import ViTSAM
    except ImportError as error:
        raise ImportError(
            'The comparison needs mmpretrain: pip install onedl-mmpretrain.'
        ) from error
    side = args.img_size // 16
    if side % args.grid:
        raise ValueError(
            f'{side} tokens a side are not divisible into --grid '
            f'{args.grid} windows.'
        )
    sizes = ARCHS[args.arch]
    theirs = ViTSAM(
        arch=dict(
            embed_dims=sizes.embed_dims,
            num_layers=sizes.num_layers,
            num_heads=sizes.num_heads,
            feedforward_channels=int(sizes.embed_dims * sizes.mlp_ratio),
            global_attn_indexes=sorted(ours.plan.global_layers),
        ),
        img_size=args.img_size,
        out_channels=0,
        use_rel_pos=False,
        window_size=side // args.grid,
    )
    state = {}
    for name, value in ours.state_dict().items():
        for old, new in (
            ('blocks', 'layers'),
            ('norm1', 'ln1'),
            ('norm2', 'ln2'),
            ('mlp.fc1', 'ffn.layers.0.0'),
            ('mlp.fc2', 'ffn.layers.1'),
            ('patch_embed.proj', 'patch_embed.projection'),
        ):
            name = name.replace(old, new)
        state[name] = value
    state['pos_embed'] = state['pos_embed'].view(1, side, side, -1)
    # ViTSAM ends without a LayerNorm.
    for name in ('norm.weight', 'norm.bias'):
        del state[name]
    theirs.load_state_dict(state)
    theirs.train(args.train)  # Returns nothing, unlike other modules.
    return theirs.to(args.device)


def run(args: argparse.Namespace, model: nn.Module, img: Tensor) -> Tensor:
    """Run a tower once, with a backward pass where asked for."""
    device = torch.device(args.device).type
    cast = (
        torch.autocast(device, torch.bfloat16) if args.bf16 else nullcontext()
    )
    with cast, torch.set_grad_enabled(args.train):
        out = model(img)[0]
    if args.train:
        out.float().mean().backward()
        model.zero_grad(set_to_none=True)
    return out


def best_times(
    args: argparse.Namespace, models: dict[str, nn.Module], img: Tensor
) -> dict[str, float]:
    """Best wall time of each model in seconds; the models take turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(args.repeat + 1):
        for name, model in models.items():
            synchronize(args.device)
            start = time.perf_counter()
            run(args, model, img)
            synchronize(args.device)
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def synchronize(device: str) -> None:
    """Wait for a GPU; nothing to wait for on a CPU."""
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)


def peak_memory(args: argparse.Namespace, kwargs: dict) -> float:
    """Peak memory of one run over the loaded model, in MiB.

    Measured in a new process, since a process's peak never falls.
    """
    context = multiprocessing.get_context('spawn')
    queue = context.SimpleQueue()
    process = context.Process(
        target=_measure_memory, args=(args, kwargs, queue)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(
            f'The run that measures memory ended with {process.exitcode}; '
            'is there enough memory for this size?'
        )
    return queue.get()


def _measure_memory(args: argparse.Namespace, kwargs: dict, queue) -> None:
    """Put the peak memory of one run into a queue."""
    set_threads(args)
    model = build(args, **kwargs)
    img = make_image(args)
    peak, unit = _memory_counter(args.device)
    run(args, model, img[..., :64, :64])
    before = peak()
    run(args, model, img)
    queue.put((peak() - before) * unit)


def _memory_counter(device: str) -> tuple[Callable[[], int], float]:
    """A function that reads the peak so far, and its unit in MiB."""
    if device.startswith('cuda'):
        return lambda: torch.cuda.max_memory_allocated(device), 2.0**-20
    import resource

    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 2.0**-10


def set_threads(args: argparse.Namespace) -> None:
    """Use the number of threads asked for."""
    if args.threads:
        torch.set_num_threads(args.threads)


def make_image(args: argparse.Namespace) -> Tensor:
    """Noise of the size asked for, (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    img = torch.randn(
        args.batch, 3, args.img_size, args.img_size, generator=generator
    )
    return img.to(args.device)


def compare_windows(args: argparse.Namespace) -> dict:
    """Time our windows against ViTSAM's, and compare the results."""
    ours = build(args)
    theirs = build_vit_sam(args, ours)
    img = make_image(args)
    with torch.no_grad():
        map_ours = ours(img)[0].float()
        map_theirs = theirs(img)[0].permute(0, 2, 3, 1)
        map_theirs = ours.norm(map_theirs).permute(0, 3, 1, 2)
        difference = (map_ours - map_theirs).abs().max().item()
    times = best_times(args, dict(dito=ours, vit_sam=theirs), img)
    return dict(
        seconds=times,
        max_difference=difference,
        ratio=times['vit_sam'] / times['dito'],
    )


def compare_swl(args: argparse.Namespace) -> dict:
    """Compare shifted-window learning with the plain tower."""
    variants = dict(
        plain={},
        swl=dict(shift='swl'),
        swl_sequential=dict(shift='swl', swl_batched=False),
    )
    memory = {
        name: peak_memory(args, kwargs) for name, kwargs in variants.items()
    }
    models = {name: build(args, **kwargs) for name, kwargs in variants.items()}
    times = best_times(args, models, make_image(args))
    return dict(
        seconds=times,
        peak_mib=memory,
        memory_ratio=memory['swl'] / memory['plain'],
        ratio=times['swl'] / times['plain'],
    )


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the comparison and print its line of JSON.

    Returns:
        dict: What was printed.
    """
    args = parse_args(argv)
    set_threads(args)
    compare = compare_windows if args.what == 'windows' else compare_swl
    result = dict(
        vars(args),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        **compare(args),
    )
    print(json.dumps(result))
    return result


if __name__ == '__main__':
    main()
