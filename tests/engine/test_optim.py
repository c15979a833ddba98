"""Parameter groups by part, autocast and scaling, token-weighted accumulation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer

from mmft.engine.optim import OptimWrapper, build_optim_wrapper, build_optimizer, group_of, param_groups
from mmft.engine.training_state import regrouped
from mmft.errors import ConfigError, TrainingError
from mmft.models.vision.intern_vit import InternViT
from tests.engine.toy import ToyVLM, toy_runner


def by_key(groups: list[dict]) -> dict[tuple[str, bool], dict]:
    return {(group['part'], group['weight_decay'] > 0): group for group in groups}


def test_groups_by_part_and_decay() -> None:
    groups = by_key(param_groups(ToyVLM(), 1e-3, 0.1, {'projector': {'lr': 5e-4, 'weight_decay': 0.2}}))
    assert {key: group['lr'] for key, group in groups.items()} == {
        ('projector', True): 5e-4,
        ('projector', False): 5e-4,
        ('llm', True): 1e-3,
        ('llm', False): 1e-3,
    }
    assert groups['projector', True]['weight_decay'] == 0.2
    assert groups['llm', True]['names'] == ['llm.body.weight', 'llm.head.weight']
    assert groups['llm', False]['names'] == ['llm.embed.weight', 'llm.body.bias']
    assert groups['projector', False]['names'] == ['projector.0.weight', 'projector.0.bias', 'projector.1.bias']


def test_what_decays_is_what_the_originals_decay_but_for_vectors_and_tables() -> None:
    size = {'hidden_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 64}
    for options in ({}, {'norm_type': 'rms_norm', 'qk_normalization': True}):
        model = nn.ModuleDict({'vision': InternViT(**size, image_size=56, **options), 'llm': nn.Embedding(4, 8)})
        ours = {n for g in param_groups(model, 1e-3, 0.1) if g['weight_decay'] for n in g['names']}
        theirs = set(Trainer.get_decay_parameter_names(None, model))
        vectors = {name for name, parameter in model.named_parameters() if parameter.squeeze().ndim < 2}
        assert ours == theirs - vectors - {'vision.embeddings.position_embedding', 'llm.weight'}
        assert 'vision.embeddings.patch_embedding.weight' in ours


def test_a_state_of_other_groups_is_read_by_name() -> None:
    def made(groups: list[list[str]]) -> OptimWrapper:
        return OptimWrapper(torch.optim.AdamW([{'params': [weights[n] for n in g], 'names': g} for g in groups], 0.1))

    weights = {name: nn.Parameter(torch.zeros(size)) for name, size in (('a', 1), ('b', 2), ('c', 3))}
    before, now = [['a'], ['b', 'c']], [['b', 'a'], ['c']]
    one, other = made(before), made(now)
    for number, parameter in enumerate(weights.values()):
        parameter.grad = torch.full_like(parameter, number + 1.0)
    one.step()
    other.load_state_dict(regrouped(one.state_dict(), before, now))
    for parameter in weights.values():
        assert torch.equal(other.optimizer.state[parameter]['exp_avg'], one.optimizer.state[parameter]['exp_avg'])
    assert [group['names'] for group in other.param_groups] == now


def test_adapters_are_a_group_of_their_own() -> None:
    model = nn.ModuleDict({'llm': nn.ModuleDict({'lora_A': nn.ModuleDict({'default': nn.Linear(4, 2, bias=False)})})})
    assert group_of('llm.lora_A.default.weight') == 'llm.lora'
    for parts, lr in (({}, 1.0), ({'llm': {'lr': 2.0}}, 2.0), ({'llm': {'lr': 2.0}, 'lora': {'lr_mult': 3.0}}, 3.0)):
        (group,) = param_groups(model, 1.0, parts=parts)
        assert (group['part'], group['lr']) == ('llm.lora', lr)


def test_layer_wise_rates_of_the_tower() -> None:
    """``trainer_monkey_patch.py`` of OpenGVLab/InternVL: rate ** (layers + 2 - layer - 1), embeddings are layer 0."""
    tower = {'hidden_size': 8, 'num_hidden_layers': 3, 'num_attention_heads': 2, 'intermediate_size': 8}
    model = nn.ModuleDict({'vision': InternViT(**tower, image_size=56), 'llm': nn.Linear(4, 8)})
    groups = param_groups(model, 1e-3, 0.1, parts={'vision': {'layer_decay': 0.9, 'lr_mult': 0.5}})
    got = {name: group['lr'] for group in groups for name in group['names']}
    assert set(got) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, lr in got.items():
        number = re.search(r'layers\.(\d+)', name)
        layer = int(number[1]) + 1 if number else 0
        assert lr == pytest.approx(0.5e-3 * 0.9 ** (3 + 2 - layer - 1) if name.startswith('vision') else 1e-3), name
    wrapper = OptimWrapper(torch.optim.AdamW(groups))
    assert wrapper.get_lr() == {'lr/vision': [pytest.approx(0.45e-3)], 'lr/llm': [1e-3]}


def test_adam_works_in_one_pass_unless_told_otherwise() -> None:
    def built(**optimizer):
        return build_optimizer(ToyVLM(), {'optimizer': {'lr': 0.1, **optimizer}})

    assert built(type='AdamW').defaults['fused'] is True
    assert built(type='AdamW', fused=False).defaults['fused'] is False
    assert 'fused' not in built(type='NAdam', betas=[0.9, 0.99]).defaults


def test_wrong_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="no trained parameter belongs to 'vision'"):
        param_groups(ToyVLM(), 1e-3, parts={'vision': {'lr': 1e-5}})
    with pytest.raises(ConfigError, match=r"unknown \['learning_rate'\]"):
        param_groups(ToyVLM(), 1e-3, parts={'llm': {'learning_rate': 1e-5}})
    with pytest.raises(ConfigError, match=r"llm: unknown \['layer_decay'\]"):
        param_groups(ToyVLM(), 1e-3, parts={'llm': {'layer_decay': 0.9}})
    with pytest.raises(ConfigError, match='custom_keys'):
        build_optim_wrapper(
            ToyVLM(), {'optimizer': {'type': 'AdamW', 'lr': 1e-3}, 'paramwise_cfg': {'custom_keys': {}}}
        )
    with pytest.raises(ConfigError, match='nothing is trained'):
        param_groups(ToyVLM().requires_grad_(False), 1e-3)


def test_clipping_returns_the_norm_before_it() -> None:
    model = nn.Linear(3, 1, bias=False)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), clip_grad={'max_norm': 0.5})
    wrapper.backward(model(torch.tensor([[3.0, 0.0, 4.0]])).sum())
    before = model.weight.detach().clone()
    seen: list[float] = []
    assert wrapper.update(seen.append) == pytest.approx(5.0)
    assert seen == [pytest.approx(5.0)]
    assert float((model.weight - before).norm()) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_autocast_works_without_a_gpu(dtype: str) -> None:
    model = nn.Linear(4, 4)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), dtype=dtype, loss_scale=8.0)
    before = model.weight.detach().clone()
    with wrapper.autocast():
        out = model(torch.ones(2, 4))
    assert out.dtype == getattr(torch, dtype)
    wrapper.backward(out.float().sum())
    wrapper.update(lambda norm: None)
    assert torch.allclose(model.weight, before - 0.2, atol=1e-2), 'the scale is taken out again'
    assert wrapper.scaler.is_enabled() == (dtype == 'float16')
    wrapper.load_state_dict(wrapper.state_dict())


def test_accumulation_weights_every_token_alike(tmp_path: Path) -> None:
    """One step over 3 micro-batches of unequal token counts is the step over all their samples at once."""
    runs = []
    for batch_size, counts in ((2, 3), (6, 1)):
        runner = toy_runner(
            tmp_path / str(counts),
            {'batch_size': batch_size, 'size': 6},
            dropout=0.0,
            optim_wrapper={'accumulative_counts': counts},
            train_cfg={'max_epochs': 1},
        )
        step, seen = runner.train_loop.train_step, []
        runner.train_loop.train_step = lambda group, step=step, seen=seen: seen.append(step(group)) or dict(seen[-1])
        runner.train()
        runs.append((seen[0], {name: p.detach() for name, p in runner.model.named_parameters()}))
    (one, weights), (other, others) = runs
    assert one['loss'] == pytest.approx(other['loss'], rel=1e-6)
    assert one['grad_norm'] == pytest.approx(other['grad_norm'], rel=1e-5)
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-6), name


def test_last_group_of_an_epoch_steps_too(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, train_cfg={'max_epochs': 1})  # 11 micro-batches, 3 to a step
    runner.train()
    assert (runner.iter, runner.max_iters) == (4, 4)


def test_a_loss_that_is_no_number_names_its_samples(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, {'bad': 4}, train_cfg={'max_epochs': 1})
    with pytest.raises(TrainingError, match=r'iteration \d .*loss is nan') as caught:
        runner.train()
    assert 'toy.jsonl:5' in str(caught.value)
    assert 'lr/llm' in str(caught.value)
    for name, parameter in runner.model.named_parameters():
        assert torch.isfinite(parameter).all(), f'{name}: weights before the step are untouched'
