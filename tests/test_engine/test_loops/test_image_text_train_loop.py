# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from pretrain_files import clip_model, runner_cfg, write_data
from torch.optim import SGD

from dito.engine.loops.cached_step import cached_train_step, split_batch
from dito.models.pretrainers import BatchPlace


@pytest.fixture
def data(tmp_path):
    write_data(tmp_path)
    return tmp_path


def test_learns_colours_and_validates(data):
    runner = Runner(
        **runner_cfg(data, data / 'work', clip_model(), max_iters=60, val=True)
    )
    runner.train()
    hub = runner.message_hub
    losses = hub.get_scalar('train/loss')._log_history
    assert losses[-1] < losses[0] - 0.3
    # Each colour comes twice in a batch of ten: ln 2 is the best loss.
    assert losses[-1] < 1.2
    assert hub.get_scalar('val/zero_shot/all_top1').current() == 100
    assert hub.get_scalar('val/zero_shot/base_top5').current() == 100
    assert 'val/zero_shot/novel_top1' not in hub.log_scalars
    assert hub.get_scalar('train/images_per_second').current() > 0
    assert 0 <= hub.get_scalar('train/loader_wait').current() <= 1
    assert hub.get_scalar('train/skipped_samples').current() == 0


def final_state(data, name, model, **kwargs):
    runner = Runner(**runner_cfg(data, data / name, model, **kwargs))
    runner.train()
    return runner.model.state_dict()


@pytest.mark.parametrize('workers', [0, 2])
def test_a_resumed_run_equals_the_straight_one(data, workers):
    model = clip_model()
    kwargs = dict(batch_size=5, num_workers=workers)
    straight = final_state(data, 'a', model, max_iters=6, **kwargs)
    checkpoint = data / 'a' / 'iter_3.pth'
    resumed = final_state(
        data,
        'b',
        model,
        max_iters=6,
        resume=True,
        load_from=str(checkpoint),
        **kwargs,
    )
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def make_batch(size=10):
    generator = torch.Generator().manual_seed(0)
    return dict(
        inputs=torch.randint(
            0, 256, (size, 3, 16, 16), dtype=torch.uint8, generator=generator
        ),
        texts=[
            f'a {c} image' for c in ('red', 'green', 'blue', 'white', 'black')
        ]
        * (size // 5),
        keys=[str(i) for i in range(size)],
        place=BatchPlace(0, 7, 0, size),
    )


def step_and_grads(model, batch, micro_batch):
    """Gradients of one step and what was logged."""
    model = copy.deepcopy(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    wrapper = OptimWrapper(SGD(model.parameters(), lr=1.0))
    if micro_batch is None:
        logs = model.train_step(batch, wrapper)
    else:
        logs = cached_train_step(model, batch, wrapper, micro_batch)
    return {
        n: before[n] - p.detach() for n, p in model.named_parameters()
    }, logs


@pytest.mark.parametrize('micro_batch', [1, 3, 5, 10])
def test_micro_batches_have_the_gradient_of_the_whole(micro_batch):
    """In float64; the positional embedding is resampled in float32."""
    model = MODELS.build(clip_model())
    model.init_weights()
    model.double()
    model.train()
    whole, logs = step_and_grads(model, make_batch(), None)
    parts, part_logs = step_and_grads(model, make_batch(), micro_batch)
    for name, value in whole.items():
        assert value.abs().max() > 0, name
        error = (parts[name] - value).abs().max()
        assert error <= 1e-6 * value.abs().max(), name
    assert logs.keys() == part_logs.keys()
    for name, value in logs.items():
        torch.testing.assert_close(part_logs[name], value)


def test_micro_batches_in_a_run(data):
    model, kwargs = clip_model(), dict(max_iters=3, optimizer='SGD', lr=0.1)
    whole = final_state(data, 'a', model, **kwargs)
    parts = final_state(data, 'b', model, micro_batch=4, **kwargs)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-5)


def test_split_batch_moves_the_place():
    pieces = split_batch(make_batch(), 4)
    assert [len(p['inputs']) for p in pieces] == [4, 4, 2]
    assert [p['place'].start for p in pieces] == [0, 4, 8]
    assert pieces[2]['texts'] == ['a white image', 'a black image']


def test_an_end_of_the_data_is_named(data):
    cfg = runner_cfg(data, data / 'work', clip_model(), max_iters=100)
    cfg['train_dataloader']['dataset']['epochs'] = 1
    with pytest.raises(RuntimeError, match='ended after 8 of 100'):
        Runner(**cfg).train()


def test_wrong_micro_batch(data):
    cfg = runner_cfg(
        data, data / 'work', clip_model(), max_iters=1, micro_batch=0
    )
    with pytest.raises(ValueError, match='micro_batch'):
        Runner(**cfg).train()


def test_accumulated_gradients_are_refused(data):
    cfg = runner_cfg(data, data / 'work', clip_model(), max_iters=1)
    cfg['optim_wrapper']['accumulative_counts'] = 4
    with pytest.raises(ValueError, match='set train_cfg.total_batch_size'):
        Runner(**cfg).train()


def test_a_batch_of_one_pair_is_refused(data):
    cfg = runner_cfg(data, data / 'work', clip_model(), max_iters=1)
    cfg['train_dataloader']['batch_size'] = 1
    with pytest.raises(ValueError, match='batch_size=1 on one process'):
        Runner(**cfg).train()


@pytest.mark.parametrize('own', [None, 5])
def test_data_and_draws_follow_the_seed_of_the_run(data, own):
    """Two seeds are two runs, unless the config gives the parts their own."""
    seen = []
    for number, seed in enumerate((0, 1, 1)):
        cfg = runner_cfg(data, data / f'{number}', clip_model(), max_iters=1)
        cfg['randomness'] = dict(seed=seed)
        cfg['train_cfg']['seed'] = own
        cfg['train_dataloader']['dataset']['seed'] = own
        runner = Runner(**cfg)

        def note(module, args, kwargs):
            seen.append(
                (kwargs['place'].seed, kwargs['inputs'], kwargs['keys'])
            )

        runner.model.register_forward_pre_hook(note, with_kwargs=True)
        runner.train()
    seeds, inputs, keys = zip(*seen, strict=True)
    assert seeds == ((0, 1, 1) if own is None else (5, 5, 5))
    assert keys[1] == keys[2] and torch.equal(inputs[1], inputs[2])
    assert (keys[0] == keys[1]) == (own is not None)


def test_other_batches_are_refused(data):
    cfg = runner_cfg(data, data / 'work', clip_model(), max_iters=1)
    cfg['train_dataloader']['collate_fn'] = dict(type='pseudo_collate')
    cfg['train_dataloader']['dataset']['num_streams'] = 4
    with pytest.raises(ValueError, match='image_text_collate'):
        Runner(**cfg).train()
    cfg['train_dataloader']['num_workers'] = 3
    with pytest.raises(ValueError, match='set it to 6 or another multiple'):
        Runner(**dict(cfg, experiment_name='b')).train()
