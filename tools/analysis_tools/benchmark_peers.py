# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time and memory of DITO and of transformers' open-vocabulary detectors.

Each runs in a process of its own, with random weights in the sizes of its
smallest published model, on one picture and the same names, those of
``--names common``. Prints a JSON line for each number of names: seconds of the
processor for a call with a new picture and new names, and for the same names
again where something is kept of them, how many of the names took part, and the
memory above the loaded detector, in MB (Linux). Nothing is downloaded: the
vocabulary of CLIP comes with open_clip, and BERT's is replaced by one that has
each of the words, so that names take no more tokens than they would.

Example:
    pip install -e ".[peers]"
    python tools/analysis_tools/benchmark_peers.py --names 1 16 80 256
"""

import argparse
import ctypes
import gc
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAMES = ROOT / 'projects/dito/models/text/common_names.txt'
#: Prompt of all detectors that have one.
PROMPT = 'a photo of a {}'


def resident(key: str) -> float:
    """A figure of this process's memory, in MB."""
    text = Path('/proc/self/status').read_text()
    return int(re.search(rf'{key}:\s+(\d+)', text)[1]) / 1024


def peak(work: Callable[[], Any]) -> float:
    """Memory that something takes above what is held before, in MB.

    What was freed before is given back first, else it is taken again unseen.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    before = resident('VmHWM')
    work()
    return resident('VmHWM') - before


def common_names() -> list[str]:
    """Read without DITO, whose modules the other processes do not load."""
    lines = NAMES.read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def clip_tokens(texts: Sequence[str], length: int) -> dict[str, Any]:
    """Ids and mask of texts as CLIP reads them, (N, length)."""
    from open_clip import SimpleTokenizer

    ids = SimpleTokenizer(context_length=length)(list(texts))
    return dict(input_ids=ids, attention_mask=(ids != 0).long())


class Dito:
    """ViT-B/16; a picture is encoded once and asked again."""

    def __init__(self, size: int) -> None:
        from benchmark_names import resized

        from dito.apis import DITOInferencer

        cfg = resized('dito_vitb_lvis', size)
        for hook in cfg.custom_hooks:
            if hook['type'] == 'DITOVocabularyHook':
                hook['templates'] = [PROMPT]
        self.detector = DITOInferencer(cfg, device='cpu')
        self.picture = noise(size)

    def call(self, names: list[str]) -> int:
        """Ask a new picture for new names."""
        self.asked = self.detector.embed(names)
        self.scene = self.detector.encode(self.picture)
        self.again(names)
        return len(names)

    def again(self, names: list[str]) -> None:
        """Ask the scene for the names that are embedded."""
        self.scene.find(self.asked, masks=False, score_thr=0)


class Peer:
    """A detector of transformers; every question is a whole pass."""

    def __init__(self, size: int) -> None:
        import torch

        self.pixels = torch.from_numpy(noise(size)).permute(2, 0, 1)[None]
        self.pixels = self.pixels / 127.5 - 1
        self.model = self.build(size).eval()

    def build(self, size: int) -> Any:
        """The model with random weights."""
        raise NotImplementedError

    def call(self, names: list[str]) -> int:
        """Ask for new names; how many took part."""
        raise NotImplementedError


class Owlv2(Peer):
    """OWLv2 base, patch 16."""

    def build(self, size: int) -> Any:
        """Of the published sizes, with the picture's positions."""
        from transformers import Owlv2Config, Owlv2ForObjectDetection

        vision = dict(image_size=size, patch_size=16)
        return Owlv2ForObjectDetection(Owlv2Config(vision_config=vision))

    def call(self, names: list[str]) -> int:
        """A row of 16 tokens for each name."""
        texts = clip_tokens([PROMPT.format(n) for n in names], 16)
        found = self.model(pixel_values=self.pixels, **texts)
        return found.logits.shape[-1]


class GroundingDino(Peer):
    """Grounding DINO with Swin-T, which reads all names as one text."""

    # Ids that the model looks for: padding, unknown, begin, end, '.' and '?'.
    SPECIAL = {
        0: '[PAD]',
        100: '[UNK]',
        101: '[CLS]',
        102: '[SEP]',
        1012: '.',
        1029: '?',
    }

    def build(self, size: int) -> Any:
        """Model, and a tokenizer that has each word of the names."""
        from transformers import (
            BertTokenizer,
            GroundingDinoConfig,
            GroundingDinoForObjectDetection,
        )

        config = GroundingDinoConfig()
        words = re.findall(r'\w+|[^\w\s]', ' '.join(common_names()).lower())
        words = sorted(set(words) - set(self.SPECIAL.values()))
        pieces = [f'[unused{i}]' for i in range(2000)] + words
        for place, piece in self.SPECIAL.items():
            pieces[place] = piece
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, 'vocab.txt')
            file.write_text('\n'.join(pieces), encoding='utf-8')
            self.tokenizer = BertTokenizer(str(file))
        self.most = config.max_text_len
        return GroundingDinoForObjectDetection(config)

    def call(self, names: list[str]) -> int:
        """Names for which it has no tokens are cut off, else it fails."""
        text = ' '.join(f'{name.lower()}.' for name in names)
        tokens = self.tokenizer(
            text,
            return_tensors='pt',
            truncation=True,
            max_length=self.most,
        )
        self.model(pixel_values=self.pixels, **tokens)
        return int((tokens['input_ids'] == 1012).sum())


class OmDetTurbo(Peer):
    """OmDet-Turbo with Swin-T; its cache of texts is emptied."""

    def build(self, size: int) -> Any:
        """Of the published sizes."""
        from transformers import (
            OmDetTurboConfig,
            OmDetTurboForObjectDetection,
        )

        return OmDetTurboForObjectDetection(OmDetTurboConfig(image_size=size))

    def call(self, names: list[str]) -> int:
        """A row of 77 tokens for each name, as its processor makes them."""
        for cache in (
            self.model.language_cache_class,
            self.model.language_cache_prompt,
        ):
            cache.cache.clear()
            cache.current_load = 0  # of which an empty one would drop some
        return self.ask(names)

    def again(self, names: list[str]) -> None:
        """The texts that its cache has kept are not encoded again."""
        self.ask(names)

    def ask(self, names: list[str]) -> int:
        """One pass."""
        import torch

        classes = clip_tokens(names, 77)
        task = clip_tokens([f'Detect {", ".join(names)}.'], 77)
        found = self.model(
            pixel_values=self.pixels,
            classes_input_ids=classes['input_ids'],
            classes_attention_mask=classes['attention_mask'],
            tasks_input_ids=task['input_ids'],
            tasks_attention_mask=task['attention_mask'],
            classes_structure=torch.tensor([len(names)]),
        )
        return found.decoder_class_logits.shape[-1]


MODELS: dict[str, Callable[[int], Any]] = {
    'dito': Dito,
    'owlv2': Owlv2,
    'grounding-dino': GroundingDino,
    'omdet-turbo': OmDetTurbo,
}


def noise(size: int) -> Any:
    """The picture, (size, size, 3) uint8."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (size, size, 3), dtype=np.uint8)


def ask(detector: Any, names: list[str]) -> dict[str, Any]:
    """Measure a call with new names, and the same names again."""
    line: dict[str, Any] = dict(names=len(names))

    def call() -> None:
        start = time.process_time()
        line['took_part'] = detector.call(names)
        line['call_s'] = round(time.process_time() - start, 2)

    try:
        line['peak_mb'] = round(peak(call))
        # Of the others nothing is kept: the same names are a call again.
        if hasattr(detector, 'again'):
            start = time.process_time()
            detector.again(names)
            line['again_s'] = round(time.process_time() - start, 2)
    except (MemoryError, RuntimeError) as error:
        line['stopped'] = str(error).partition('\n')[0]
    else:
        if line['took_part'] < len(names):
            line['stopped'] = 'no room for more names'
    return line


def measure(args: argparse.Namespace) -> None:
    """Ask one detector for more and more names."""
    import torch

    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    detector = MODELS[args.one](args.size)
    limit = args.memory_gb << 30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for count in args.names:
        line = dict(model=args.one, **ask(detector, common_names()[:count]))
        print(json.dumps(line), flush=True)
        if 'stopped' in line or line['call_s'] > args.seconds:
            break


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each detector in a process."""
    parser = argparse.ArgumentParser(description='DITO and others.')
    add = parser.add_argument
    add('--models', nargs='+', choices=MODELS, default=list(MODELS))
    add('--names', type=int, nargs='+', default=[1, 16, 80, 256, 1203])
    add('--size', type=int, default=640, help='side of the picture')
    add('--memory-gb', type=int, default=8, help='that a detector may take')
    add(
        '--seconds',
        type=float,
        default=120,
        help='no more names after a call that took longer',
    )
    add('--one', choices=MODELS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        return measure(args)
    packages = ('transformers', 'torch')
    print(json.dumps({name: metadata.version(name) for name in packages}))
    sys.stdout.flush()
    given = list(sys.argv[1:] if argv is None else argv)
    for model in args.models:
        command = [sys.executable, __file__, *given, '--one', model]
        done = subprocess.run(command, check=False)
        if done.returncode:
            line = dict(model=model, stopped=f'exit code {done.returncode}')
            print(json.dumps(line), flush=True)
    return None


if __name__ == '__main__':
    main()
