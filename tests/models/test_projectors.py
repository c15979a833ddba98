"""Projectors against the originals' numbers (outputs and gradients), transformers' own classes and plain arithmetic.

Where an original is wrong, ours is right:
- a mixture of experts that was built on TinyLLaVABench with DeepSpeed's MoE throws its balance loss away, so nothing
  keeps the router balanced, and drops tokens over an expert's capacity; here the loss counts and no token is dropped;
- transformers starts BLIP-2's queries at zero, where they would stay alike for ever; here they are drawn, as in LAVIS.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    MixtralConfig,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter, load_balancing_loss_func

from mmft.errors import ConfigError
from mmft.layouts.projectors import any_projector_rules, connector_rules, llava_projector_rules
from mmft.layouts.rules import NameTable
from mmft.models.projectors import MLP, BenchResampler, Identity, Linear, MoEMLP, MoFMLP, QFormer, Resampler
from mmft.models.projectors.moe_mlp import balance_loss
from tests.helpers import GOLDEN, golden_json, golden_tensors

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
CASES = sorted(path.name for path in GOLDEN.glob('connector_*'))
BERT = {'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size'}


def rename(state, table):
    """``state`` under the names that the rules of ``table`` give a projector's tensors here."""

    class Table(NameTable):
        architecture = 'test'
        rules = tuple(table)
        model_config = None

    steps = Table().to_ours(state)
    renamed = {name: tensor for step in steps for name, tensor in step(state.__getitem__).items()}
    return {name.removeprefix('projector.'): tensor for name, tensor in renamed.items()}


def connector(case, config):
    """Our projector for a golden case."""
    sizes = config.get('vision_hidden_size', config.get('mm_hidden_size')), config['hidden_size']
    queries, depth = config['num_queries'], config['num_resampler_layers']
    if case.startswith('connector_mlp'):
        return MLP(*sizes, depth=int(config['connector_type'][3]))
    if case == 'connector_linear':
        return Linear(*sizes)
    if case == 'connector_mof_mlp':
        return MoFMLP(2 * sizes[0], sizes[1])
    if case == 'connector_resampler':
        return Resampler(*sizes, num_queries=queries, depth=depth)
    if case == 'connector_bench_resampler':
        width = config['resampler_hidden_size']
        return BenchResampler(*sizes, num_queries=queries, depth=depth, hidden_size=width)
    bert = {key: value for key, value in config['bert_config'].items() if key in BERT}
    return QFormer(*sizes, num_queries=queries, query_norm=False, **bert)


@pytest.mark.parametrize('case', CASES)
def test_golden_connector(case):
    config = golden_json(case, 'config.json')
    inputs, outputs = golden_tensors(case, 'inputs'), golden_tensors(case, 'outputs')
    model = connector(case, config)
    kind = type(model).__name__
    bench = case == 'connector_bench_resampler'
    table = llava_projector_rules(kind, '') if bench else connector_rules(kind, '_connector.')
    model.load_state_dict(rename(golden_tensors(case, 'model'), table))
    model.eval()
    xs = [key for key in ('x', 'x2') if key in inputs]
    x = torch.cat([inputs[key] for key in xs], dim=-1).requires_grad_()
    y = model(x)
    assert y.shape[1] == model.num_tokens(x.shape[1])
    torch.testing.assert_close(y, outputs['y'], **TOLERANCE)
    (y * inputs['grad_weight']).sum().backward()
    theirs = torch.cat([outputs[f'grad_{key}'] for key in xs], dim=-1)
    torch.testing.assert_close(x.grad, theirs, atol=1e-4, rtol=1e-5)
    ours = {name: parameter.grad.norm() for name, parameter in model.named_parameters()}
    norms = rename({key: torch.tensor(value) for key, value in config['grad_norms'].items()}, table)
    torch.testing.assert_close(ours, {key: value.float() for key, value in norms.items()}, atol=1e-4, rtol=1e-5)


def test_there_are_cases():
    assert len(CASES) >= 7


@pytest.fixture(scope='module')
def blip2():
    """(our QFormer with BLIP-2's golden weights, its config)."""
    config = golden_json('blip2_qformer', 'config.json')
    inputs = golden_tensors('blip2_qformer', 'inputs')
    sizes = {key: config[key] for key in (*BERT, 'cross_attention_frequency', 'layer_norm_eps', 'hidden_act')}
    model = QFormer(
        config['encoder_hidden_size'],
        config['hidden_size'],
        num_queries=config['num_query_tokens'],
        proj=False,
        **sizes,
    )
    weights = {f'qformer.{key}': value for key, value in golden_tensors('blip2_qformer', 'model').items()}
    model.load_state_dict({**weights, 'query_tokens': inputs['query_embeds']})
    return model.eval(), config


def test_golden_qformer(blip2):
    model, config = blip2
    inputs, outputs = golden_tensors('blip2_qformer', 'inputs'), golden_tensors('blip2_qformer', 'outputs')
    x = inputs['encoder_hidden_states'].clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    torch.testing.assert_close(y, outputs['last_hidden_state'], **TOLERANCE)
    (y * inputs['grad_weight']).sum().backward()
    torch.testing.assert_close(x.grad, outputs['grad_encoder'], atol=1e-4, rtol=1e-5)
    # The original's gradient is of the queries already repeated for every sample.
    torch.testing.assert_close(model.query_tokens.grad[0], outputs['grad_query'].sum(0), atol=1e-4, rtol=1e-5)
    ours = {name: p.grad.norm().item() for name, p in model.qformer.named_parameters()}
    assert ours == pytest.approx(config['grad_norms'], rel=1e-4, abs=1e-4)
    # The part is transformers' own class, whose forward also takes a mask over the patches.
    masked = model.qformer(
        query_embeds=model.query_tokens.expand(len(x), -1, -1),
        encoder_hidden_states=x,
        encoder_attention_mask=inputs['encoder_attention_mask_partial'],
    )
    torch.testing.assert_close(masked.last_hidden_state, outputs['last_hidden_state_partial'], **TOLERANCE)


def test_qformer_has_minigpt4s_names(blip2):
    model, _ = blip2
    names = golden_json('blip2_qformer', 'minigpt4.json')['rename_hf_to_minigpt4']
    weights = golden_tensors('blip2_qformer', 'model')
    theirs = {minigpt4: weights[hf] for hf, minigpt4 in names.items()}
    renamed = rename(theirs, any_projector_rules('QFormer'))
    assert set(renamed) == set(model.state_dict()) - {'query_tokens'}
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in renamed.items())


def test_qformer_equals_transformers_with_every_option():
    sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24)
    ours = QFormer(10, 14, num_queries=3, vision_norm=1e-6, encoder_dim=12, cross_attention_frequency=1, **sizes).eval()
    theirs = Blip2QFormerModel(Blip2QFormerConfig(encoder_hidden_size=12, cross_attention_frequency=1, **sizes)).eval()
    theirs.load_state_dict(ours.qformer.state_dict())
    x = torch.randn(2, 7, 10)
    patches = nn.functional.layer_norm(ours.in_proj(x), (12,), ours.ln_vision.weight, ours.ln_vision.bias, 1e-6)
    want = theirs(query_embeds=ours.query_tokens.expand(2, -1, -1), encoder_hidden_states=patches).last_hidden_state
    torch.testing.assert_close(ours(x), ours.proj(want), **TOLERANCE)
    assert ours.query_tokens.std() > 0


def test_qformer_equals_the_whole_blip2():
    """What BLIP-2 hands its language model, from the tower's last block on, under the names of its own state dict."""
    sizes = {'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 24}
    config = Blip2Config(
        vision_config={**sizes, 'hidden_size': 12, 'image_size': 28},
        qformer_config={**sizes, 'vocab_size': 20},
        text_config={'model_type': 'opt', **sizes, 'ffn_dim': 24, 'vocab_size': 20, 'word_embed_proj_dim': 16},
        num_query_tokens=3,
    )
    theirs = Blip2ForConditionalGeneration(config).eval()
    nn.init.normal_(theirs.query_tokens)
    nn.init.normal_(theirs.vision_model.post_layernorm.weight)
    parts = ('query_tokens', 'qformer.', 'language_projection.', 'vision_model.post_layernorm.')
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith(parts)}
    ours = QFormer(12, 16, num_queries=3, vision_norm=1e-6, **sizes).eval()
    ours.load_state_dict(rename(state, any_projector_rules('QFormer')))
    pixels, blocks = torch.rand(2, 3, 28, 28), []
    theirs.vision_model.encoder.register_forward_hook(lambda *call: blocks.append(call[-1].last_hidden_state))
    want = theirs.get_image_features(pixels).pooler_output
    torch.testing.assert_close(ours(blocks[0]), want, **TOLERANCE)


def test_frozen_qformer_leaves_the_linear_maps_to_train():
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    model = QFormer(10, 14, num_queries=3, vision_norm=1e-5, encoder_dim=12, frozen_qformer=True, **sizes)
    maps = {'proj.weight', 'proj.bias', 'in_proj.weight', 'in_proj.bias'}
    for _ in range(2):
        assert {name for name, p in model.named_parameters() if p.requires_grad} == maps
        model.requires_grad_(False)
        assert not any(p.requires_grad for p in model.parameters())
        model.requires_grad_(True)


def test_mlp_equals_llava_hf():
    vision = CLIPVisionConfig(hidden_size=10, num_attention_heads=2)
    text = LlamaConfig(hidden_size=16, num_attention_heads=2)
    for act in ('gelu', 'gelu_pytorch_tanh', 'relu', 'silu'):
        theirs = LlavaMultiModalProjector(LlavaConfig(vision_config=vision, text_config=text, projector_hidden_act=act))
        ours = MLP(10, 16, act=act)
        state = {f'multi_modal_projector.{name}': tensor for name, tensor in theirs.state_dict().items()}
        ours.load_state_dict(rename(state, any_projector_rules('MLP')))
        x = torch.randn(2, 5, 10)
        torch.testing.assert_close(ours(x), theirs(x), **TOLERANCE)


def test_mof_with_unequal_towers():
    model = MoFMLP(7, 6, in_dims=[2, 1, 4], depth=1, act='relu')
    x = torch.randn(2, 5, 7)
    y = model(x)
    assert y.shape == (2, model.num_tokens(5), 6)
    torch.testing.assert_close(y[:, 2::3], model.mlps[2](x[..., 3:]))


def test_identity_changes_nothing():
    x = torch.randn(2, 5, 8)
    assert torch.equal(Identity(8, 8)(x), x)
    assert Identity(8, 8).num_tokens(5) == 5


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        (Identity, {}, r'(?s)Identity: .* 8 wide, the language model 12.*Linear'),
        (MLP, {'depth': 0}, 'depth 0'),
        (MLP, {'depth': '2'}, "(?s)depth '2'.*whole number"),
        (Resampler, {'num_queries': 0, 'depth': 1.5}, '(?s)num_queries 0.*depth 1.5'),
        (BenchResampler, {'depth': 0}, 'BenchResampler: depth 0'),
        (QFormer, {'num_queries': 0}, 'QFormer: num_queries 0'),
        (MLP, {'act': 'glu'}, "(?s)act 'glu'.*gelu"),
        (MoFMLP, {'in_dims': [3, 4]}, r'(?s)\[3, 4\] of 8 channels.*add up to 8'),
        (BenchResampler, {'hidden_size': 50}, '(?s)hidden_size 50 with 12 heads.*multiple'),
        (QFormer, {'hidden_size': 50}, '(?s)QFormer.*multiple of the number of attention heads'),
        (QFormer, {'hidden_size': '50'}, '(?s)QFormer.*hidden_size'),
        (QFormer, {'hidden_act': 'glu'}, 'QFormer.*glu'),
        (QFormer, {'proj': False}, '(?s)768 wide and the language model 12.*proj=True'),
        (MoEMLP, {'top_k': 5}, '(?s)top_k 5 of 4 experts.*1 to 4'),
        (MoEMLP, {'balance_coef': -1.0}, 'balance_coef -1.0'),
    ],
)
def test_what_cannot_work_says_why(kind, settings, message):
    with torch.device('meta'), pytest.raises(ConfigError, match=message):
        kind(8, 12, **settings)


def test_nothing_left_to_train_in_a_qformer():
    with pytest.raises(ConfigError, match="projector='frozen'"):
        QFormer(8, 16, hidden_size=16, num_attention_heads=2, proj=False, frozen_qformer=True)


# The mixture of experts


def plain_moe(model, x):
    """The same by its definition: every expert on every token, weighted, most weights zero."""
    logits = x.flatten(0, 1) @ model.router.weight.T
    probs = logits.softmax(-1)
    kept = torch.zeros_like(probs).scatter(1, probs.topk(model.top_k).indices, 1.0) * probs
    if model.top_k > 1:
        kept = kept / kept.sum(-1, keepdim=True)
    outs = torch.stack([expert(x.flatten(0, 1)) for expert in model.experts], dim=1)
    return (kept.unsqueeze(-1) * outs).sum(1).unflatten(0, x.shape[:2]), logits


@pytest.mark.parametrize('top_k', [1, 2, 3, 4])
def test_moe_is_its_definition(top_k):
    model = MoEMLP(10, 6, num_experts=4, top_k=top_k).train()
    nn.init.normal_(model.router.weight)
    x = torch.randn(3, 9, 10, requires_grad=True)
    y = model(x)
    want, logits = plain_moe(model, x)
    torch.testing.assert_close(y, want, **TOLERANCE)
    # transformers sums over the k choices instead of averaging.
    theirs = load_balancing_loss_func((logits,), 4, top_k) / top_k
    torch.testing.assert_close(model.losses['balance_loss'], 0.01 * theirs)
    upstream = torch.randn_like(y)
    parameters = [x, *model.parameters()]
    ours = torch.autograd.grad((y * upstream).sum() + model.losses['balance_loss'], parameters)
    plain = torch.autograd.grad((want * upstream).sum() + 0.01 * theirs, parameters)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_moe_routes_as_mixtral():
    model = MoEMLP(10, 6, num_experts=5, top_k=2)
    theirs = MixtralTopKRouter(MixtralConfig(hidden_size=10, num_local_experts=5, num_experts_per_tok=2))
    theirs.weight.data = model.router.weight.data
    x = torch.randn(30, 10)
    weights, experts, probs = model.route(x)
    logits, their_weights, their_experts = theirs(x)
    torch.testing.assert_close(weights, their_weights)
    torch.testing.assert_close(probs, logits.softmax(-1))
    assert torch.equal(experts, their_experts)


@pytest.mark.parametrize('top_k', [1, 2])
def test_the_router_learns_from_the_task_alone(top_k):
    model = MoEMLP(10, 6, top_k=top_k, balance_coef=0.0).train()
    model(torch.randn(2, 9, 10)).square().sum().backward()
    assert model.losses == {}
    assert model.router.weight.grad.abs().max() > 0


def test_balance_loss_is_least_for_even_routing():
    experts = torch.arange(16).view(8, 2) % 4
    probs = torch.full((8, 4), 0.25, requires_grad=True)
    even = balance_loss(probs, experts)
    assert even.item() == 1.0
    # Where tokens go as the router's probabilities say, every other spread costs more.
    for share in torch.rand(50, 4).softmax(-1) * 0.9 + 0.1 * torch.eye(4)[torch.randint(4, (50,))]:
        counts = (share * 1000).round().long()
        routed = torch.repeat_interleave(torch.arange(4), counts).unsqueeze(-1)
        assert balance_loss((counts / counts.sum()).expand(len(routed), -1), routed) > 1
    collapsed = balance_loss(torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 8), torch.tensor([[0, 1]] * 8))
    assert collapsed.item() == 2.0  # E / k


def test_balance_loss_spreads_a_collapsed_router():
    model = MoEMLP(8, 4, balance_coef=1.0).train()
    x = torch.randn(4, 16, 8) + 1
    model.router.weight.data[:2] += 0.3  # experts 0 and 1 take all
    optimizer = torch.optim.SGD(model.router.parameters(), lr=0.05)
    busiest = []
    for _ in range(60):
        optimizer.zero_grad()
        model(x)
        busiest.append(torch.bincount(model.route(x.flatten(0, 1))[1].flatten(), minlength=4).max().item())
        model.losses['balance_loss'].backward()
        optimizer.step()
    assert busiest[0] == 64
    assert busiest[-1] < 40  # even is 32
    assert model.losses['balance_loss'] < 1.05


def test_every_token_visits_top_k_experts_only():
    model = MoEMLP(10, 6, num_experts=8, top_k=2)
    rows = []
    for expert in model.experts:
        expert.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    model(torch.randn(3, 9, 10))
    assert len(rows) == 8
    assert sum(rows) == 3 * 9 * 2


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('recompute', [False, True])
def test_idle_experts_have_zero_gradients(dtype, recompute):
    model = MoEMLP(10, 6, num_experts=4, top_k=2).to(dtype).train()
    x = (torch.rand(2, 5, 10) + 0.1).to(dtype).requires_grad_()
    model.router.weight.data = torch.tensor([[1.0], [0.5], [-1.0], [-1.0]], dtype=dtype).expand(4, 10).contiguous()
    y = checkpoint(model, x, use_reentrant=False) if recompute else model(x)
    assert y.dtype == dtype
    loss = model.losses['balance_loss']
    assert loss.dtype == torch.float32
    (y.float().square().mean() + loss).backward()
    for index, expert in enumerate(model.experts):
        for parameter in expert.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.abs().max() > 0) == (index < 2)
    assert model.router.weight.grad.abs().max() > 0
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_moe_under_autocast(dtype):
    model = MoEMLP(10, 6).train()
    x = torch.randn(2, 9, 10)
    with torch.autocast('cpu', dtype=dtype):
        y = model(x.to(dtype))
        weights, experts, probs = model.route(x.flatten(0, 1))
    assert y.dtype == dtype
    assert probs.dtype == torch.float32
    # The routing itself is that of float32.
    want = model.route(x.flatten(0, 1))
    assert torch.equal(experts, want[1])
    assert torch.equal(weights, want[0])
    (y.float().mean() + model.losses['balance_loss']).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    torch.testing.assert_close(y.float(), model(x), atol=3e-2, rtol=3e-2)


def test_gradient_checkpointing_changes_nothing():
    model = MoEMLP(10, 6).train()
    again = copy.deepcopy(model)
    x = torch.randn(2, 9, 10, requires_grad=True)
    (model(x).square().sum() + model.losses['balance_loss']).backward()
    y = checkpoint(again, x, use_reentrant=False)
    (y.square().sum() + again.losses['balance_loss']).backward()
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_moe_starts_as_its_dense_mlp():
    dense, model = MLP(10, 6, depth=3, hidden_dim=8), MoEMLP(10, 6, depth=3, hidden_dim=8)
    state = model.adopt(dense.state_dict())
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (['router.weight'], [])
    x = torch.randn(2, 9, 10)
    torch.testing.assert_close(model(x), dense(x), **TOLERANCE)
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert model.adopt(model.state_dict()).keys() == model.state_dict().keys()
    assert dense.adopt(dense.state_dict()).keys() == dense.state_dict().keys()


def test_losses_belong_to_one_forward():
    model = MoEMLP(10, 6).train()
    model(torch.randn(2, 9, 10))
    # A module that holds a loss can still be copied; the copy holds none.
    assert copy.deepcopy(model).losses == {}
    assert set(model.losses) == {'balance_loss'}
    assert set(model.take_losses()) == {'balance_loss'}
    assert model.take_losses() == {}
    model(torch.randn(2, 9, 10))
    model.eval()(torch.randn(2, 9, 10))
    assert model.losses == {}
    assert MLP(10, 6).losses == {}
