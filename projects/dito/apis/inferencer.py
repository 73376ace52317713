# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detection of named objects in pictures."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from torch import nn

from dito.engine.hooks.load_report_hook import (
    LoadReport,
    fit_state_dict,
    under,
)
from dito.models.text.name_checks import readable_name
from dito.utils.checkpoint import hash_of, state_dict_of
from dito.utils.env import require_device
from dito.visualization.local_visualizer import (
    DITOLocalVisualizer,
    reduce_picture,
)

from .batches import Job, Part, jobs_of, load_parts, say_where
from .mmdet_names import refuse_device_as_names, refuse_mmdet_arguments
from .model_file import (
    Source,
    building,
    hook_config,
    load_model_source,
    set_token_rows,
    test_dataset,
)
from .pictures import (
    Image,
    PictureReader,
    as_image,
    is_sequence,
    list_images,
    with_stems,
)
from .published import resolve_published
from .results import (
    Detections,
    Query,
    check_options,
    prediction,
    with_masks,
)
from .scene import Scene, TiledScene, nms_iou
from .tiles import Tiling
from .tracks import Followed
from .vocabulary_mixin import Names, VocabularyMixin
from .writers import OutputFolder


class DITOInferencer(VocabularyMixin, DetInferencer):
    """Find objects by their names, with the processing of ``dito test``.

    Images are prepared by the test pipeline of the config and detections are
    those of the model's ``test_step``, so a run over a data set and a call on
    one of its images agree. The names of a call travel with its images and
    nothing of a call stays, so several threads may call one inferencer, each
    with names of its own.

    Args:
        model (str | Path | Config | dict, optional): Config file, name of one
            of DITO's configs, a config, or a file of weights that holds its
            config (every ``.pth`` of a training; :func:`save_model`); or a
            published folder, or 'official', the authors' detector after
            ``dito get official``.
        weights (str | Path, optional): ``.safetensors`` or ``.pth`` file, a
            published folder, 'official', or 'owner/name' on the Hugging Face
            hub.
        vocabulary (optional): Names to look for unless a call has its own:
            a list, 'red umbrella, anchor', a file of names (see
            :mod:`dito.models.text.name_files`), a vocabulary file, or a
            :class:`Vocabulary`. Defaults to the published vocabulary, or the
            classes that the checkpoint was trained on, if it has them.
        device (str, optional): Defaults to a GPU if there is one.
        negative_names (optional): Names that are not looked for but take
            part in every classification, in the forms of ``vocabulary``, or
            'trained': the base classes of the training. Scores are a softmax
            over names (paper, eq. 2), so with a few names alone whatever is
            no background is one of them. Defaults to None.
        **unknown: Refused; an argument of DetInferencer is answered by what
            it is called here.

    Examples:
        >>> inferencer = DITOInferencer('model.safetensors')
        >>> result = inferencer('beach.jpg', 'red umbrella, anchor')
        >>> result['predictions'][0]['names']
    """

    def __init__(
        self,
        model: Source | None = None,
        weights: str | Path | None = None,
        vocabulary: Names | None = None,
        device: str | None = None,
        negative_names: Names | None = None,
        **unknown: Any,
    ) -> None:
        refuse_mmdet_arguments(unknown)
        refuse_device_as_names(vocabulary)
        require_device(device)
        model, weights, self._known = resolve_published(model, weights)
        if vocabulary is None:
            vocabulary = self._known
        cfg, self._checkpoint = load_model_source(model, weights)
        with building(cfg):
            super().__init__(model=cfg, device=device, show_progress=False)
        meta = (self._checkpoint or {}).get('meta') or {}
        self.train_meta = meta.get('dataset_meta') or {}
        self._checkpoint = None
        self._hashed: tuple[Any, str] = (None, '')
        self._init_names(negative_names, vocabulary)

    # ------------------------------------------------------------ building

    def _init_model(
        self, cfg: Config, weights: None, device: str
    ) -> nn.Module:
        """Build the detector and load its weights, all of them."""
        if 'model' not in cfg:
            raise ValueError(
                f'The config {cfg.filename or ""} has no "model"; give the '
                'config of a detector.'
            )
        cfg.model.pop('teacher', None)
        if self._checkpoint is not None:
            set_token_rows(cfg.model, state_dict_of(self._checkpoint))
        model = MODELS.build(cfg.model)
        if not hasattr(model, 'set_vocabulary'):
            raise ValueError(
                f'The config builds a {type(model).__name__}, which is no '
                "detector of DITO's; give the config of a detector."
            )
        model.cfg = cfg
        if self._checkpoint is None:
            print_log(
                'No weights were given: the detector is untrained.',
                'current',
                30,
            )
        else:
            self._load(model, cfg)
        meta = (self._checkpoint or {}).get('meta') or {}
        model.dataset_meta = {
            'classes': (),
            'palette': 'random',
            **(meta.get('dataset_meta') or {}),
        }
        return model.to(device).eval()

    def _load(self, model: nn.Module, cfg: Config) -> None:
        """Load the checkpoint and refuse one that lacks something."""
        state = fit_state_dict(model, self._checkpoint)
        report = LoadReport.compare(model.state_dict(), state)
        allowed = hook_config(cfg, 'DITOLoadReportHook').get(
            'test_allowed_missing', ()
        )
        failed = [
            key
            for key in (*report.missing, *report.mismatched)
            if not under(key, allowed)
        ]
        if failed:
            shown = [report.mismatched.get(key, key) for key in failed[:3]]
            raise ValueError(
                f'The weights do not fit the config: {len(failed)} of its '
                f'{len(model.state_dict())} tensors are not among them '
                f'({", ".join(shown)} ...); give the config they were trained '
                'with.'
            )
        model.load_state_dict(
            {k: state[k] for k in report.loaded}, strict=False
        )

    def _init_pipeline(self, cfg: Config) -> Compose:
        """Split the test pipeline into the loading and the rest."""
        steps = list(test_dataset(cfg)['pipeline'])
        loaders = [s for s in steps if 'LoadImage' in str(s['type'])]
        if len(loaders) != 1 or loaders[0] is not steps[0]:
            raise ValueError(
                'The test pipeline must begin with its only '
                'LoadImageFromFile, got '
                f'{[s["type"] for s in steps]}.'
            )
        options = {
            k: v for k, v in steps[0].items() if k not in ('type', '_scope_')
        }
        pipeline = Compose(steps[1:])
        self._reader = PictureReader(options, pipeline)
        return pipeline

    def _init_collate(self, cfg: Config) -> Callable[[list], Any]:
        """Collate as the test loader does."""
        if 'collate_fn' in cfg.test_dataloader:
            return super()._init_collate(cfg)
        return pseudo_collate  # mmengine's default, without its warning

    def _init_visualizer(self, cfg: Config) -> Any:
        """Build the visualiser of the config, without storage."""
        given = dict(cfg.get('visualizer') or dict(type='DetLocalVisualizer'))
        kind = VISUALIZERS.get(given.pop('type'))
        if kind is DetLocalVisualizer:
            kind = DITOLocalVisualizer  # draws the same in less memory
        # Not by build, which keeps what it has built for ever.
        return kind(**dict(given, vis_backends=None, name='inferencer'))

    # -------------------------------------------------------------- calling

    def __call__(
        self,
        inputs: Image | Sequence[Image],
        vocabulary: Names | None = None,
        *,
        vocabularies: Sequence[Names] | None = None,
        score_thr: float = 0.3,
        out_dir: str | Path = '',
        batch_size: int = 1,
        agnostic_nms: float | None = None,
        negative_names: Names | None = None,
        objects: bool = False,
        return_vis: bool = False,
        return_all: bool = False,
        return_datasamples: bool = False,
        on_error: str = 'raise',
        track: bool = False,
        tile: int | tuple[int, int] | None = None,
        tile_overlap: float = 0.2,
        **unknown: Any,
    ) -> dict[str, list]:
        """Detect.

        Args:
            inputs: Image path, folder, pattern such as 'photos/*.jpg',
                ``file://`` or ``http(s)://`` address, bytes of a file,
                Pillow image, (H, W, 3) uint8 array in OpenCV's BGR order or
                (3, H, W) uint8 RGB tensor; or a sequence of these, folders
                and patterns aside. A film, 'camera:0' or a :class:`Film`
                is its frames.
            vocabulary (optional): Names for this call alone, in any of the
                forms of the class.
            vocabularies (optional): Names for each image, in these forms.
                Labels of an image index its own names.
            score_thr (float): Least score of what is returned and drawn; 0
                returns all that ``dito test`` counts. Defaults to 0.3.
            out_dir (str | Path): Folder that gets ``vis/NAME.jpg`` and
                ``preds/NAME.json``, of films ``NAME.mp4`` and
                ``NAME.jsonl``. Defaults to none.
            batch_size (int): Images that pass the model together.
            agnostic_nms (float, optional): IoU in (0, 1] above which only
                the best of overlapping detections stays, whatever their
                names; negative names suppress too. Defaults to None: names
                do not suppress each other, as in evaluations.
            negative_names (optional): Those of the class for this call
                alone. Defaults to those of the class.
            objects (bool): Look for objects without any names, by
                objectness alone; all are named 'object'.
            return_vis (bool): Return pictures with the detections too.
            return_all (bool): Return every detection; files and pictures
                keep to ``score_thr``.
            return_datasamples (bool): Return :obj:`DetDataSample` instead of
                dicts. Their masks are :class:`.RunLengthMasks`, whose
                ``numpy()`` gives arrays (N, H, W).
            on_error (str): 'raise', or 'collect': go on after an image that
                cannot be read, with None in its place, and say in
                ``errors`` why. Defaults to 'raise'.
            track (bool): Number the objects of films, see :class:`Tracks`.
            tile (int | tuple[int, int], optional): Cut larger pictures and
                frames into tiles with this side, or height and width, in
                pixels; each passes the model like a picture, and what was
                found is joined, see :mod:`dito.apis.tiles`. Defaults to
                None, not at all.
            tile_overlap (float): Least share of a tile that its neighbour
                has too, in [0, 1). Objects no longer than that are seen
                whole. Defaults to 0.2.
            **unknown: Refused; an argument of DetInferencer is answered by
                what it is called here.

        Returns:
            dict: ``predictions``, a dict per image (see
            :func:`dito.apis.results.to_dict`); ``visualization``, RGB arrays
            (H, W, 3) if wanted, reduced where an image has more than 4
            megapixels; and with on_error='collect' ``errors``: a sentence
            or None per image.

        Raises:
            FileNotFoundError: If an image does not exist.
            ValueError: If an image cannot be decoded, no names are known, or
                an argument is out of its range.
            TypeError: If an argument is not known.
        """
        refuse_mmdet_arguments(unknown)
        results: dict[str, list] = dict(predictions=[], visualization=[])
        if on_error == 'collect':
            results['errors'] = []
        for item in self.stream(
            inputs,
            vocabulary,
            vocabularies=vocabularies,
            score_thr=score_thr,
            out_dir=out_dir,
            batch_size=batch_size,
            agnostic_nms=agnostic_nms,
            negative_names=negative_names,
            objects=objects,
            draw=return_vis,
            on_error=on_error,
            track=track,
            tile=tile,
            tile_overlap=tile_overlap,
            return_all=return_all,
        ):
            if on_error == 'collect':
                results['errors'].append(item.error)
            if return_vis:
                results['visualization'].append(item.drawn)
            results['predictions'].append(
                prediction(item, return_all, return_datasamples)
            )
        return results

    def stream(
        self,
        inputs: Image | Sequence[Image],
        vocabulary: Names | None = None,
        *,
        vocabularies: Sequence[Names] | None = None,
        score_thr: float = 0.3,
        out_dir: str | Path = '',
        batch_size: int = 1,
        agnostic_nms: float | None = None,
        negative_names: Names | None = None,
        objects: bool = False,
        draw: bool = False,
        on_error: str = 'raise',
        track: bool = False,
        tile: int | tuple[int, int] | None = None,
        tile_overlap: float = 0.2,
        return_all: bool = False,
    ) -> Iterator[Detections]:
        """Detect as a call does, and give each image's result when it is made.

        Frames of films, and pictures of a generator, are read as they are
        wanted and not kept. After the last frame of a film that breaks off
        the error is given or raised.

        Args:
            inputs: As in a call, like all that is not named here.
            vocabulary (optional): Names for this call alone.
            vocabularies (optional): Names for each image.
            score_thr (float): Least score of ``kept``.
            out_dir (str | Path): Folder of files.
            batch_size (int): Images that pass the model together.
            agnostic_nms (float, optional): IoU.
            negative_names (optional): For this call alone.
            objects (bool): Look for objects without names.
            draw (bool): Draw, beside what ``out_dir`` gets.
            on_error (str): 'raise' or 'collect'.
            track (bool): Number the objects of films.
            tile (int | tuple[int, int], optional): Cut large pictures.
            tile_overlap (float): Of neighbouring tiles.
            return_all (bool): Make the masks of every detection; those below
                ``score_thr`` are empty otherwise.

        Yields:
            Detections: Of one image; masks are not pasted yet.
        """
        check_options(score_thr, batch_size, agnostic_nms, on_error, out_dir)
        tiling = self._tiling(tile, tile_overlap)
        jobs = self._jobs(
            inputs,
            on_error == 'raise',
            vocabulary,
            vocabularies,
            negative_names,
            objects,
        )
        tracks = Followed(score_thr) if track else None
        with OutputFolder(out_dir) as out:
            for sample, part in self._search(
                jobs,
                batch_size,
                bool(out_dir or draw),
                tiling,
                0.0 if return_all else score_thr,
            ):
                job = part.job
                if sample is None:
                    out.end_film()  # what was read of it is kept
                    if on_error == 'raise':
                        raise part.error
                    found = Detections(error=str(part.error))
                else:
                    found = Detections.of(
                        sample, job.query, score_thr, agnostic_nms
                    )
                say_where(found, job)
                if tracks is not None and job.frame is not None:
                    tracks.number(found, job.film)
                if part.picture is not None:
                    found.drawn = self.draw(part.picture, found)
                    out.add(job.stem, found, job.film)
                yield found

    def _jobs(
        self,
        inputs: Any,
        check: bool,
        vocabulary: Names | None,
        vocabularies: Sequence[Names] | None,
        negative_names: Names | None,
        objects: bool,
    ) -> Iterator[Job]:
        """Pictures with their names; mistakes are reported at once."""
        images: Iterable[Any]
        lazy = is_sequence(inputs) and vocabularies is None
        if lazy:
            images = (as_image(item, check) for item in inputs)
        else:
            images = self.list_images(inputs, check)
        queries: Iterable[Query] = self._queries(
            vocabulary,
            vocabularies,
            negative_names,
            objects,
            1 if lazy else len(images),
        )
        if lazy:
            (query,) = queries
            queries = repeat(query)
        return (
            job
            for (image, stem), query in zip(
                with_stems(images), queries, strict=not lazy
            )
            for job in jobs_of(image, stem, query)
        )

    # ------------------------------------------------------------- encoding

    def encode(
        self,
        image: Image,
        *,
        maps: bool = True,
        tile: int | tuple[int, int] | None = None,
        tile_overlap: float = 0.2,
    ) -> Scene:
        """Encode a picture once, to ask it for any names.

        Args:
            image: One picture, in any form of a call.
            maps (bool): Keep what masks and boxes of the picture need, most
                of the memory. Defaults to True.
            tile (int | tuple[int, int], optional): As of a call.
            tile_overlap (float): As of a call.

        Returns:
            Scene: Whose ``find`` answers as a call does.

        Raises:
            FileNotFoundError: If the image does not exist.
            ValueError: If it cannot be decoded, or is none.
        """
        images = self.list_images(image)
        if len(images) != 1:
            raise ValueError(
                f'encode takes one image, got {len(images)}; '
                'encode_each(images) gives a scene of each.'
            )
        (scene,) = self.encode_each(
            images, maps=maps, tile=tile, tile_overlap=tile_overlap
        )
        return scene

    def read_picture(self, image: Image) -> dict[str, Any]:
        """Read one picture; see :meth:`PictureReader.read`."""
        (image,) = self.list_images([image])
        return self._reader.read(image)

    def encode_each(
        self,
        inputs: Image | Sequence[Image],
        *,
        batch_size: int = 1,
        maps: bool = True,
        on_error: str = 'raise',
        tile: int | tuple[int, int] | None = None,
        tile_overlap: float = 0.2,
    ) -> Iterator[Any]:
        """Encode pictures, one after the other.

        Args:
            inputs: Pictures, in any form of a call.
            batch_size (int): Images that pass the model together.
            maps (bool): As of :meth:`encode`.
            on_error (str): 'raise', or 'collect': give the sentence that
                says why instead of a picture that cannot be read.
            tile (int | tuple[int, int], optional): As of a call.
            tile_overlap (float): As of a call.

        Yields:
            Scene | str: Of each picture.
        """
        check_options(0, batch_size, None, on_error, '')
        tiling = self._tiling(tile, tile_overlap)
        images = self.list_images(inputs, check=on_error == 'raise')
        scenes: list[Scene] = []
        for scene, part in self._encode(
            map(Job, images), batch_size, False, tiling
        ):
            if scene is not None:
                scenes.append(scene if maps else scene.without_maps())
                if part.tiles is None:
                    yield scenes.pop()
                elif len(scenes) == len(part.tiles.views):
                    yield TiledScene(self, scenes, part.tiles)
                    scenes = []
            elif on_error == 'raise':
                raise part.error
            else:
                scenes = []
                yield str(part.error)

    def _tiling(self, tile: Any, overlap: Any) -> Tiling | None:
        """How pictures are cut, if they are."""
        return Tiling.of(tile, overlap, self.model.backbone.patch_size)

    def _search(
        self,
        jobs: Iterable[Job],
        batch_size: int,
        draw: bool,
        tiling: Tiling | None,
        score_thr: float,
    ) -> Iterator[tuple[DetDataSample | None, Part]]:
        """What was found in each picture, None if it cannot be read."""
        # Of tiles the detections alone are kept until all of a picture are in.
        found: list[DetDataSample] = []
        for scene, part in self._encode(jobs, batch_size, draw, tiling):
            if scene is None:
                found = []
                yield None, part
                continue
            # Pieces of an object may have less than the whole.
            least = score_thr if part.tiles is None else 0.0
            found.append(scene.search(part.job.query, score_thr=least))
            if part.tiles is None:
                yield found.pop(), part
            elif len(found) == len(part.tiles.views):
                yield part.tiles.join(found, nms_iou(self.model)), part
                found = []

    def _encode(
        self,
        jobs: Iterable[Job],
        batch_size: int,
        draw: bool,
        tiling: Tiling | None,
    ) -> Iterator[tuple[Scene | None, Part]]:
        """Scene of each picture or tile, None of what cannot be read."""
        shown = self._to_draw_on if draw else None
        parts = (
            part
            for job in jobs
            for part in load_parts(job, self._reader, tiling, shown)
        )
        while batch := list(islice(parts, batch_size)):
            data = [part.data for part in batch if part.error is None]
            scenes: Iterator[Scene] = iter(())
            if data:
                with torch.no_grad():
                    ready = self.model.data_preprocessor(
                        self.collate_fn(data), False
                    )
                    samples = ready['data_samples']
                    encoded = self.model.encode(ready['inputs'], samples)
                scenes = map(Scene, repeat(self), encoded, samples)
            for part in batch:
                yield next(scenes) if part.error is None else None, part

    def fingerprint(self) -> str:
        """Hash of all that decides what a picture is encoded to.

        Returns:
            str: Hex sha256 over the weights, the config of the model without
            its training, and the test pipeline.
        """
        state = self.model.state_dict()
        key = tuple((id(t), t.data_ptr(), t._version) for t in state.values())
        if self._hashed[0] != key:
            model = {
                k: v
                for k, v in self.cfg.model.items()
                if k not in ('train_cfg', 'init_cfg', 'teacher')
            }
            pipeline = test_dataset(self.cfg)['pipeline']
            facts = json.dumps([model, pipeline], sort_keys=True, default=str)
            self._hashed = key, hash_of(facts, state)
        return self._hashed[1]

    def check_encoded(self, path: str | Path, fingerprint: Any) -> None:
        """Refuse what another detector has encoded.

        Args:
            path (str | Path): Named in the error.
            fingerprint (str): Of the detector that encoded it.

        Raises:
            ValueError: If it is not this one's.
        """
        if fingerprint != self.fingerprint():
            raise ValueError(
                f'{path} was made by the detector {str(fingerprint)[:8]}, '
                f'this one is {self.fingerprint()[:8]}; encode the pictures '
                'anew, or load the detector that made it.'
            )

    def list_images(
        self, inputs: Image | Sequence[Image], check: bool = True
    ) -> list[Image]:
        """Expand folders and patterns; check what can be before any work.

        Args:
            inputs: As in a call. Of a folder all files count whose suffix,
                in capitals or not, is that of a picture.
            check (bool): Whether a file that is missing raises.

        Returns:
            list[Image]: Paths, and pictures in memory as they were given.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If an array is no picture, an address cannot be read,
                or there is no picture at all.
        """
        return list_images(inputs, check)

    def _to_draw_on(self, image: np.ndarray) -> np.ndarray:
        """RGB copy of a picture, of the size that is drawn."""
        small = reduce_picture(
            image, getattr(self.visualizer, 'max_pixels', image.size)
        )
        return np.array(small[..., ::-1], np.uint8, order='C')

    def draw(self, picture: np.ndarray, found: Detections) -> np.ndarray:
        """Draw the detections of an image that are kept.

        Args:
            picture (np.ndarray): The image or a reduced one, uint8, RGB,
                (H, W, 3).
            found (Detections): What :meth:`stream` gave of it.

        Returns:
            np.ndarray: uint8, RGB; of at most 4 megapixels, and a small
            picture enlarged.
        """
        kept = found.kept
        if not isinstance(self.visualizer, DITOLocalVisualizer):
            kept = with_masks(kept)
        with self._lock:  # The visualiser has one canvas.
            names = tuple(map(readable_name, found.names))
            self.visualizer.dataset_meta = dict(
                classes=names,
                palette='random',
                novel_classes=tuple(
                    name
                    for name, novel in zip(
                        names, found.query.novel, strict=True
                    )
                    if novel
                ),
            )
            self.visualizer.add_datasample(
                'image', picture, kept, draw_gt=False, pred_score_thr=-1
            )
            return self.visualizer.get_image()
