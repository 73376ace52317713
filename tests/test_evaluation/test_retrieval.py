# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn.functional as F

from dito.evaluation import DITORetrievalMetric
from dito.evaluation.retrieval import merge_captions, ranks


def naive(image, captions, texts, k):
    """Recall by sorting, one question at a time."""
    words = list(dict.fromkeys(t for group in texts for t in group))
    vector = {
        t: v
        for group, vs in zip(texts, captions, strict=True)
        for t, v in reversed(list(zip(group, vs, strict=True)))
    }
    i2t = [
        any(
            t in group
            for t in sorted(words, key=lambda w: -float(i @ vector[w]))[:k]
        )
        for i, group in zip(image, texts, strict=True)
    ]
    t2i = [
        any(
            word in texts[n]
            for n in sorted(
                range(len(image)),
                key=lambda n: -float(image[n] @ vector[word]),
            )[:k]
        )
        for word in words
    ]
    return (100 * sum(i2t) / len(i2t), 100 * sum(t2i) / len(t2i))


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def samples(texts, image, captions):
    return [
        dict(image=i, captions=c, texts=t, key=str(n))
        for n, (i, c, t) in enumerate(zip(image, captions, texts, strict=True))
    ]


def evaluate(rows, **kwargs):
    metric = DITORetrievalMetric(**kwargs)
    metric.process(None, rows)
    return metric.evaluate(len(rows))


def test_equals_sorting():
    texts = [[f'{n} {i}' for i in range(1 + n % 3)] for n in range(40)]
    image = unit(40, 6)
    captions = [
        F.normalize(image[n] + 0.8 * unit(len(t), 6), dim=-1)
        for n, t in enumerate(texts)
    ]
    found = evaluate(samples(texts, image, captions))
    for k in (1, 5, 10):
        want = naive(image, captions, texts, k)
        assert found[f'retrieval/i2t_R@{k}'] == pytest.approx(want[0])
        assert found[f'retrieval/t2i_R@{k}'] == pytest.approx(want[1])
    six = [v for n, v in found.items() if '@' in n]
    assert found['retrieval/mean_R'] == pytest.approx(sum(six) / 6)
    assert 0 < found['retrieval/i2t_R@1'] < 100


def test_equal_captions_belong_to_all_their_images():
    x, y, z = torch.eye(3)
    # The two cats' embeddings differ by what rounding would do.
    rows = samples(
        [['a cat'], ['a cat'], ['a dog', 'a pet']],
        [x, F.normalize(x + 0.1 * z, dim=0), y],
        [x[None], (x + 1e-7)[None], torch.stack([y, z])],
    )
    text, belongs = merge_captions(
        [r['captions'] for r in rows], [r['texts'] for r in rows]
    )
    assert len(text) == 3
    assert belongs.tolist() == [
        [True, False, False],
        [True, False, False],
        [False, True, True],
    ]
    found = evaluate(rows, topk=(1,))
    assert found['retrieval/i2t_R@1'] == 100
    # 'a pet' is nearest to the second cat.
    assert found['retrieval/t2i_R@1'] == pytest.approx(200 / 3)


def test_one_embedding_for_everything_finds_nothing():
    same = torch.ones(20, 4) / 2
    found = evaluate(
        samples([[str(n)] for n in range(20)], same, list(same[:, None]))
    )
    assert set(found.values()) == {0}


def test_ranks_in_chunks():
    queries, candidates = unit(7, 3), unit(9, 3)
    belongs = torch.rand(7, 9) > 0.5
    belongs[:, 0] = True
    whole = ranks(queries, candidates, belongs)
    assert torch.equal(whole, ranks(queries, candidates, belongs, chunk=2))


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match='DITORetrievalDataset'):
        evaluate([dict(pred_labels=[0], gt_label=0)])
    with pytest.raises(ValueError, match='topk'):
        DITORetrievalMetric(topk=(0,))


def test_report_has_protocol_and_figures():
    x, y, _ = torch.eye(3)
    metric = DITORetrievalMetric(topk=(1,))
    metric.note_run(dict(split='held_out.tar', vocabulary='153 names'))
    metric.process(
        None,
        samples(
            [['a cat'], ['a cat', 'a pet']],
            [x, y],
            [x[None], torch.stack([x, y])],
        ),
    )
    found = metric.evaluate(2)
    protocol = metric.report['protocol']
    assert protocol['split'] == 'held_out.tar' and protocol['images'] == 2
    assert protocol['captions'] == '3 (2 distinct)'
    # Nothing is classified.
    assert 'vocabulary' not in protocol
    assert found['retrieval/mean_R'] == metric.report['figures']['mean_R']
