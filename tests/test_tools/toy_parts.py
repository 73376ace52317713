# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A model, a data set and a metric so small that a tool runs in a second."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.dataset import BaseDataset
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import Tensor, nn

from dito.utils.errors import BrokenDataError


@MODELS.register_module()
class ToyLine(BaseModel):
    """y = w x, with w = 3 to be learnt; counts the types it computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1, bias=False)

    def forward(
        self,
        inputs: Any,
        data_samples: list[Any] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        x = torch.stack(inputs)
        y = self.line(x)
        if mode == 'loss':
            bf16 = torch.tensor(float(y.dtype == torch.bfloat16))
            return dict(loss=(y.float() - 3 * x).square().mean(), bf16=bf16)
        return [dict(y=value) for value in y]


@DATASETS.register_module()
class ToyNumbers(BaseDataset):
    """The numbers 1 to 8."""

    METAINFO = dict(classes=('number',))

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(inputs=torch.tensor([i / 8])) for i in range(1, 9)]

    def prepare_data(self, idx: int) -> dict[str, Tensor]:
        return dict(inputs=self.get_data_info(idx)['inputs'])


@DATASETS.register_module()
class ToyFault(ToyNumbers):
    """The same, and an error in the second process.

    Args:
        broken (bool): Whether the data are to blame, not the program.
    """

    def __init__(self, broken: bool, **kwargs: Any) -> None:
        self.broken = broken
        super().__init__(**kwargs)

    def prepare_data(self, idx: int) -> dict[str, Tensor]:
        if get_rank() == 1:
            raise (BrokenDataError if self.broken else RuntimeError)('no good')
        return super().prepare_data(idx)


@METRICS.register_module()
class ToySum(BaseMetric):
    """Sum of all predictions, and how many there were."""

    default_prefix = 'toy'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        self.results.extend(float(s['y']) for s in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(sum=sum(results), count=float(len(results)))
