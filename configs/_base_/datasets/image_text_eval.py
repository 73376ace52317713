# Evaluation during pretraining at 224 pixels: the test of ImageNet, and
# retrieval on a held-out shard. Inherit from it and set
# train_cfg.val_interval.
#
# data/laion2b/held_out.tar
_base_ = './imagenet_test.py'

val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict(
    type='DITOMultiValLoop',
    extra=[
        dict(
            dataloader=dict(
                _base_.test_dataloader,
                dataset=dict(
                    type='DITORetrievalDataset',
                    shards='data/laion2b/held_out.tar',
                    size=_base_.eval_size,
                ),
            ),
            evaluator=dict(type='DITORetrievalMetric'),
        ),
    ],
)
