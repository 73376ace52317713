# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checkpoints that a run can always go on from."""

from pathlib import Path
from typing import Any, Dict, List

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook

from dito.utils.resumable import put_in_place, resolve_resume, write_last

from ..finite import require_finite_weights


@HOOKS.register_module()
class DITOCheckpointHook(CheckpointHook):
    """MMEngine's :obj:`CheckpointHook`, safe against an end at any moment.

    MMEngine writes a checkpoint directly under its name and removes the
    oldest one before. Here

    - a checkpoint is written under a temporary name, brought to the disk and
      renamed; ``last_checkpoint`` is written after it, in the same way, and
      older checkpoints are removed last;
    - weights that are not finite are not saved: the run stops, and the
      checkpoint before stays the last one;
    - ``--resume`` compares the checksums of the last checkpoint and falls
      back to the one before, with a warning that names both, if it is
      damaged. Keep at least two of them.

    Object stores write a file as a whole anyway; there nothing is renamed.

    Args:
        Those of :obj:`CheckpointHook`.
    """

    def before_run(self, runner: Any) -> None:
        """Choose the checkpoint that an automatic resume takes."""
        resolve_resume(runner)

    def before_train(self, runner: Any) -> None:
        """Prepare the folder; remove what a killed run left half-written."""
        super().before_train(runner)
        if self.max_keep_ckpts == 1:
            runner.logger.warning(
                'max_keep_ckpts=1 keeps no checkpoint to fall back to when '
                'the last one is damaged; set it to 2 or more.')
        if self._local:
            self._remove_leftovers()

    @property
    def _local(self) -> bool:
        # A run that only evaluates has no folder to save to.
        return isinstance(getattr(self, 'file_backend', None), LocalBackend)

    @master_only
    def _remove_leftovers(self) -> None:
        for path in Path(self.out_dir).glob('.*.pth.tmp'):
            path.unlink()

    def _save_checkpoint(self, runner: Any) -> None:
        """Save a checkpoint of the current step."""
        super()._save_checkpoint(self._whole_files(runner))

    def _save_best_checkpoint(self, runner: Any,
                              metrics: Dict[str, float]) -> None:
        """Save the weights if they are the best so far."""
        super()._save_best_checkpoint(self._whole_files(runner), metrics)

    def _whole_files(self, runner: Any) -> Any:
        return _WholeFiles(runner) if self._local else runner

    def _save_checkpoint_with_step(self, runner: Any, step: int,
                                   meta: Dict[str, Any]) -> None:
        """Save, then name the checkpoint the last, then remove old ones."""
        require_finite_weights(runner.model, step, self.last_ckpt)
        outdated = self._keep(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args)
        if not is_main_process():
            return
        write_last(runner.work_dir, self.last_ckpt)
        for old in outdated:
            path = self.file_backend.join_path(self.out_dir,
                                               self.filename_tmpl.format(old))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _keep(self, runner: Any, step: int) -> List[int]:
        """Count a step among the kept ones, return those that go for it."""
        if self.max_keep_ckpts <= 0:
            return []
        kept, outdated = self.keep_ckpt_ids, []
        # After a validation a step may be saved once more.
        if not kept or kept[-1] != step:
            if len(kept) == self.max_keep_ckpts:
                outdated.append(kept.popleft())
            kept.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        return outdated


class _WholeFiles:
    """A runner whose checkpoints appear whole or not at all."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any,
                        **kwargs: Any) -> None:
        """Save like the runner, under a temporary name until all is there."""
        temporary = Path(out_dir) / f'.{filename}.tmp'
        try:
            self._runner.save_checkpoint(out_dir, temporary.name, *args,
                                         **kwargs)
            if is_main_process():
                put_in_place(temporary, Path(out_dir) / filename)
        finally:
            if is_main_process():
                temporary.unlink(missing_ok=True)
