"""Conversations with pictures from one annotation file: a config names the files, ``ann_file`` and ``image_root``.

Formats: LLaVA json/jsonl, InternVL jsonl, ``messages`` (detected by their keys). Several sets: ``meta_file`` for
``ann_file``. ``on_error='skip'`` leaves bad samples out, counted; by default the first one stops the run before step 1.
"""

train_dataloader = dict(
    # Samples per step and GPU; a step takes `optim_wrapper.accumulative_counts` of these.
    batch_size=2,
    num_workers=4,
    dataset=dict(type='ChatDataset', ann_file=None, image_root=None, on_error='raise'),
    # Batches of like length, the longest first: too little memory shows at step 1, not after hours.
    sampler=dict(type='EpochBatchSampler', group_by_length=True),
    collate=dict(type='PadCollator'),
)

val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(type='ChatDataset', ann_file=None, image_root=None, on_error='raise'),
    sampler=dict(type='EpochBatchSampler'),
    collate=dict(type='PadCollator'),
)
