"""Freezing, opening from a layer on, and LoRA: what is said to train trains, nothing else does."""

from __future__ import annotations

import pytest
import torch

from mmft.checkpoint import load
from mmft.errors import ConfigError
from mmft.models.lora import ADAPTER, is_lora_key, lora_delta
from mmft.models.tuning import apply_tune, check_tune, part_of, trainable_summary
from tests.helpers import GOLDEN, golden_json, golden_tensors

CASE = 'internvl2_internlm2'


def build(dtype='float32'):
    model, _ = load(GOLDEN / CASE, dtype=dtype)
    model.image_token_id = golden_json(CASE, 'results.json')['img_context_token_id']
    return model.train()


def batch():
    inputs = golden_tensors(CASE, 'inputs')
    return {'input_ids': inputs['input_ids'], 'attention_mask': inputs['attention_mask'],
            'pixel_values': inputs['pixel_values'][:3], 'labels': inputs['labels']}  # fmt: skip


def moved(model):
    """Names that one SGD step changes."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**batch())['loss'].backward()
    optimizer.step()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


TUNES = {
    'projector only': {'llm': 'frozen'},
    'full llm': {'llm': 'full'},
    'vit from layer 2': {'vision': {'type': 'full', 'from_layer': 2}, 'llm': 'frozen'},
    'all': {'vision': 'full', 'llm': 'full'},
    'lora': {'llm': {'type': 'lora', 'r': 4}},
    'lora on both': {'vision': {'type': 'lora', 'r': 4, 'from_layer': 1}, 'llm': {'type': 'lora', 'r': 4}},
    'dora': {'llm': {'type': 'lora', 'r': 4, 'dora': True}},
    'qlora': {'llm': {'type': 'qlora', 'r': 4}},
    'frozen projector': {'projector': 'frozen', 'llm': {'type': 'lora', 'r': 2, 'targets': ['q_proj', 'v_proj']}},
}


@pytest.mark.parametrize('tune', TUNES.values(), ids=TUNES.keys())
def test_exactly_the_named_parts_move(tune):
    model = build()
    used = apply_tune(model, tune)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    changed = moved(model)
    # A fresh lora_B is zero, so lora_A has no gradient in the very first step: it must be trainable all the same.
    silent = {name for name in trained if '.lora_A.' in name}
    assert trained - silent <= changed <= trained
    for name in trained:
        spec = used[part_of(name)]
        assert spec['type'] != 'frozen'
        assert is_lora_key('.' + name) == (spec['type'] in ('lora', 'qlora'))
        if 'from_layer' in spec:
            assert int(name.split('layers.')[1].split('.')[0]) >= spec['from_layer']
    summary = trainable_summary(model)
    for part, spec in used.items():
        assert (summary[part]['trained'] == 0) == (spec['type'] == 'frozen')


def test_trained_weights_are_float32_and_frozen_ones_keep_their_dtype():
    model = build('bfloat16')
    apply_tune(model, {'llm': {'type': 'lora', 'r': 4}})
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name


def test_frozen_modules_stay_in_eval_mode():
    model = build()
    apply_tune(model, {'vision': {'type': 'full', 'from_layer': 2}, 'llm': {'type': 'lora', 'r': 4, 'dropout': 0.5}})
    model.train()
    assert [block.training for block in model.vision.layers] == [False, False, True]
    attention = model.llm.layers[0].self_attn.q_proj
    assert attention.lora_dropout[ADAPTER].training


@pytest.mark.parametrize('dora', [False, True])
def test_merged_weights_compute_the_same(dora):
    model = build()
    apply_tune(model, {'llm': {'type': 'lora', 'r': 4, 'alpha': 6, 'dora': dora}, 'vision': {'type': 'lora', 'r': 2}})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if '.lora_B.' in name:
                parameter.normal_(std=0.05)
    model.eval()
    inputs = {key: value for key, value in batch().items() if key != 'labels'}
    with torch.no_grad():
        want = model(**inputs, mode='tensor')
    adapter = {name: p.detach() for name, p in model.named_parameters()}
    plain = build().eval()
    ranks = {'llm': (6, 4), 'vision': (4, 2)}
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            key = name.removesuffix('.weight')
            if f'{key}.lora_A.{ADAPTER}.weight' in adapter:
                parameter.copy_(lora_delta(key, parameter, adapter, *ranks[part_of(name)]))
        got = plain(**inputs, mode='tensor')
    mask = inputs['attention_mask'].bool()
    torch.testing.assert_close(got[mask], want[mask], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('tune', 'message'),
    [
        ({'vit': 'full'}, 'no such part'),
        ({'llm': 'lroa'}, 'expected one of'),
        ({'llm': {'type': 'full', 'r': 4}}, 'mean nothing'),
        ({'llm': {'type': 'lora', 'alpha': float('nan')}}, 'alpha = nan'),
        ({'llm': {'type': 'lora', 'dropout': True}}, 'dropout = True'),
        ({'projector': {'type': 'full', 'from_layer': 1}}, 'no layers to count'),
        ({'projector': 'frozen', 'llm': 'frozen'}, 'nothing would train'),
        ({'vision': {'type': 'frozen', 'from_layer': 3}}, 'from_layer'),
    ],
)
def test_wrong_settings(tune, message):
    with pytest.raises(ConfigError, match=message):
        check_tune(tune)


def test_all_problems_at_once():
    with pytest.raises(ConfigError) as error:
        check_tune({'vit': 'full', 'llm': 'lroa', 'projector': {'type': 'lora', 'rank': 2}})
    assert '3 problems' in str(error.value)


def test_from_layer_beyond_the_tower():
    with pytest.raises(ConfigError, match='3 layers'):
        apply_tune(build(), {'vision': {'type': 'full', 'from_layer': 7}})


def test_unknown_lora_target():
    with pytest.raises(ConfigError, match='no linear layer is named'):
        apply_tune(build(), {'llm': {'type': 'lora', 'r': 2, 'targets': ['wqkv']}})


def test_blocks_that_never_run_do_not_train():
    """With select_layer -2 the last block has no gradient, for which DDP would wait."""
    model, _ = load(GOLDEN / 'internvl2_internlm2_rms_qknorm_v1', dtype='float32')
    apply_tune(model, {'vision': 'full'})
    trained = [any(p.requires_grad for p in block.parameters()) for block in model.vision.layers]
    assert trained == [True, True, False]
