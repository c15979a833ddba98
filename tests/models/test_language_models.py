"""The language-model families in a VLM: beside transformers' LLaVA, and MiniCPM beside a re-computation of its own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import LlavaConfig, LlavaForConditionalGeneration

from mmft.errors import ConfigError
from mmft.models import VLM
from mmft.models.tuning import apply_tune
from mmft.registry import LANGUAGE_MODELS
from tests.models.parts import LLMS, SIDE, SLOT, llm_config, tower_config

QUESTION, EOS = 5, 2


def model_of(llm='Llama', tower='CLIP', **changes):
    return VLM(tower_config(tower), {'type': 'MLP'}, llm_config(llm, **changes), image_token_id=SLOT).eval()


def batch_of(model, count=2):
    """``count`` samples: bos, a picture, a question token, two answer tokens; the last one is padded by two."""
    ids = torch.randint(3, SLOT, (count, model.tokens_per_tile + 6))
    ids[:, 1 : 1 + model.tokens_per_tile] = SLOT
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : model.tokens_per_tile + 2] = -100
    pixels = torch.randn(count, 3, SIDE, SIDE)
    return {'input_ids': ids, 'attention_mask': mask, 'pixel_values': pixels, 'labels': labels}


def transformers_llava(model, strategy):
    config = LlavaConfig(
        vision_config=model.vision.tower.config.to_dict(),
        text_config=model.llm.lm.config.to_dict(),
        image_token_index=SLOT,
        vision_feature_select_strategy=strategy,
    )
    llava = LlavaForConditionalGeneration(config).eval()
    renames = {'0': 'linear_1', '2': 'linear_2'}
    llava.model.vision_tower.load_state_dict(model.vision.tower.state_dict())
    llava.model.language_model.load_state_dict(model.llm.lm.model.state_dict())
    llava.lm_head.weight.data.copy_(model.llm.lm.lm_head.weight)
    projector = {f'{renames[k.split(".")[1]]}.{k.split(".")[2]}': v for k, v in model.projector.state_dict().items()}
    llava.model.multi_modal_projector.load_state_dict(projector)
    return llava


@pytest.mark.parametrize(
    ('llm', 'tower'), [*((name, 'CLIP') for name in LLMS), ('Llama', 'SigLIP')], ids=lambda value: value
)
def test_with_pictures_it_is_transformers_llava(llm, tower):
    model = model_of(llm, tower)
    llava = transformers_llava(model, 'full' if tower == 'SigLIP' else 'default')
    batch = batch_of(model)
    labels, mask = batch.pop('labels'), batch['attention_mask'].bool()
    with torch.no_grad():
        expected, got = llava(**batch).logits, model(**batch, mode='tensor')
    # transformers' LLaVA has a bare head of its own over the language model's body: Phi's bias and Granite's division
    # are in the text model that it leaves out, so we put them back.
    if llm == 'Phi':
        assert model.llm.lm.lm_head.bias is not None
        expected = expected + model.llm.lm.lm_head.bias
    expected = expected / getattr(model.llm.lm.config, 'logits_scaling', 1.0)
    torch.testing.assert_close(got[mask], expected[mask], atol=1e-5, rtol=1e-5)
    # The chunked loss is the cross entropy of these logits.
    plain = F.cross_entropy(expected[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(model(**batch, labels=labels)['loss'].detach(), plain)


@pytest.mark.parametrize('llm', LLMS)
def test_loss_and_gradients_are_those_of_the_full_logits(llm):
    model = model_of(llm).train()
    batch = batch_of(model)
    labels = batch.pop('labels')
    trained = {name: p for name, p in model.named_parameters() if not name.startswith('vision')}
    chunked = model(**batch, labels=labels)['loss']
    logits = model(**batch, mode='tensor')
    full = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(chunked, full)
    grads = [torch.autograd.grad(loss, trained.values()) for loss in (chunked, full)]
    for name, a, b in zip(trained, *grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize('llm', LLMS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_sixteen_bits(llm, dtype):
    model = model_of(llm)
    batch = batch_of(model)
    del batch['labels']
    with torch.no_grad():
        full = model(**batch, mode='tensor')
        half = model.to(dtype)(**batch, mode='tensor')
    assert half.dtype == dtype
    mask = batch['attention_mask'].bool()
    torch.testing.assert_close(half.float()[mask], full[mask], atol=0.3, rtol=0.1)


@pytest.mark.parametrize('llm', LLMS)
def test_answers_with_a_cache_are_those_without(llm):
    model = model_of(llm)
    batch = batch_of(model, count=1)
    ids, pixels = batch['input_ids'][:, :-2], batch['pixel_values']
    options = {'do_sample': False, 'eos_token_id': None, 'pad_token_id': 0, 'suppress_tokens': [SLOT]}
    answer = model.generate(ids, pixels, max_new_tokens=4, **options)
    for _ in range(4):
        with torch.no_grad():
            logits = model(ids, pixel_values=pixels, mode='tensor')[:, -1]
        logits[:, SLOT] = -torch.inf  # in the prompt it would be the place of a picture
        best = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    assert ids[:, -4:].tolist() == answer.tolist()


def test_a_sliding_window_holds_in_packed_rows():
    llm = LANGUAGE_MODELS.build(llm_config('Mistral', sliding_window=4)).eval()
    row = torch.randn(1, 16, llm.hidden_size)
    positions = torch.cat([torch.arange(length) for length in (9, 7)])[None]
    alone = torch.cat([llm.hidden(part, None, None) for part in row.split((9, 7), dim=1)], dim=1)
    torch.testing.assert_close(llm.hidden(row, None, positions), alone, atol=1e-5, rtol=1e-5)
    far = row.clone()
    far[:, 0] += 1.0
    # Two layers see 2 x 3 positions back.
    changed = (llm.hidden(far, None, positions) - alone).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(7))


def test_gemma_scales_words_and_not_pictures():
    llm = LANGUAGE_MODELS.build(llm_config('Gemma'))
    ids = torch.tensor([[3, 4]])
    torch.testing.assert_close(llm.embed(ids), llm.lm.model.embed_tokens.weight[ids] * math.sqrt(llm.hidden_size))


def large_scores(implementation):
    """A Phi in float16 whose attention scores are beyond float16's largest number, as Phi-2's are."""
    llm = LANGUAGE_MODELS.build(llm_config('Phi', attn_implementation=implementation)).eval()
    for layer in llm.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.bias.data.fill_(200.0)
    return llm.half()


def test_phi_in_float16_keeps_its_numbers():
    row = torch.randn(1, 5, 24).half()
    for positions in (None, torch.tensor([[0, 1, 2, 0, 1]])):
        assert large_scores('sdpa').hidden(row, None, positions).isfinite().all()
    assert not large_scores('eager').hidden(row, None, None).isfinite().all()


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        (llm_config('Phi', num_attention_heads=5), 'hidden_size 24 is not divisible by num_attention_heads 5'),
        (
            llm_config('Mistral', num_key_value_heads=3),
            'num_attention_heads 2 is not divisible by num_key_value_heads 3',
        ),
        (llm_config('StableLM', partial_rotary_factor=0.25), 'leaves it 3 of 12 channels'),
        (
            llm_config('MiniCPM', embedding_multiplier=2.0),
            r"\['dim_model_base'\] together with \['embedding_multiplier'\]",
        ),
        (llm_config('Gemma', hidden_size='wide'), "Gemma: hidden_size 'wide'"),
        (llm_config('Gemma', rms_norm_eps='small'), 'Gemma: transformers refuses this config'),
        (llm_config('Llama', hidden_act='glu'), "Llama: transformers refuses this config: 'glu'"),
        (llm_config('Llama', pad_token_id=9999), 'Llama: transformers refuses this config.*Padding'),
        (llm_config('MiniCPM', scale_depth='deep'), "MiniCPM: scale_depth 'deep'"),
    ],
)
def test_a_config_that_cannot_work(config, words):
    with pytest.raises(ConfigError, match=words):
        LANGUAGE_MODELS.build(config)


def test_what_a_config_may_say():
    for name, words in {
        'MiniCPM': {'scale_emb', 'scale_depth', 'dim_model_base', 'rope_theta'},
        'Phi': {'partial_rotary_factor', 'qk_layernorm'},
        'StableLM': {'use_qkv_bias', 'layer_norm_eps'},
        'Gemma': {'head_dim'},
        'Mistral': {'sliding_window'},
    }.items():
        assert words <= LANGUAGE_MODELS.get(name).config_names()


# MiniCPM. Others report it as failed: LLaVA's way of handing embeddings to ``modeling_minicpm.py`` skips the embedding
# scale, which stands there inside ``if inputs_embeds is None``.

SCALES = {'scale_emb': 12.0, 'scale_depth': 1.4, 'dim_model_base': 8}


def rms(x, weight, eps):
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def minicpm(weights, embeds, heads, kv_heads, layers, eps):
    """MiniCPM's forward, written from its formulas: embeddings (L,Dl), unscaled -> logits (L,V)."""
    length, width = embeds.shape
    dim = width // heads
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def rope(x):  # (heads, L, dim)
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    hidden = embeds * SCALES['scale_emb']
    branch = SCALES['scale_depth'] / math.sqrt(layers)
    future = torch.full((length, length), -math.inf).triu(1)
    for i in range(layers):
        own = {k.removeprefix(f'layers.{i}.'): v for k, v in weights.items() if k.startswith(f'layers.{i}.')}
        x = rms(hidden, own['input_layernorm.weight'], eps)
        q, k, v = ((x @ own[f'self_attn.{n}_proj.weight'].T).view(length, -1, dim).transpose(0, 1) for n in 'qkv')
        k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (k, v))
        scores = rope(q) @ rope(k).transpose(1, 2) / math.sqrt(dim) + future
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, width)
        hidden = hidden + branch * (mixed @ own['self_attn.o_proj.weight'].T)
        x = rms(hidden, own['post_attention_layernorm.weight'], eps)
        gate, up = (x @ own[f'mlp.{n}_proj.weight'].T for n in ('gate', 'up'))
        hidden = hidden + branch * ((gate * gate.sigmoid() * up) @ own['mlp.down_proj.weight'].T)
    hidden = rms(hidden, weights['norm.weight'], eps) / (width / SCALES['dim_model_base'])
    return hidden @ weights['embed_tokens.weight'].T


def minicpm_of(model, embeds):
    config = model.llm.lm.config
    return minicpm(
        dict(model.llm.lm.model.named_parameters()),
        embeds,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.num_hidden_layers,
        config.rms_norm_eps,
    )


def test_minicpm_is_its_formulas():
    model = model_of('MiniCPM', **SCALES, num_hidden_layers=3).train()
    ids = torch.randint(3, SLOT, (1, 9))
    table = model.llm.lm.model.embed_tokens.weight
    torch.testing.assert_close(model(ids, mode='tensor')[0], minicpm_of(model, table[ids[0]]), atol=1e-5, rtol=1e-5)

    batch = batch_of(model, count=1)
    labels = batch.pop('labels')
    picture = model.image_features(batch['pixel_values'])[0]
    words = table[batch['input_ids'][0]]
    embeds = torch.cat([words[:1], picture, words[1 + len(picture) :]])
    end = len(embeds) - 2  # two are padding
    expected = minicpm_of(model, embeds[:end])
    torch.testing.assert_close(model(**batch, mode='tensor')[0, :end], expected, atol=1e-5, rtol=1e-5)

    loss = F.cross_entropy(expected[:-1], labels[0, 1:end])
    ours = model(**batch, labels=labels)['loss']
    torch.testing.assert_close(ours, loss)
    trained = [p for n, p in model.named_parameters() if n.startswith(('projector', 'llm'))]
    for a, b in zip(torch.autograd.grad(ours, trained), torch.autograd.grad(loss, trained), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('scale', SCALES)
def test_every_scale_of_minicpm_counts(scale):
    one, other = (model_of('MiniCPM', **{**SCALES, scale: value}) for value in (SCALES[scale], SCALES[scale] * 2))
    other.load_state_dict(one.state_dict())
    ids = torch.randint(3, SLOT, (1, 9))
    assert not torch.allclose(one(ids, mode='tensor'), other(ids, mode='tensor'), atol=1e-3)


def test_minicpm_in_its_own_words_and_in_granites():
    config = LANGUAGE_MODELS.get('MiniCPM').hf_config(
        {'hidden_size': 2304, 'num_hidden_layers': 40, 'num_attention_heads': 36, 'num_key_value_heads': 36}
    )
    assert config.model_type == 'granite'
    assert config.tie_word_embeddings
    assert config.embedding_multiplier == 12
    assert config.residual_multiplier == pytest.approx(1.4 / math.sqrt(40))
    assert config.attention_multiplier == pytest.approx(1 / math.sqrt(64))
    assert config.logits_scaling == 9
    again = LANGUAGE_MODELS.get('MiniCPM').hf_config(
        {k: v for k, v in config.to_diff_dict().items() if k != 'model_type'}
    )
    for name in ('embedding_multiplier', 'residual_multiplier', 'attention_multiplier', 'logits_scaling'):
        assert getattr(again, name) == getattr(config, name)
    assert again.tie_word_embeddings


def fit(model, tune, answers, pixels, steps):
    """First and last loss of ``steps`` steps at 1e-2; which of the pictures is shown decides the answer."""
    apply_tune(model, tune)
    tokens = model.train().tokens_per_tile
    ids = torch.tensor([[1, *[SLOT] * tokens, QUESTION, answer, EOS] for answer in answers])
    labels = ids.clone()
    labels[:, : tokens + 2] = -100
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            loss = model(ids, pixel_values=pixels, labels=labels)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize('llm', ['MiniCPM', 'Phi'])
def test_those_that_others_report_as_failed_train(llm):
    """In bfloat16, in every stage: all of it from nothing, a new projector alone, LoRA on other answers."""
    model = model_of(llm, initializer_range=0.1, **({'dim_model_base': 8} if llm == 'MiniCPM' else {}))
    pixels = torch.randn(4, 3, SIDE, SIDE)
    first, last = fit(model, {'llm': 'full'}, (10, 20, 30, 40), pixels, 60)
    assert last < 0.3 < 4 < first
    for layer in model.projector.mlp[::2]:
        layer.reset_parameters()
    first, last = fit(model, {'llm': 'frozen'}, (10, 20, 30, 40), pixels, 20)
    assert last < 0.3 < 1 < first
    first, last = fit(model, {'llm': {'type': 'lora', 'r': 8}}, (40, 30, 20, 10), pixels, 40)
    assert last < 0.3 < 1 < first


@pytest.mark.parametrize('name', LLMS)
def test_building_leaves_the_config_as_it_is(name):
    """transformers writes into ``rope_scaling``; a checkpoint of the config before that seemed of another model."""
    scaling = {'type': 'dynamic', 'factor': 2.0}
    if name == 'Phi3':
        scaling = {'type': 'su', 'short_factor': [1.0] * 6, 'long_factor': [2.0] * 6}
    config = llm_config(name, rope_scaling=scaling)
    before = copy.deepcopy(config)
    VLM(tower_config('CLIP'), {'type': 'MLP'}, config)
    assert config == before
