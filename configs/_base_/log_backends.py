# Where curves are written to besides the work folder. To use one, inherit this
# file too and write in your config:
#
#   visualizer = dict(vis_backends=_base_.tensorboard_backends)
#
# or, without a config of your own:
#
#   --cfg-options "visualizer.vis_backends=[dict(type='LocalVisBackend'),
#       dict(type='TensorboardVisBackend')]"
#
# pip install tensorboard
tensorboard_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
]
# pip install wandb; wandb login
wandb_backends = [
    dict(type='LocalVisBackend'),
    dict(type='WandbVisBackend', init_kwargs=dict(project='dito')),
]
