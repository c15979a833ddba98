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
TOKENIZER = ROOT / 'mmft' / 'demo' / 'tokenizer'

Overrides = dict[str, Any]


def shrink(cfg: Config, folder: Path) -> Config:
    """A copy of ``cfg`` that takes one optimizer step in a moment, on made-up data in ``folder``.

    What is kept: every type, which parts train and how, dtypes, optimizer, schedule, hooks, template, tiling rule.
    """
    cfg = copy.deepcopy(cfg)
    tokenizer, vocab = small_tokenizer(cfg.encoder.template, folder)
    _shrink_vision(cfg.model.vision)
    _shrink_llm(cfg.model.llm, vocab)
    cfg.encoder.update(tokenizer=tokenizer)
    cfg.encoder.image_processor.update(tile_size=cfg.model.vision.image_size, max_tiles=2)
    cfg.pretrained = None
    for part, spec in cfg.tune.items():
        if isinstance(spec, dict) and 'r' in spec:
            cfg.tune[part].update(r=2, alpha=4)
    annotations = make_data(folder)
    for name in ('train_dataloader', 'val_dataloader'):
        if cfg.get(name):
            cfg[name].update(batch_size=2, num_workers=0)
            cfg[name].dataset.update(ann_file=str(annotations), image_root=str(folder))
    cfg.optim_wrapper.accumulative_counts = min(2, cfg.optim_wrapper.accumulative_counts)
    cfg.train_cfg = dict(max_iters=1, val_interval=1)
    cfg.val_cfg = dict(max_samples=1, max_new_tokens=2)
    cfg.work_dir = str(folder / 'work')
    return cfg


def _shrink_vision(vision: Config) -> None:
    vision.update(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
    vision.image_size = 4 * vision.patch_size


def _shrink_llm(llm: Config, vocab: int) -> None:
    grouped = llm.get('num_key_value_heads', llm.num_attention_heads) < llm.num_attention_heads
    llm.update(vocab_size=vocab, hidden_size=64, intermediate_size=64, num_hidden_layers=2)
    llm.update(num_attention_heads=4, num_key_value_heads=2 if grouped else 4, pad_token_id=0, eos_token_id=2)
    for factors in ('short_factor', 'long_factor'):
        if factors in (llm.get('rope_scaling') or {}):
            llm.rope_scaling[factors] = llm.rope_scaling[factors][:8]  # half of a head's 16 channels


def small_tokenizer(template: str, folder: Path) -> tuple[str, int]:
    """The demo's tokenizer with the special tokens of ``template``; its directory and vocabulary size."""
    tokenizer, form = load_tokenizer(TOKENIZER), build_template(template)
    add_special_tokens(tokenizer, [form.end.strip(), *form.stop])
    path = folder / 'tokenizer'
    save_tokenizer(tokenizer, path)
    return str(path), len(tokenizer)


def make_data(folder: Path) -> Path:
    """Four samples: a wide picture, a square one, two pictures, and text only."""
    Image.new('RGB', (160, 60), (200, 40, 40)).save(folder / 'wide.png')
    Image.new('RGB', (60, 60), (40, 160, 40)).save(folder / 'square.png')
    samples = [
        ('<image>\nWhat dish is this?', 'Rice noodle rolls.', ['wide.png']),
        ('<image>\n这是什么菜？', '肠粉', ['square.png']),
        ('<image>\n<image>\nThe same dish?', 'No.', ['wide.png', 'square.png']),
        ('Name a dish.', 'Char siu.', []),
    ]
    lines = []
    for question, answer, images in samples:
        turns = [{'from': 'human', 'value': question}, {'from': 'gpt', 'value': answer}]
        lines.append({'conversations': turns, **({'image': images} if images else {})})
    path = folder / 'data.jsonl'
    path.write_text('\n'.join(json.dumps(line, ensure_ascii=False) for line in lines) + '\n', encoding='utf-8')
    return path
