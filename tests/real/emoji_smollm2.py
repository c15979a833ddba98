"""A LLaVA of SmolLM2-135M and a small ResNet from nothing, on emoji of three artists: `make test-real` runs it."""

from mmengine.config import read_base

with read_base():
    from mmft.configs._base_.data.chat import *
    from mmft.configs._base_.llms.smollm2_135m import llm
    from mmft.configs._base_.models.llava import *
    from mmft.configs._base_.runtime import *
    from mmft.configs._base_.schedules.lora import *

model.update(vision=dict(type='TimmBackbone', model_name='test_resnet', image_size=64), llm=llm)
pretrained.update(llm='pretrained/SmolLM2-135M-Instruct.Q4_1.gguf')
encoder.update(template='chatml_newline', image_processor=dict(type='Resize', tile_size=64), max_length=128)
train_dataloader.update(
    batch_size=16, num_workers=0, dataset=dict(ann_file='data/emoji/train.json', image_root='data/emoji')
)
val_dataloader = None
dtype = 'float32'
gradient_checkpointing = False
tune.update(vision='full', llm=dict(r=16, alpha=32, dropout=0.0))
optim_wrapper.update(
    dtype='float32',
    accumulative_counts=1,
    optimizer=dict(lr=2e-4, weight_decay=0.0),
    paramwise_cfg=dict(parts=dict(vision=dict(lr=2e-3), projector=dict(lr=2e-3))),
)
train_cfg = dict(max_iters=150)
default_hooks.update(checkpoint=dict(interval=0), answers=None, progress=dict(interval=5))
work_dir = 'work_dirs/real'
del llm
