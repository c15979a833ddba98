"""Any config, small: the same parts, settings and data flow, with few layers, narrow matrices and small pictures."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from PIL import Image

from mmft.data import add_special_tokens, build_template, load_tokenizer, save_tokenizer

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / 'tools' / 'demo_food' / 'tokenizer'

DEPTH = 4
"""Blocks of a small tower. `from_layer` becomes 1: with LLaVA's `select_layer=-2` 0 is closed, 1 and 2 open, 3 idle."""

Overrides = dict[str, Any]


def shrink(cfg: Config, folder: Path) -> Config:
    """A copy of ``cfg`` that takes one optimizer step in a moment, on made-up data in ``folder``.

    What is kept: every type, which parts train and how, dtypes, optimizer, schedule, hooks, template, tiling rule.
    What is not: weights and projector to start from, and DeepSpeed, which has tests of its own.
    """
    cfg = copy.deepcopy(cfg)
    tokenizer, vocab = small_tokenizer(cfg.encoder.template, folder)
    side = _shrink_vision(cfg.model.vision)
    _shrink_projector(cfg.model.projector)
    _shrink_llm(cfg.model.llm, vocab)
    cfg.encoder.update(tokenizer=tokenizer)
    _shrink_pictures(cfg.encoder.image_processor, side)
    cfg.update(pretrained=None, init_from=None, deepspeed=None)
    for part, spec in cfg.tune.items():
        if isinstance(spec, dict) and 'r' in spec:
            cfg.tune[part].update(r=2, alpha=4)
        if isinstance(spec, dict) and 'from_layer' in spec:
            cfg.tune[part].update(from_layer=1)
    annotations = make_data(folder, captions=build_template(cfg.encoder.template).caption_only)
    for name in ('train_dataloader', 'val_dataloader'):
        if cfg.get(name):
            cfg[name].update(batch_size=2, num_workers=0)
            cfg[name].dataset.update(ann_file=str(annotations), image_root=str(folder))
    cfg.optim_wrapper.accumulative_counts = min(2, cfg.optim_wrapper.accumulative_counts)
    if cfg.optim_wrapper.dtype == 'float16':
        # The scaler begins too high on purpose and would leave the only step out.
        cfg.optim_wrapper.loss_scale = 16.0
    cfg.train_cfg = dict(max_iters=1, val_interval=1)
    cfg.val_cfg = dict(max_samples=1, max_new_tokens=2)
    cfg.work_dir = str(folder / 'work')
    return cfg


def _shrink_vision(vision: Config) -> int:
    """Returns the side of a small tile."""
    if vision.type == 'MoFTower':
        sides = [_shrink_vision(tower) for tower in vision.towers]
        return sides[0]
    if vision.type == 'TimmViT':
        patch = 14 if 'patch14' in vision.model_name else 16
        vision.update(embed_dim=16, depth=DEPTH, num_heads=2, image_size=4 * patch)
        return vision.image_size
    vision.update(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=DEPTH)
    vision.image_size = 4 * vision.patch_size
    return vision.image_size


def _shrink_projector(projector: Config) -> None:
    if projector.type == 'QFormer':
        projector.update(num_queries=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
        projector.update(intermediate_size=32)
    if 'in_dims' in projector:
        projector.in_dims = [16] * len(projector.in_dims)


def _shrink_llm(llm: Config, vocab: int) -> None:
    grouped = llm.get('num_key_value_heads', llm.num_attention_heads) < llm.num_attention_heads
    llm.update(vocab_size=vocab, hidden_size=64, intermediate_size=64, num_hidden_layers=2)
    llm.update(num_attention_heads=4, num_key_value_heads=2 if grouped else 4, pad_token_id=0, eos_token_id=2)
    llm.update(bos_token_id=1, **({'head_dim': 16} if 'head_dim' in llm else {}))
    for factors in ('short_factor', 'long_factor'):
        if factors in (llm.get('rope_scaling') or {}):
            llm.rope_scaling[factors] = llm.rope_scaling[factors][:8]  # half of a head's 16 channels


def _shrink_pictures(processor: Config, side: int) -> None:
    if 'grid_pinpoints' in processor:
        grids = [[w // processor.tile_size, h // processor.tile_size] for w, h in processor.grid_pinpoints]
        processor.grid_pinpoints = [[side * columns, side * rows] for columns, rows in grids]
    if 'max_tiles' in processor:
        processor.max_tiles = 2
    processor.tile_size = side


def small_tokenizer(template: str, folder: Path) -> tuple[str, int]:
    """The demo's tokenizer with the special tokens of ``template``; its directory and vocabulary size.

    Image tokens that it lacks are the encoder's to add; the language model has no rows for them, as in earnest.
    """
    tokenizer, form = load_tokenizer(TOKENIZER), build_template(template)
    add_special_tokens(tokenizer, [token for token in (form.end.strip(), *form.stop) if token])
    path = folder / 'tokenizer'
    save_tokenizer(tokenizer, path)
    return str(path), len(tokenizer)


def make_data(folder: Path, captions: bool = False) -> Path:
    """Four samples: a wide picture, a square one, two pictures, and text only (``captions``: a tall picture)."""
    for name, size, colour in (
        ('wide', (160, 60), (200, 40, 40)),
        ('square', (60, 60), (40, 160, 40)),
        ('tall', (50, 120), (40, 40, 160)),
    ):
        Image.new('RGB', size, colour).save(folder / f'{name}.png')
    samples = [
        ('<image>\nWhat dish is this?', 'Rice noodle rolls.', ['wide.png']),
        ('<image>\n这是什么菜？', '肠粉', ['square.png']),
        ('<image>\n<image>\nThe same dish?', 'No.', ['wide.png', 'square.png']),
        ('<image>\nDescribe it.', 'Char siu.', ['tall.png']) if captions else ('Name a dish.', 'Char siu.', []),
    ]
    lines = []
    for question, answer, images in samples:
        turns = [{'from': 'human', 'value': question}, {'from': 'gpt', 'value': answer}]
        lines.append({'conversations': turns, **({'image': images} if images else {})})
    path = folder / 'data.jsonl'
    path.write_text('\n'.join(json.dumps(line, ensure_ascii=False) for line in lines) + '\n', encoding='utf-8')
    return path
