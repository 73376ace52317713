# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detectors from folders and from the Hugging Face hub."""

from pathlib import Path
from typing import Any, Optional, Union


class HubMixin:
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    The work is done in :mod:`dito.apis.hub`, which is imported on use: it
    needs the detectors itself.
    """

    @classmethod
    def from_pretrained(cls,
                        source: Union[str, Path],
                        *,
                        revision: Optional[str] = None,
                        device: str = 'cpu') -> Any:
        """Load a published detector.

        Args:
            source (str | Path): Folder of a published model, or 'owner/name'
                on the hub.
            revision (str, optional): Branch, tag or commit on the hub.
            device (str): Defaults to 'cpu'.

        Returns:
            DITO: In evaluation mode, with the published vocabulary.
        """
        from dito.apis.hub import load_pretrained
        return load_pretrained(
            source, revision=revision, device=device).model

    def save_pretrained(self, folder: Union[str, Path],
                        **options: Any) -> Path:
        """Write a folder; see :func:`dito.apis.hub.save_pretrained`."""
        from dito.apis.hub import save_pretrained
        return save_pretrained(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the detector; see :func:`dito.apis.hub.push_model`."""
        from dito.apis.hub import push_model
        return push_model(self, repo_id, **options)
