"""AdamW in bfloat16 autocast, warm-up and cosine: what the schedules here share. It leaves open what trains."""

# Blocks run again in the backward pass: about a third more time for a fraction of the memory.
gradient_checkpointing = True

optim_wrapper = dict(
    type='OptimWrapper',
    dtype='bfloat16',
    # Batches per step and GPU. A step weights every trained token alike, whatever batch it lies in.
    accumulative_counts=8,
    clip_grad=dict(max_norm=1.0),
    optimizer=dict(type='AdamW', lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05),
)

# Counted in steps of the whole run: linear warm-up for 3% of it, then a cosine to zero.
param_scheduler = dict(type='cosine', warmup_ratio=0.03, min_lr_ratio=0.0)

train_cfg = dict(max_epochs=1)  # val_interval: once an epoch, unless it says how many epochs (iterations)
