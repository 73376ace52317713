# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detection of named objects in pictures."""

from contextlib import contextmanager
from itertools import islice
from pathlib import Path
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

import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import nn
from torchvision.ops import nms

from dito.datasets.load_image import DITOLoadImageFromFile
from dito.engine.hooks.load_report_hook import LoadReport, under
from dito.engine.hooks.state_dict_fit import fit_state_dict
from dito.models.text import Vocabulary
from dito.models.text.name_checks import name_key
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
from .results import file_stems, to_dict, write_json, write_picture

Names = Union[str, Path, Sequence[str], Vocabulary]
Image = Union[str, Path, np.ndarray]


class DITOInferencer(DetInferencer):
    """Find objects by their names, with the processing of ``tools/test.py``.

    Images are prepared by the test pipeline of the config and detections are
    those of the model's ``test_step``, so a run over a data set and a call on
    one of its images agree.

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
        model.dataset_meta = dict(classes=())
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
        options = {k: v for k, v in steps[0].items() if k != 'type'}
        options['on_error'] = 'raise'
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
            ValueError: If names are blank or double, or embeddings were made
                by another text tower.
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
        if key not in self._made:
            self._made[key] = self._embed(key)
        return self._made[key]

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
            names, tower, templates_of(self.cfg), novel=self._unseen(names))

    def _unseen(self, names: Sequence[str]) -> List[bool]:
        """Which names are not among the base classes of the training."""
        base = set(map(name_key, self._trained()))
        return [name_key(n) not in base for n in names]

    def _trained(self) -> List[str]:
        """Base classes of the training; none if that is not known."""
        meta = self.train_meta
        novel = set(map(name_key, meta.get('novel_classes') or ()))
        classes = meta.get('base_classes') or meta.get('classes') or ()
        return [n for n in classes if name_key(n) not in novel]

    def _base_names(self) -> List[str]:
        """Base classes of the training, as negative names."""
        names = self._trained()
        if not names:
            raise ValueError(
                "negative_names='trained' needs a checkpoint that says what "
                'it was trained on, and this one does not; give the names.')
        return names

    @contextmanager
    def _using(self, names: Optional[Names]) -> Iterator[Vocabulary]:
        """Classes of one call; afterwards those from before are back."""
        before = self.vocabulary
        if names is None and before is None:
            names = self.train_meta.get('classes')
            if not names:
                raise ValueError("Name what to look for: vocabulary=['red "
                                 "umbrella', 'anchor'].")
        if names is not None:
            self.set_vocabulary(names)
        try:
            yield self.vocabulary
        finally:
            if names is not None and before is not None:
                self.set_vocabulary(before)

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
                 **unknown: Any) -> Dict[str, list]:
        """Detect.

        Args:
            inputs: Image path, folder, (H, W, 3) uint8 array in OpenCV's BGR
                order, or a sequence of paths and arrays.
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
                dicts.
            **unknown: Refused; an argument of DetInferencer is answered by
                what it is called here.

        Returns:
            dict: ``predictions``, a dict an image (see
            :func:`dito.apis.results.to_dict`), and ``visualization``, RGB
            arrays (H, W, 3) if wanted.

        Raises:
            FileNotFoundError: If an image does not exist.
            ValueError: If an image cannot be decoded, no names are known, or
                ``agnostic_nms`` is no IoU.
            TypeError: If an argument is not known.
        """
        refuse_mmdet_arguments(unknown)
        if agnostic_nms is not None and not 0 < agnostic_nms <= 1:
            raise ValueError('agnostic_nms is an IoU in (0, 1], got '
                             f'{agnostic_nms}.')
        images = self.list_images(inputs)
        stems = file_stems(images)
        own = self._resolve_each(vocabularies, len(images))
        if vocabulary is None and self.vocabulary is None:
            vocabulary = own[0]  # What the images have stands before it.
        results: Dict[str, list] = dict(predictions=[], visualization=[])
        with self._using(vocabulary) as shared:
            for image, stem, asked, sample in self._detect(
                    images, stems, own, batch_size):
                classes = asked or shared
                found = _asked_for(sample.pred_instances, len(classes),
                                   agnostic_nms)
                sample.pred_instances = found
                kept = sample.new()
                kept.pred_instances = found[found.scores >= score_thr]
                if out_dir or return_vis:
                    drawn = self._draw(image, kept, classes)
                if out_dir:
                    self._write(Path(out_dir), stem, kept, classes, drawn)
                if return_vis:
                    results['visualization'].append(drawn)
                wanted = sample if return_all else kept
                if not return_datasamples:
                    wanted = to_dict(wanted, classes.names)
                results['predictions'].append(wanted)
        return results

    def list_images(
        self, inputs: Union[Image, Sequence[Image]]
    ) -> List[Union[str, np.ndarray]]:
        """Expand folders; check what can be checked before any work.

        Args:
            inputs: As in a call.

        Returns:
            list[str | np.ndarray]: Paths and arrays.
        """
        if isinstance(inputs, (str, Path)):
            inputs = str(inputs)
        images = [
            str(item) if isinstance(item, Path) else item
            for item in self._inputs_to_list(inputs)
        ]
        if isinstance(inputs, str):
            images.sort()  # of a folder
        if not images:
            raise ValueError(f'There is no image in {inputs}.')
        for item in images:
            if isinstance(item, str):
                if '://' not in item and not Path(item).is_file():
                    raise FileNotFoundError(
                        f'The image {item} does not exist; check the path.')
            elif not (isinstance(item, np.ndarray) and item.ndim == 3
                      and item.shape[2] == 3):
                what = getattr(item, 'shape', type(item).__name__)
                raise ValueError('An image must be a path or an array of '
                                 f'shape (H, W, 3), got {what}.')
        return images

    def _detect(
        self, images: Sequence[Any], stems: Sequence[str],
        own: Sequence[Optional[Vocabulary]], batch_size: int
    ) -> Iterator[Tuple[np.ndarray, str, Optional[Vocabulary],
                        DetDataSample]]:
        """Yield the image (BGR), its name, own classes and detections."""
        items = iter(zip(images, stems, own, strict=True))
        while batch := list(islice(items, batch_size)):
            loaded = [self._read(image) for image, _, _ in batch]
            data = [self.pipeline(dict(item, img_id=0)) for item in loaded]
            for item, (_, _, classes) in zip(data, batch, strict=True):
                if classes is not None:
                    item['data_samples'].vocabulary = self._with_negatives(
                        classes)
            with torch.no_grad():
                samples = self.model.test_step(self.collate_fn(data))
            for item, (_, stem, classes), sample in zip(
                    loaded, batch, samples, strict=True):
                yield item['original'], stem, classes, sample

    def _read(self, image: Union[str, np.ndarray]) -> Dict[str, Any]:
        """Load an image as the data set would, without annotations."""
        if isinstance(image, str):
            item = self._loader.transform(dict(img_path=image))
        else:
            pixels = image.astype(np.float32
                                  ) if self._loader.to_float32 else image
            item = dict(
                img_path='',
                img=pixels,
                img_shape=image.shape[:2],
                ori_shape=image.shape[:2])
        # Transforms may work in place.
        return dict(item, instances=[], original=item['img'].copy())

    @staticmethod
    def _write(root: Path, stem: str, sample: DetDataSample,
               classes: Vocabulary, drawn: np.ndarray) -> None:
        result = to_dict(sample, classes.names)
        write_json(result, root / 'preds' / f'{stem}.json')
        write_picture(drawn, root / 'vis' / f'{stem}.jpg')

    def _draw(self, image: np.ndarray, sample: DetDataSample,
              classes: Vocabulary) -> np.ndarray:
        """Draw the detections; takes BGR, gives RGB."""
        self.visualizer.dataset_meta = dict(
            classes=classes.readable_names, palette='random')
        self.visualizer.add_datasample(
            'image',
            image[..., ::-1],
            sample,
            draw_gt=False,
            pred_score_thr=-1)
        return self.visualizer.get_image()


def _asked_for(found: InstanceData, count: int,
               iou: Optional[float]) -> InstanceData:
    """Detections of the first names, after NMS over all of them if wanted."""
    if iou is not None:
        found = found[nms(found.bboxes, found.scores, iou)]
    return found[found.labels < count]
