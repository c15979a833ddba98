"""A tiny trained model: a base directory written without mmft's exporter, and a checkpoint as training writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from mmft.checkpoint import build_pretrained
from mmft.data import ChatEncoder, DynamicTiler
from mmft.engine.training_state import plain
from mmft.export.gate import logits_of
from mmft.layouts import Contents, layout_for
from mmft.models import VLM
from mmft.models.language.family import families
from mmft.models.lora import plain_key
from mmft.models.tuning import apply_tune
from mmft.plain_json import config_json
from tests.helpers import GOLDEN

LORA = {'vision': 'frozen', 'projector': 'full', 'llm': {'type': 'lora', 'r': 4, 'alpha': 8}}
TOKENIZERS = {  # others: qwen2
    'InternLM2': 'internlm2', 'InternLM3': 'internlm2', 'Phi3': 'phi3_rstrip_additional', 'Llama': 'internlm2',
}  # fmt: skip
FAMILY = {
    'InternLM2': {'rope_theta': 1000000.0, 'rope_scaling': {'type': 'dynamic', 'factor': 2.0}},
    'Qwen3': {'head_dim': 32},  # not hidden_size / num_attention_heads
}


def make_encoder(kind: str = 'InternLM2', **more: Any) -> ChatEncoder:
    """Tiles of 56 px, 4 tokens each."""
    tiler = DynamicTiler(tile_size=56, min_tiles=1, max_tiles=6, thumbnail=True)
    options = {
        'tokenizer': GOLDEN / 'tokenizers' / TOKENIZERS.get(kind, 'qwen2'),
        'template': families()[kind].internvl_template,
        'image_processor': tiler,
    }
    return ChatEncoder(**{**options, 'tokens_per_tile': 4, **more})


def model_config(kind: str = 'InternLM2', vocab_size: int = 0, **llm: Any) -> dict[str, Any]:
    """A model dict of 2 + 2 layers, whose language model has the token ids of ``make_encoder``."""
    vocab_size = vocab_size or len(make_encoder(kind).tokenizer) + 5
    return {
        'type': 'VLM',
        'vision': {
            'type': 'InternViT', 'hidden_size': 48, 'num_hidden_layers': 2, 'num_attention_heads': 4,
            'intermediate_size': 96, 'image_size': 56, 'patch_size': 14,
        },
        'projector': {'type': 'PixelShuffleMLP', 'scale': 0.5, 'version': 'v2'},
        'llm': {
            'type': kind, 'vocab_size': vocab_size, 'hidden_size': 64, 'intermediate_size': 96, 'num_hidden_layers': 2,
            'num_attention_heads': 4, 'num_key_value_heads': 2, 'max_position_embeddings': 512, 'rms_norm_eps': 1e-5,
            'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 2, **FAMILY.get(kind, {}), **llm,
        },
    }  # fmt: skip


def random_model(config: dict[str, Any], seed: int = 0) -> VLM:
    """With weights large enough that logits and answers depend on every tensor."""
    torch.manual_seed(seed)
    model = VLM(**{key: value for key, value in config.items() if key != 'type'})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if parameter.dim() > 1 else 0.3
            parameter.mul_(0.5 if 'norm' in name else 1.0).add_(torch.randn_like(parameter) * 0.05 * scale)
    return model.eval()


def make_base(directory: Path, config: dict[str, Any], layout: str = 'official', dtype: torch.dtype = torch.float32,
              encoder: ChatEncoder | None = None, seed: int = 0) -> Path:  # fmt: skip
    """A model directory with random weights."""
    directory.mkdir(parents=True)
    model = random_model(config, seed)
    own = dict(model.named_parameters())
    table = layout_for(layout, config)
    tensors: dict[str, torch.Tensor] = {}
    for step in table.to_theirs(own):
        tensors |= step(lambda name: own[name].detach().to(dtype))
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, directory / 'model.safetensors', {'format': 'pt'}
    )
    table.write_files(directory, Contents(model, config, encoder, None, str(dtype).removeprefix('torch.')))
    return directory


def make_checkpoint(
    path: Path,
    cfg: dict[str, Any],
    encoder: ChatEncoder | None = None,
    seed: int = 1,
    initialised: tuple[str, ...] = (),
    **meta: Any,
) -> tuple[Path, VLM]:
    """A checkpoint of a training that moved every trained tensor, and the trained model itself, adapters unmerged.

    Args:
        initialised: beginnings of names: tensors that are in no base and were not trained.
    """
    base = None
    if cfg.get('pretrained'):
        model, mark = build_pretrained(cfg['pretrained'], cfg['model'], dtype='float32')
        base = {'path': cfg['pretrained'], 'fingerprint': mark}
    else:
        model = random_model(cfg['model'])
    tune = apply_tune(model, cfg['tune'])
    first = {plain_key(n): p for n, p in model.named_parameters() if n.startswith(initialised) and not p.requires_grad}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    content = {
        'state_dict': {**{name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, **first},
        'optimizer': {'state': torch.randn(1000)},
        'encoder': encoder.to_dict() if encoder is not None else None,
        'meta': {
            'mmft_version': '0',
            'config': config_json(cfg),
            'base': base,
            'tune': tune,
            'initialised': sorted(first),
            **meta,
        },
    }
    torch.save(plain(content), path)
    if encoder is not None:
        model.image_token_id = encoder.image_token_id
    return path, model.eval()


def picture(width: int = 100, height: int = 60) -> Image.Image:
    """Smooth colours: resizing rules that differ a little show little."""
    x, y = torch.meshgrid(torch.linspace(0, 1, width), torch.linspace(0, 1, height), indexing='xy')
    rgb = torch.stack([x, y, (x * 3).sin() * y]).mul(255).byte().permute(1, 2, 0)
    return Image.fromarray(rgb.numpy())


def logits(model: VLM, encoder: ChatEncoder, images: list, text: str = 'What dish is it?') -> torch.Tensor:
    """(L,V) of a question."""
    return logits_of(model, encoder.prompt(text, images))
