"""What every run has: hooks, logging, seed."""

default_hooks = dict(
    # Progress bar (lines where there is no terminal), scalars every `interval` iterations.
    progress=dict(type='ProgressHook', interval=10),
    # iter_N.pth every `interval` epochs (by_epoch=False: iterations), the last `max_keep_ckpts` and best.pth kept.
    checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=True, max_keep_ckpts=3, save_best='auto'),
    # Generated answers beside the right ones: with every validation, and every `interval` iterations if it is not 0.
    answers=dict(type='SampleAnswersHook', interval=0, num_samples=3, max_new_tokens=64),
    # The first sample with its trained text in colour.
    label_mask=dict(type='LabelMaskHook'),
    # Proof after the first step that trained parts moved and frozen ones did not.
    moved_parts=dict(type='MovedPartsHook', patience=10),
)
custom_hooks = []

# Others: WandbVisBackend, MLflowVisBackend, SwanLab's, ... (mmengine.visualization).
visualizer = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])

# Of each validation: how many samples are answered by generation (None all, 0 none), how long answers may be, how they
# are scored, and with how many samples pictures are exchanged, to see whether the model looks at them (0 none).
val_cfg = dict(max_samples=200, max_new_tokens=64, metrics=['exact_match'], exchanged_samples=64)

seed = 0
work_dir = None  # work_dirs/<config name>
launcher = 'none'
resume = False
# Start from the trained weights of another run (its folder or a .pth), of a model directory, or an mm_projector.bin.
init_from = None
log_level = 'INFO'
# True: float32 products in TensorFloat-32 (NVIDIA GPUs since A100: faster, 10 bits of mantissa); None: torch's default.
tf32 = None
# True: tokens of the tokenizer that have no row in the language model get one; token table and head train whole then.
resize_embeddings = False
