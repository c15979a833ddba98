"""A tiny InternVL2, its pictures and its config file, for tests that go through the command line."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / 'tools' / 'demo_food' / 'tokenizer'

CONFIG = '''
"""Random tiny InternVL2, LoRA on the language model."""
from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type='VLM',
    vision=dict(type='InternViT', hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                image_size=28, patch_size=7),
    projector=dict(type='PixelShuffleMLP', scale=0.5, version='v2'),
    llm=dict(type='Llama', vocab_size={vocab}, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=1),
)
pretrained = None
dtype = 'float32'
tune = dict(vision='frozen', projector='full', llm=dict(type='lora', r=4, alpha=8, dropout=0.1))
encoder = dict(type='ChatEncoder', template='internlm2-chat', tokenizer={tokenizer!r}, max_length=256,
               image_processor=dict(type='DynamicTiler', tile_size=28, min_tiles=1, max_tiles=2))
train_dataloader = dict(
    batch_size=2, num_workers=0,
    dataset=dict(type='ChatDataset', ann_file={data!r} + '/train.jsonl', image_root={data!r}))
val_dataloader = dict(
    batch_size=4, num_workers=0,
    dataset=dict(type='ChatDataset', ann_file={data!r} + '/val.jsonl', image_root={data!r}))
val_cfg.update(max_samples=3, max_new_tokens=4)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01), accumulative_counts=2,
    clip_grad=dict(max_norm=1.0), dtype='bfloat16', paramwise_cfg=dict(parts=dict(projector=dict(lr=2e-3))))
param_scheduler = dict(type='cosine', warmup_ratio=0.1)
train_cfg = dict(max_epochs=2)
default_hooks.update(progress=dict(interval=1))
'''


def write_tiny(folder: Path) -> Path:
    """Pictures, jsonl and config in ``folder``; returns the config's path."""
    from mmft.data.text.tokenizers import load_tokenizer

    data = folder / 'data'
    data.mkdir(parents=True)
    rows = []
    for i in range(9):
        size = (40 + 20 * (i % 3), 40)
        Image.new('RGB', size, (25 * i, 255 - 25 * i, 90)).save(data / f'{i}.png')
        question = 'What dish is this?' if i % 4 == 3 else '<image>\nWhat dish is this?'
        row = {
            'id': i,
            'conversations': [{'from': 'human', 'value': question}, {'from': 'gpt', 'value': f'dish {i % 3}'}],
        }
        rows.append(row if i % 4 == 3 else {**row, 'image': f'{i}.png'})
    for name, part in (('train', rows), ('val', rows[:5])):
        (data / f'{name}.jsonl').write_text('\n'.join(json.dumps(row) for row in part) + '\n')
    vocab = len(load_tokenizer(TOKENIZER))
    (folder / 'runtime.py').write_text((ROOT / 'configs' / '_base_' / 'runtime.py').read_text())
    config = folder / 'tiny.py'
    config.write_text(CONFIG.format(vocab=vocab, tokenizer=str(TOKENIZER), data=str(data)))
    return config
