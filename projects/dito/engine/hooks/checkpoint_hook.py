# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checkpoints that a run can always go on from."""

import bisect
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dataset import DefaultSampler
from mmengine.dist import (
    barrier,
    get_world_size,
    is_main_process,
    master_only,
)
from mmengine.fileio import LocalBackend
from mmengine.hooks import EMAHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from dito.engine import work_folder
from dito.utils.errors import FULL
from dito.utils.files import put_in_place

from ..interruption import Interrupted, StopSignals, shield_workers
from ..work_folder import (
    check_training_state,
    on_first,
    resolve_resume,
    write_last,
)
from .best_checkpoint import BestCheckpointHook
from .iteration_seed_hook import is_endless
from .non_finite_guard_hook import anywhere, require_finite_weights

# Iteration whose validation was cut off, in the message hub.
_DUE = 'validation_due'


@HOOKS.register_module()
class DITOCheckpointHook(BestCheckpointHook):
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

    SIGTERM, SIGINT and SIGUSR1, on any process, end the run after the step:
    it writes a checkpoint and exits with 75 (:class:`Interrupted`), and
    ``--resume`` goes on as if nothing had been. A validation that was cut
    off or due is made first. A run that counts epochs goes on from the last
    epoch's end.

    What is no state of a training of this model is not resumed from
    (:func:`.check_training_state`).

    Two trainings in one folder refuse each other, and a full disk is named;
    the checkpoints before stay.

    A run without averaged weights that is resumed from one with them
    (:class:`DITOEMAHook`) goes on from the trained weights, with a warning.

    Args:
        Those of :obj:`CheckpointHook`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signals = StopSignals()

    def before_run(self, runner: Any) -> None:
        """Choose the checkpoint that an automatic resume takes.

        ValueError if the run would never come to an end.
        """
        _require_an_end(runner)
        if isinstance(runner._train_loop, BaseLoop):
            on_first(work_folder.claim, runner.work_dir)
        resolve_resume(runner)

    def before_train(self, runner: Any) -> None:
        """Prepare the folder; remove what a killed run left half-written."""
        super().before_train(runner)
        _say_if_done(runner)
        if self.max_keep_ckpts == 1:
            runner.logger.warning(
                'max_keep_ckpts=1 keeps no checkpoint to fall back to when '
                'the last one is damaged; set it to 2 or more.'
            )
        if self._local:
            if self.out_dir != runner.work_dir:
                on_first(work_folder.claim, self.out_dir)
            self._remove_leftovers()
        self._signals.install(runner.train_loop)
        for loader in _loaders(runner):
            shield_workers(loader)
        if runner.message_hub.runtime_info.get(_DUE) == runner.iter:
            runner.logger.info(
                'Making up for the validation that was cut '
                f'off at iteration {runner.iter}.'
            )
            runner.val_loop.run()
            runner.message_hub.pop_info(_DUE)
            runner.message_hub._resumed_keys.pop(_DUE, None)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Save at the interval, and where the run was asked to end.

        Interrupted if it was, on any process.
        """
        # Gradients that wait for more batches are not in a checkpoint.
        wrapper = runner.optim_wrapper
        count = getattr(wrapper, '_accumulative_counts', 1)
        waiting = count > 1 and wrapper._inner_count % count != 0
        stop = anywhere(self._signals.name is not None) and not waiting
        step = runner.iter + 1
        if stop and _validates_after(runner.train_loop, step):
            runner.message_hub.update_info(_DUE, step)
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if stop:
            self._end(runner, step)

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Leave a validation where the run was asked to end."""
        if (
            not isinstance(runner._train_loop, BaseLoop)
            or (batch_idx >= _common_batches(runner.val_loop.dataloader))
            or not anywhere(self._signals.name is not None)
        ):
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook._swap_ema_parameters()
        runner.message_hub.update_info(_DUE, runner.iter)
        self.last_ckpt = None  # to be written with what is due
        self._end(runner, runner.iter)

    def after_train(self, runner: Any) -> None:
        """Give the folder and the signals back."""
        super().after_train(runner)
        self._signals.restore()
        for folder in {runner.work_dir, self.out_dir}:
            work_folder.release(folder)

    def _end(self, runner: Any, step: int) -> None:
        """Save what is not saved and end the run."""
        last = self.last_ckpt
        name = self.filename_tmpl.format(step)
        if self.by_epoch:
            goes_on = f'from {last}' if last else 'at the beginning'
        else:
            if not last or Path(last).name != name:
                meta = dict(epoch=runner.epoch, iter=step)
                self._save_checkpoint_with_step(
                    self._whole_files(runner), step, meta
                )
            goes_on = f'after iteration {step}, from {self.last_ckpt}'
        barrier()  # no process ends before the checkpoint is there
        runner.logger.warning(
            f'The run was asked to end ({self._signals.name or "by a signal"}'
            f' to {"this" if self._signals.name else "another"} process): '
            f'--resume goes on {goes_on}.'
        )
        self._signals.restore()
        for folder in {runner.work_dir, self.out_dir}:
            work_folder.release(folder)
        raise Interrupted

    @property
    def _local(self) -> bool:
        # A run that only evaluates has no folder to save to.
        return isinstance(getattr(self, 'file_backend', None), LocalBackend)

    @master_only
    def _remove_leftovers(self) -> None:
        for path in Path(self.out_dir).glob('.*.pth.tmp'):
            path.unlink()

    def after_load_checkpoint(
        self, runner: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from trained weights where nothing averages them now.

        ValueError if a training cannot go on from the checkpoint.
        """
        if runner._resume:
            check_training_state(runner, checkpoint)
        averages = checkpoint.get('ema_state_dict')
        if (
            not runner._resume
            or averages is None
            or any(isinstance(hook, EMAHook) for hook in runner.hooks)
        ):
            return
        runner.logger.warning(
            'The checkpoint is of a run with averaged weights (EMA) and this '
            'one has none: it goes on from the trained weights, and the '
            'averages are dropped. Add the EMA hook to custom_hooks to keep '
            'them.'
        )
        checkpoint['state_dict'].update(
            {
                key.removeprefix('module.'): value
                for key, value in averages.items()
                if key.startswith('module.')
            }
        )

    def _save_checkpoint(self, runner: Any) -> None:
        """Save a checkpoint of the current step."""
        super()._save_checkpoint(self._whole_files(runner))

    def _save_best_checkpoint(
        self, runner: Any, metrics: dict[str, float]
    ) -> None:
        """Save the weights if they are the best so far."""
        super()._save_best_checkpoint(self._whole_files(runner), metrics)

    def _whole_files(self, runner: Any) -> Any:
        return _WholeFiles(runner, self.last_ckpt) if self._local else runner

    def _save_checkpoint_with_step(
        self, runner: Any, step: int, meta: dict[str, Any]
    ) -> None:
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
            **self.args,
        )
        if not is_main_process():
            return
        write_last(runner.work_dir, self.last_ckpt)
        for old in outdated:
            path = self.file_backend.join_path(
                self.out_dir, self.filename_tmpl.format(old)
            )
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _keep(self, runner: Any, step: int) -> list[int]:
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


@contextmanager
def _named_if_full(path: Path, last: str | None) -> Iterator[None]:
    """Say which checkpoint a full disk has no room for."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        kept = f'the last one stays {last}' if last else 'none was saved yet'
        limit = (
            'a limit of file sizes (ulimit -f) is too low'
            if error.errno == errno.EFBIG
            else 'the disk is full'
        )
        raise ValueError(
            f'{path} could not be written, {limit} '
            f'({os.strerror(error.errno).lower()}; {free:,.0f} MiB are '
            f'free): {kept}. Make room, then go on with --resume.'
        ) from error


def _say_if_done(runner: Any) -> None:
    """Say so where a resumed run has nothing left to train."""
    loop = runner.train_loop
    kind = 'epoch' if isinstance(loop, EpochBasedTrainLoop) else 'iter'
    done, most = getattr(loop, kind), getattr(loop, f'max_{kind}s')
    if runner._resume and done >= most:
        runner.logger.warning(
            f'Nothing is left to train: {runner._load_from} is of {kind} '
            f'{done}, and train_cfg.max_{kind}s={most}; set a greater number '
            'to go on.'
        )


def _loaders(runner: Any) -> list[DataLoader]:
    """Loaders of a training and its validations."""
    loops = [runner._train_loop, runner._val_loop]
    loops += getattr(runner._val_loop, 'extra', ())
    return [loop.dataloader for loop in loops if isinstance(loop, BaseLoop)]


def _validates_after(loop: Any, step: int) -> bool:
    """Whether an iteration-based loop validates after a step."""
    if (
        loop.runner.val_loop is None
        or not isinstance(loop, IterBasedTrainLoop)
        or step < loop.val_begin
    ):
        return False
    place = bisect.bisect(loop.dynamic_milestones, step + 1) - 1
    return step % loop.dynamic_intervals[place] == 0 or step == loop.max_iters


def _common_batches(loader: DataLoader) -> int:
    """Batches that every process has, of which they can agree on an end."""
    processes = get_world_size()
    if processes == 1:
        return len(loader)
    plain = (
        type(loader.sampler) is DefaultSampler
        and loader.batch_size is not None
    )
    return (
        len(loader.dataset) // processes // loader.batch_size if plain else 0
    )


def _require_an_end(runner: Any) -> None:
    """Refuse epochs over a sampler that has none."""
    loop = getattr(runner, '_train_loop', None)
    if not isinstance(loop, EpochBasedTrainLoop):
        return
    if is_endless(loop.dataloader):
        raise ValueError(
            'train_cfg counts epochs (EpochBasedTrainLoop), and the sampler '
            'of train_dataloader has no end, so the first '
            'one would never be over: set train_dataloader.sampler='
            "dict(type='DefaultSampler', shuffle=True), or count iterations "
            'with IterBasedTrainLoop.'
        )


class _WholeFiles:
    """A runner whose checkpoints appear whole or not at all."""

    def __init__(self, runner: Any, last: str | None) -> None:
        self._runner, self._last = runner, last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        """Save like the runner, under a temporary name until all is there."""
        temporary = Path(out_dir) / f'.{filename}.tmp'
        path = Path(out_dir) / filename
        try:
            with _named_if_full(path, self._last):
                self._runner.save_checkpoint(
                    out_dir, temporary.name, *args, **kwargs
                )
                if is_main_process():
                    put_in_place(temporary, path)
        finally:
            if is_main_process():
                temporary.unlink(missing_ok=True)
