# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Which checkpoint a run goes on from when files are damaged."""

from types import SimpleNamespace

import pytest
import torch

from dito.engine.work_folder import (
    candidates,
    fault_of,
    find_resumable,
    resolve_resume,
    write_last,
)
from dito.utils.files import put_in_place


@pytest.fixture
def run(tmp_path):
    """A folder with checkpoints of three steps."""
    for step in (3, 6, 20):
        torch.save(
            dict(state_dict=dict(w=torch.randn(500)), meta=dict(iter=step)),
            tmp_path / f'iter_{step}.pth',
        )
    write_last(tmp_path, str(tmp_path / 'iter_20.pth'))
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def zero_a_page(path):
    """What a file system leaves that lost power before it wrote."""
    data = bytearray(path.read_bytes())
    data[1024:1536] = bytes(512)
    path.write_bytes(data)


DAMAGES = dict(
    truncated=truncate,
    flipped=flip_a_bit,
    zeroed=zero_a_page,
    empty=lambda path: path.write_bytes(b''),
    text=lambda path: path.write_text('not a checkpoint'),
    missing=lambda path: path.unlink(),
)


def test_whole_files_have_no_fault(run):
    assert all(fault_of(path) is None for path in candidates(run))
    assert find_resumable(run) == run / 'iter_20.pth'


@pytest.mark.parametrize('damage', list(DAMAGES))
def test_a_damaged_last_one_is_replaced_by_the_one_before(
    run, damage, caplog, monkeypatch
):
    DAMAGES[damage](run / 'iter_20.pth')
    assert fault_of(run / 'iter_20.pth') is not None
    said = []
    monkeypatch.setattr(
        'dito.engine.work_folder.print_log',
        lambda text, **kwargs: said.append(text),
    )
    assert find_resumable(run) == run / 'iter_6.pth'
    assert len(said) == 1
    assert f'{run}/iter_20.pth' in said[0] and f'{run}/iter_6.pth' in said[0]


def test_torch_itself_does_not_notice_a_flipped_bit(run):
    """The reason for reading the checksums."""
    flip_a_bit(run / 'iter_20.pth')
    torch.load(run / 'iter_20.pth', weights_only=True)
    assert 'differs from what was written' in fault_of(run / 'iter_20.pth')


def test_if_none_is_good_all_are_named(run):
    for path in run.glob('*.pth'):
        truncate(path)
    with pytest.raises(ValueError, match='no whole checkpoint') as error:
        find_resumable(run)
    assert all(f'iter_{n}.pth' in str(error.value) for n in (3, 6, 20))


def test_larger_numbers_are_of_an_earlier_run(run):
    write_last(run, str(run / 'iter_6.pth'))
    assert candidates(run) == [run / 'iter_6.pth', run / 'iter_3.pth']


def test_without_a_pointer_the_newest_is_taken(run):
    (run / 'last_checkpoint').write_text('')
    torch.save(dict(), run / 'best_acc_iter_70.pth')
    assert candidates(run)[0] == run / 'iter_20.pth'
    (run / 'last_checkpoint').unlink()
    assert find_resumable(run) == run / 'iter_20.pth'


def test_an_empty_folder_has_nothing(tmp_path):
    assert find_resumable(tmp_path) is None
    assert find_resumable(tmp_path / 'not_there') is None


def test_a_moved_folder_keeps_its_checkpoints(run):
    write_last(run, '/gone/iter_20.pth')
    assert find_resumable(run) == run / 'iter_20.pth'


def test_put_in_place_replaces(tmp_path):
    (tmp_path / 'a').write_text('old')
    (tmp_path / 'b').write_text('new')
    put_in_place(tmp_path / 'b', tmp_path / 'a')
    assert (tmp_path / 'a').read_text() == 'new'
    assert [p.name for p in tmp_path.iterdir()] == ['a']


@pytest.mark.parametrize(
    'resume,load_from,wanted',
    [
        (True, None, 'iter_20.pth'),
        (True, 'own.pth', 'own.pth'),
        (False, 'own.pth', 'own.pth'),
        (False, None, None),
    ],
)
def test_only_an_automatic_resume_is_resolved(run, resume, load_from, wanted):
    runner = SimpleNamespace(
        _resume=resume, _load_from=load_from, work_dir=str(run)
    )
    resolve_resume(runner)
    found = runner._load_from
    assert found is wanted if wanted is None else found.endswith(wanted)
