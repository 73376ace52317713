# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detection of named objects in pictures."""

from itertools import islice
from pathlib import Path
from threading import RLock
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import cv2
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS, VISUALIZERS
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from torch import nn

from dito.datasets.load_image import DITOLoadImageFromFile
from dito.engine.hooks.load_report_hook import LoadReport, under
from dito.engine.hooks.state_dict_fit import fit_state_dict
from dito.models.text import Vocabulary
from dito.models.text.name_checks import trained_names, unseen_names
from dito.models.text.name_files import as_file, parse_names
from dito.utils.checkpoint import state_dict_of

from .mmdet_names import refuse_device_as_names, refuse_mmdet_arguments
from .model_file import (
    Source,
    building,
    hook_config,
    load_model_source,
    set_token_rows,
    templates_of,
    test_dataset,
)
from .results import (
    Detections,
    check_file,
    check_options,
    file_stems,
    list_images,
    parts_to_draw,
    reduce_picture,
    to_dict,
    with_masks,
    write_json,
    write_picture,
)

Names = Union[str, Path, Sequence[str], Vocabulary]
Image = Union[str, Path, np.ndarray]
# An array of more takes above a gigabyte while it is decoded and resized.
_MOST_PIXELS = 300_000_000
# Lists of names whose embeddings are remembered.
_MOST_LISTS = 256


class DITOInferencer(DetInferencer):
    """Find objects by their names, with the processing of ``tools/test.py``.

    Images are prepared by the test pipeline of the config and detections are
    those of the model's ``test_step``, so a run over a data set and a call on
    one of its images agree. The names of a call travel with its images and
    nothing of a call stays, so several threads may call one inferencer, each
    with names of its own.

    Args:
        model (str | Path | Config | dict, optional): Config file, name of one
            of DITO's configs, a config, or a file of weights that holds its
            config (every ``.pth`` of a training; :func:`save_model`).
        weights (str | Path, optional): ``.safetensors`` or ``.pth`` file.
        vocabulary (optional): Names to look for unless a call has its own:
            a list, 'red umbrella, anchor', a file of names (see
            :mod:`dito.models.text.name_files`), a vocabulary file, or a
            :class:`Vocabulary`. Defaults to the classes that the checkpoint
            was trained on, if it has them.
        device (str, optional): Defaults to a GPU if there is one.
        negative_names (optional): Names that are not looked for but take
            part in every classification, in the forms of ``vocabulary``, or
            'trained': the base classes of the training. Scores are a softmax
            over names (paper, eq. 2), so with a few names alone whatever is
            no background is one of them. Defaults to None.
        **unknown: Refused; an argument of DetInferencer is answered by what
            it is called here.

    Example:
        >>> inferencer = DITOInferencer('model.safetensors')
        >>> result = inferencer('beach.jpg', 'red umbrella, anchor')
        >>> result['predictions'][0]['names']
    """

    def __init__(self,
                 model: Optional[Source] = None,
                 weights: Union[str, Path, None] = None,
                 vocabulary: Optional[Names] = None,
                 device: Optional[str] = None,
                 negative_names: Optional[Names] = None,
                 **unknown: Any) -> None:
        refuse_mmdet_arguments(unknown)
        refuse_device_as_names(vocabulary)
        cfg, self._checkpoint = load_model_source(model, weights)
        self._made: Dict[Tuple[str, ...], Vocabulary] = {}
        self._lock = RLock()
        with building(cfg):
            super().__init__(model=cfg, device=device, show_progress=False)
        meta = (self._checkpoint or {}).get('meta') or {}
        self.train_meta = meta.get('dataset_meta') or {}
        self._checkpoint = None
        self._asked: Optional[Vocabulary] = None
        self._negatives: Optional[Vocabulary] = None
        if negative_names is not None:
            self._negatives = self._resolve(
                self._base_names() if negative_names ==
                'trained' else negative_names)
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    # ------------------------------------------------------------ building

    def _init_model(self, cfg: Config, weights: None,
                    device: str) -> nn.Module:
        """Build the detector and load its weights, all of them."""
        cfg.model.pop('teacher', None)
        if self._checkpoint is not None:
            set_token_rows(cfg.model, state_dict_of(self._checkpoint))
        model = MODELS.build(cfg.model)
        if not hasattr(model, 'set_vocabulary'):
            raise ValueError(
                f'The config builds a {type(model).__name__}, which is no '
                "detector of DITO's; give the config of a detector.")
        model.cfg = cfg
        if self._checkpoint is None:
            print_log('No weights were given: the detector is untrained.',
                      'current', 30)
        else:
            self._load(model, cfg)
        meta = (self._checkpoint or {}).get('meta') or {}
        model.dataset_meta = {
            'classes': (), 'palette': 'random',
            **(meta.get('dataset_meta') or {})}
        return model.to(device).eval()

    def _load(self, model: nn.Module, cfg: Config) -> None:
        """Load the checkpoint and refuse one that lacks something."""
        state = fit_state_dict(model, self._checkpoint)
        report = LoadReport.compare(model.state_dict(), state)
        allowed = hook_config(cfg, 'DITOLoadReportHook').get(
            'test_allowed_missing', ())
        failed = [
            key for key in (*report.missing, *report.mismatched)
            if not under(key, allowed)
        ]
        if failed:
            shown = [report.mismatched.get(key, key) for key in failed[:3]]
            raise ValueError(
                f'The weights do not fit the config: {len(failed)} of its '
                f'{len(model.state_dict())} tensors are not among them '
                f'({", ".join(shown)} ...); give the config they were trained '
                'with.')
        model.load_state_dict({k: state[k] for k in report.loaded},
                              strict=False)

    def _init_pipeline(self, cfg: Config) -> Compose:
        """Split the test pipeline into the loading and the rest."""
        steps = list(test_dataset(cfg)['pipeline'])
        loaders = [s for s in steps if 'LoadImage' in str(s['type'])]
        if len(loaders) != 1 or loaders[0] is not steps[0]:
            raise ValueError('The test pipeline must begin with its only '
                             'LoadImageFromFile, got '
                             f'{[s["type"] for s in steps]}.')
        options = {k: v for k, v in steps[0].items()
                   if k not in ('type', '_scope_')}
        options.update(on_error='raise', max_pixels=_MOST_PIXELS)
        self._loader = DITOLoadImageFromFile(**options)
        return Compose(steps[1:])

    def _init_collate(self, cfg: Config) -> Callable[[list], Any]:
        """Collate as the test loader does."""
        if 'collate_fn' in cfg.test_dataloader:
            return super()._init_collate(cfg)
        return pseudo_collate  # mmengine's default, without its warning

    def _init_visualizer(self, cfg: Config) -> Any:
        """Build the visualiser of the config, without storage."""
        given = cfg.get('visualizer') or dict(type='DetLocalVisualizer')
        name = f'inferencer_{id(self)}'
        return VISUALIZERS.build(dict(given, vis_backends=None, name=name))

    # ---------------------------------------------------------- vocabulary

    @property
    def vocabulary(self) -> Optional[Vocabulary]:
        """Classes that are looked for, None before any were given."""
        return self._asked

    def set_vocabulary(self, names: Names) -> Vocabulary:
        """Look for these names from now on.

        Args:
            names: As ``vocabulary`` of the class.

        Returns:
            Vocabulary: The classes with their embeddings.

        Raises:
            ValueError: If names are blank or duplicates, or embeddings were
                made by another text tower.
        """
        vocabulary = self._resolve(names)
        self.model.set_vocabulary(self._with_negatives(vocabulary))
        self._asked = vocabulary
        return vocabulary

    def _with_negatives(self, vocabulary: Vocabulary) -> Vocabulary:
        """What the detector gets; labels of ``vocabulary`` stay."""
        if self._negatives is None:
            return vocabulary
        return vocabulary.join(self._negatives)

    def _resolve(self, names: Names) -> Vocabulary:
        if isinstance(names, Vocabulary):
            return names
        path = as_file(names)
        if path is not None and path.suffix.lower() == '.safetensors':
            return Vocabulary.load(path)
        key = parse_names(names)
        with self._lock:  # The tower and its caches are shared by threads.
            found = self._made.get(key)
            if found is None:
                if len(self._made) >= _MOST_LISTS:
                    self._made.clear()
                found = self._made[key] = self._embed(key)
            return found

    def _resolve_each(self, vocabularies: Optional[Sequence[Names]],
                      count: int) -> List[Optional[Vocabulary]]:
        """Classes of each image; None where it has none of its own."""
        if vocabularies is None:
            return [None] * count
        if isinstance(vocabularies, (str, Path, Vocabulary)) or len(
                vocabularies) != count:
            raise ValueError(
                f'vocabularies has one list of names for each of the {count} '
                'images, in their order; names for all of them go into '
                'vocabulary.')
        return [self._resolve(names) for names in vocabularies]

    def _embed(self, names: Tuple[str, ...]) -> Vocabulary:
        """Embed names with the detector's tower; unseen ones are novel."""
        tower = self.model.text_encoder
        if tower is None:
            raise ValueError(
                'This detector has no text tower to embed names with; give a '
                'vocabulary file (tools/misc/build_text_embeddings.py).')
        return Vocabulary.from_names(
            names, tower, templates_of(self.cfg),
            novel=unseen_names(names, self.train_meta))

    def _base_names(self) -> List[str]:
        """Base classes of the training, as negative names."""
        names = trained_names(self.train_meta)
        if not names:
            raise ValueError(
                "negative_names='trained' needs a checkpoint that says what "
                'it was trained on, and this one does not; give the names.')
        return names

    def _classes(self, names: Optional[Names]) -> Vocabulary:
        """Classes of one call; nothing of it stays."""
        if names is not None:
            return self._resolve(names)
        if self._asked is not None:
            return self._asked
        names = self.train_meta.get('classes')
        if not names:
            raise ValueError("Name what to look for: vocabulary=['red "
                             "umbrella', 'anchor'].")
        return self._resolve(list(names))

    # -------------------------------------------------------------- calling

    def __call__(self,
                 inputs: Union[Image, Sequence[Image]],
                 vocabulary: Optional[Names] = None,
                 *,
                 vocabularies: Optional[Sequence[Names]] = None,
                 score_thr: float = 0.3,
                 out_dir: Union[str, Path] = '',
                 batch_size: int = 1,
                 agnostic_nms: Optional[float] = None,
                 return_vis: bool = False,
                 return_all: bool = False,
                 return_datasamples: bool = False,
                 on_error: str = 'raise',
                 **unknown: Any) -> Dict[str, list]:
        """Detect.

        Args:
            inputs: Image path, folder, ``file://`` or ``http(s)://`` address,
                (H, W, 3) uint8 array in OpenCV's BGR order, or a sequence of
                paths and arrays.
            vocabulary (optional): Names for this call alone, in any of the
                forms of the class.
            vocabularies (optional): Names for each image, in these forms.
                Labels of an image index its own names.
            score_thr (float): Least score of what is returned and drawn; 0
                returns all that ``tools/test.py`` counts. Defaults to 0.3.
            out_dir (str | Path): Folder that gets ``vis/NAME.jpg`` and
                ``preds/NAME.json``. Defaults to none.
            batch_size (int): Images that pass the model together.
            agnostic_nms (float, optional): IoU in (0, 1] above which only
                the best of overlapping detections stays, whatever their
                names; negative names suppress too. Defaults to None: names
                do not suppress each other, as in evaluations.
            return_vis (bool): Return pictures with the detections too.
            return_all (bool): Return every detection; files and pictures
                keep to ``score_thr``.
            return_datasamples (bool): Return :obj:`DetDataSample` instead of
                dicts. Their masks are arrays (N, H, W), which takes a byte
                for each pixel and detection; those of dicts are run lengths.
            on_error (str): 'raise', or 'collect': go on after an image that
                cannot be read, with None in its place, and say in
                ``errors`` why. Defaults to 'raise'.
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
        results: Dict[str, list] = dict(predictions=[], visualization=[])
        if on_error == 'collect':
            results['errors'] = []
        for item in self.stream(
                inputs, vocabulary, vocabularies=vocabularies,
                score_thr=score_thr, out_dir=out_dir, batch_size=batch_size,
                agnostic_nms=agnostic_nms, draw=return_vis,
                on_error=on_error):
            if on_error == 'collect':
                results['errors'].append(item.error)
            if return_vis:
                results['visualization'].append(item.drawn)
            wanted: Any = None
            if item.error is None:
                wanted = item.every if return_all else item.kept
                wanted = (with_masks(wanted) if return_datasamples else
                          to_dict(wanted, item.names))
            results['predictions'].append(wanted)
        return results

    def stream(self,
               inputs: Union[Image, Sequence[Image]],
               vocabulary: Optional[Names] = None,
               *,
               vocabularies: Optional[Sequence[Names]] = None,
               score_thr: float = 0.3,
               out_dir: Union[str, Path] = '',
               batch_size: int = 1,
               agnostic_nms: Optional[float] = None,
               draw: bool = False,
               on_error: str = 'raise') -> Iterator[Detections]:
        """Detect as a call does, and give each image's result when it is made.

        Args:
            inputs: As in a call, like all that is not named here.
            vocabulary (optional): Names for this call alone.
            vocabularies (optional): Names for each image.
            score_thr (float): Least score of ``kept``.
            out_dir (str | Path): Folder of files.
            batch_size (int): Images that pass the model together.
            agnostic_nms (float, optional): IoU.
            draw (bool): Draw, beside what ``out_dir`` gets.
            on_error (str): 'raise' or 'collect'.

        Yields:
            Detections: Of one image; masks are not pasted yet.
        """
        check_options(score_thr, batch_size, agnostic_nms, on_error)
        images = self.list_images(inputs, check=on_error == 'raise')
        stems = file_stems(images)
        own = self._resolve_each(vocabularies, len(images))
        if vocabulary is not None or None in own:
            shared = self._classes(vocabulary)
            own = [classes or shared for classes in own]
        # Slips in names are told before any work.
        asked = [self._with_negatives(c) for c in own if c is not None]
        jobs = iter(zip(images, stems, asked, own, strict=True))
        while batch := list(islice(jobs, batch_size)):
            loaded = [self._load_image(image, classes, bool(out_dir or draw),
                                       on_error)
                      for image, _, classes, _ in batch]
            sound = [item for item in loaded if item['error'] is None]
            with torch.no_grad():
                samples = iter(self.model.test_step(self.collate_fn(
                    [item['data'] for item in sound])) if sound else ())
            for item, (_, stem, _, names) in zip(loaded, batch, strict=True):
                if item['error'] is not None:
                    yield Detections(error=item['error'])
                    continue
                found = Detections.of(next(samples), names, score_thr,
                                      agnostic_nms, self._mask_thr())
                if item['picture'] is not None:
                    found.drawn = self._draw(item['picture'], found)
                if out_dir:
                    self._write(Path(out_dir), stem, found)
                yield found

    def list_images(
        self, inputs: Union[Image, Sequence[Image]], check: bool = True
    ) -> List[Union[str, np.ndarray]]:
        """Expand folders; check what can be checked before any work.

        Args:
            inputs: As in a call. Of a folder all files count whose suffix,
                in capitals or not, is that of a picture.
            check (bool): Whether a file that is missing raises.

        Returns:
            list[str | np.ndarray]: Paths and arrays.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If an array is no picture, an address cannot be read,
                or there is no picture at all.
        """
        return list_images(inputs, check)

    def _load_image(self, image: Union[str, np.ndarray], classes: Vocabulary,
                    draw: bool, on_error: str) -> Dict[str, Any]:
        """Data of an image for the model, and a picture to draw on."""
        name = image if isinstance(image, str) else 'the array'
        try:
            item = self._read(image)
            picture = reduce_picture(item['img']) if draw else None
            try:
                data = self.pipeline(dict(item, img_id=0))
            except (cv2.error, ValueError, ZeroDivisionError) as error:
                height, width = item['ori_shape']
                reason = ' '.join(str(error).split())
                raise ValueError(
                    f'The picture {name} of {width} x {height} pixels cannot '
                    f'be prepared ({reason}); a side of it may be too short '
                    'or too long for the size that the config resizes to.'
                ) from error
        except (ImportError, OSError, ValueError) as error:
            if on_error == 'raise':
                raise
            return dict(error=str(error))
        data['data_samples'].vocabulary = classes
        data['data_samples'].set_metainfo(dict(paste_masks=False))
        return dict(data=data, picture=picture, error=None)

    def _read(self, image: Union[str, np.ndarray]) -> Dict[str, Any]:
        """Load an image as the data set would, without annotations."""
        if isinstance(image, str):
            if '://' not in image:
                check_file(image)
            item = self._loader.transform(dict(img_path=image))
        else:
            # A copy: transforms may work in place.
            pixels = np.array(
                image,
                dtype=np.float32 if self._loader.to_float32 else np.uint8)
            item = dict(
                img_path='',
                img=pixels,
                img_shape=image.shape[:2],
                ori_shape=image.shape[:2])
        return dict(item, instances=[])

    def _mask_thr(self) -> float:
        return self.model.test_cfg.get('rcnn', {}).get('mask_thr_binary', 0.5)

    @staticmethod
    def _write(root: Path, stem: str, found: Detections) -> None:
        write_json(to_dict(found.kept, found.names),
                   root / 'preds' / f'{stem}.json')
        write_picture(found.drawn, root / 'vis' / f'{stem}.jpg')

    def _draw(self, picture: np.ndarray, found: Detections) -> np.ndarray:
        """Draw the detections; takes BGR, gives RGB."""
        drawn = np.ascontiguousarray(picture[..., ::-1])
        scale = [new / old for new, old in zip(
            drawn.shape[1::-1], found.shape[::-1], strict=True)]
        with self._lock:  # The visualiser has one canvas.
            self.visualizer.dataset_meta = dict(
                classes=found.classes.readable_names, palette='random')
            for part in parts_to_draw(found.kept, drawn.shape[:2], scale):
                self.visualizer.add_datasample(
                    'image', drawn, part, draw_gt=False, pred_score_thr=-1)
                drawn = self.visualizer.get_image()
        return drawn
