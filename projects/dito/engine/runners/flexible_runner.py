# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The runner of strategies other than plain data parallelism."""

from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner

from dito.engine.work_folder import resolve_resume


@RUNNERS.register_module()
class DITOFlexibleRunner(FlexibleRunner):
    """MMEngine's :obj:`FlexibleRunner` with DITO's safe resume.

    MMEngine's loads the checkpoint before any hook is called, so that
    :class:`DITOCheckpointHook` cannot choose a whole one.

    Args:
        Those of :obj:`FlexibleRunner`.
    """

    def load_or_resume(self) -> None:
        """Load weights, or resume from the newest whole checkpoint."""
        if not self._has_loaded:
            resolve_resume(self)
        super().load_or_resume()
