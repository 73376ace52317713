# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""MMPretrain's classification sets for zero-shot evaluation."""

from typing import Any, Dict, Optional, Sequence, Union

from mmdet.registry import DATASETS
from mmengine.fileio import get
from torch.utils.data import Dataset

from dito.utils.files import require_plain_file

from .imagenet_names import imagenet_names
from .transforms import CropTransform


@DATASETS.register_module()
class DITOClassificationDataset(Dataset):
    """A dataset of MMPretrain, centre-cropped, with names for the prompts.

    Takes the list of images and labels from MMPretrain (ImageNet and other
    layouts, annotation files, storage backends), and decodes like the
    pretraining sets. Needs ``onedl-mmpretrain``.

    Args:
        dataset (dict): Config of a dataset of MMPretrain, such as
            ``dict(type='ImageNet', data_root='data/imagenet',
            split='val')``. Its pipeline is not used.
        size (int): Side of the square output in pixels.
        names (str or sequence[str], optional): Class names in label order;
            'imagenet': the 1,000 names of CLIP's evaluation. Defaults to
            None, the dataset's own.

    Raises:
        ImportError: If MMPretrain is not installed.
        ValueError: If there are not as many names as classes.
    """

    def __init__(self, dataset: Dict[str, Any], size: int, *,
                 names: Optional[Union[str, Sequence[str]]] = None) -> None:
        try:
            import mmpretrain.datasets  # noqa: F401  (registers them)
            from mmpretrain.registry import DATASETS as SETS
        except ImportError as error:
            raise ImportError(
                f'the dataset {dataset.get("type")!r} needs MMPretrain: pip '
                'install onedl-mmpretrain') from error
        self.images = SETS.build(
            dict(dataset, pipeline=[], _scope_='mmpretrain'))
        own = tuple(self.images.metainfo['classes'])
        if names == 'imagenet':
            names = imagenet_names()
        elif isinstance(names, str):
            raise ValueError(
                f"names is {names!r}, expected 'imagenet' or a list")
        classes = own if names is None else tuple(names)
        if len(classes) != len(own):
            raise ValueError(
                f'{len(classes)} names are given for {len(own)} classes of '
                f'{dataset.get("type")}')
        self.metainfo = dict(classes=classes)
        self.transform = CropTransform(size, scale=None)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """Load one image.

        Args:
            index (int): Number of the image.

        Returns:
            dict: ``inputs`` (3, size, size) uint8 array RGB, ``labels`` int,
            ``keys`` str, its path.

        Raises:
            ValueError: If the image cannot be decoded.
        """
        info = self.images.get_data_info(index)
        path = info['img_path']
        try:
            require_plain_file(path)
            inputs = self.transform(get(path))
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        return dict(inputs=inputs, labels=int(info['gt_label']), keys=path)
