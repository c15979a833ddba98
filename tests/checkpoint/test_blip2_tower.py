"""A BLIP-2 directory as the start of BLIP-2's and MiniGPT-4's design: tower and Q-Former give transformers' numbers."""

from __future__ import annotations

import pytest
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig

import mmft
from mmft.checkpoint.load import build_opened, open_pretrained

DEPTH, WIDTH, SIDE, QUERIES = 3, 16, 56, 4
SIZES = {'hidden_size': WIDTH, 'num_attention_heads': 2}
MODEL = {
    'type': 'VLM',
    'vision': {
        'type': 'TimmViT',
        'model_name': 'vit_giant_patch14_224',
        'depth': DEPTH,
        'final_norm': False,
        'select_feature': 'cls_patch',
        'embed_dim': WIDTH,
        'num_heads': 2,
        'image_size': SIDE,
    },
    'projector': {
        'type': 'QFormer',
        'num_queries': QUERIES,
        'vision_norm': 1e-6,
        'num_hidden_layers': 2,
        'intermediate_size': 32,
        **SIZES,
    },
    'llm': {'type': 'Llama', 'vocab_size': 64, 'num_hidden_layers': 1, 'intermediate_size': 32, **SIZES},
}


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """A small BLIP-2 with random weights, and its directory."""
    config = Blip2Config(
        # 6144 / 1408 of 16 channels, as timm's giant has it
        vision_config=Blip2VisionConfig(
            num_hidden_layers=DEPTH, intermediate_size=69, image_size=SIDE, patch_size=14, **SIZES
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            num_hidden_layers=2, intermediate_size=32, encoder_hidden_size=WIDTH, **SIZES
        ).to_dict(),
        text_config=OPTConfig(
            num_hidden_layers=1, ffn_dim=16, vocab_size=64, word_embed_proj_dim=WIDTH, **SIZES
        ).to_dict(),
        num_query_tokens=QUERIES,
    )
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    path = tmp_path_factory.mktemp('blip2')
    model.save_pretrained(path)
    model.vision_model.save_pretrained(path / 'tower')
    return model, path


@pytest.mark.parametrize('place', ['.', 'tower'])
@torch.no_grad()
def test_tower_and_q_former_are_transformers(original, place):
    model, path = original
    parts = {'vision': str(path / place), 'projector': str(path)}
    _, drawn = build_opened(open_pretrained(parts, MODEL), MODEL, 'auto')
    ours, encoder = mmft.load(parts, model=MODEL)
    assert encoder is None
    assert {name.split('.')[0] for name in drawn} == {'llm'}
    pixels = torch.randn(2, 3, SIDE, SIDE)
    features = model.vision_model(pixels).last_hidden_state
    normed = ours.projector.ln_vision(ours.vision(pixels))
    torch.testing.assert_close(normed, features, atol=1e-5, rtol=1e-5)
    queries = model.query_tokens.expand(2, -1, -1)
    answers = model.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
    # Equal widths here, so that also the linear map to the language model is BLIP-2's own.
    torch.testing.assert_close(
        ours.projector(ours.vision(pixels)), model.language_projection(answers), atol=1e-5, rtol=1e-5
    )
