"""Adapter directories of PEFT as ms-swift, LLaMA-Factory and TRL write them: merged as peft itself merges them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

import mmft
from mmft.checkpoint import build_pretrained, open_pretrained
from mmft.checkpoint.build import build_meta
from mmft.checkpoint.encoder import tokenizer_directory
from mmft.engine.init_from import InitFrom
from mmft.engine.judging.weights import missing_weights
from mmft.errors import CheckpointError
from mmft.export import convert
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config
from tests.export.tiny_llava import llava_config, llava_encoder

CONFIGS = {
    'internvl': (model_config('Qwen2'), make_encoder('Qwen2')),
    'llava': (llava_config('Llama'), llava_encoder('Llama')),
}
EVERYWHERE = r'.*(language_model|vision_tower).*\.(q_proj|v_proj|fc1|down_proj)|.*multi_modal_projector\.linear_1'
OLDER = {  # names of modules in transformers before 4.52
    'model.language_model.': 'language_model.model.', 'lm_head.': 'language_model.lm_head.',
    'model.multi_modal_projector.': 'multi_modal_projector.',
}  # fmt: skip
PREFIX = 'base_model.model.'


def older(key: str, family: str) -> str:
    name = key.removeprefix(PREFIX)
    tower = {'model.vision_tower.': 'vision_tower.' if family == 'internvl' else 'vision_tower.vision_model.'}
    for new, old in {**OLDER, **tower}.items():
        if name.startswith(new):
            return PREFIX + old + name.removeprefix(new)
    raise AssertionError(name)


def train(model: nn.Module, out: Path, base: Path | str, **options) -> nn.Module:
    """The merged model of a run of peft, whose adapter lies in ``out``."""
    torch.manual_seed(1)
    options = {'r': 4, 'lora_alpha': 12, 'target_modules': EVERYWHERE, 'init_lora_weights': False, **options}
    wrapped = get_peft_model(model, LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and 'lora_' not in name:
                parameter.add_(torch.randn_like(parameter))
    wrapped.peft_config['default'].base_model_name_or_path = str(base)
    wrapped.save_pretrained(out, save_embedding_layers=False)
    return wrapped.merge_and_unload()


OPTIONS = {
    'regex': {},
    'all-linear': {'target_modules': 'all-linear'},
    'rslora': {'use_rslora': True},
    'dora': {'use_dora': True},
    'patterns': {'rank_pattern': {'q_proj': 2}, 'alpha_pattern': {'down_proj': 3, '.*vision_tower.*fc1': 5}},
    'saved': {
        'target_modules': ['q_proj', 'gate_proj'],
        'modules_to_save': ['multi_modal_projector', 'input_layernorm'],
    },
    'embedding': {'target_modules': ['embed_tokens', 'q_proj', 'lm_head']},
    'bias': {'target_modules': ['q_proj', 'k_proj'], 'bias': 'all'},
}


# Every option with one family, each family in every tree of modules.
CASES = [
    *((name, ('internvl', 'llava')[i % 2], 'new') for i, name in enumerate(OPTIONS)),
    ('saved', 'internvl', 'old'), ('regex', 'llava', 'old'), ('embedding', 'internvl', 'old'), ('dora', 'llava', 'new'),
]  # fmt: skip


@pytest.mark.parametrize(('options', 'family', 'tree'), CASES)
def test_merged_as_peft_merges(tmp_path, options, family, tree):
    config, encoder = CONFIGS[family]
    base, run, merged = make_base(tmp_path / 'base', config, 'hf', encoder=encoder), tmp_path / 'run', tmp_path / 'all'
    train(AutoModelForImageTextToText.from_pretrained(base), run, base, **OPTIONS[options]).save_pretrained(merged)
    if tree == 'old':
        tensors = load_file(run / 'adapter_model.safetensors')
        (run / 'adapter_model.safetensors').unlink()
        torch.save({older(key, family): value for key, value in tensors.items()}, run / 'adapter_model.bin')
        settings = json.loads((run / 'adapter_config.json').read_text())
        (run / 'adapter_config.json').write_text(json.dumps({**settings, 'base_model_name_or_path': 'Org/base'}))
    (merged / 'processor_config.json').write_text((base / 'processor_config.json').read_text())
    model, own = mmft.load(run)
    want = mmft.load(merged)[0].state_dict()
    plain = mmft.load(base)[0].state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, want[name], atol=3e-6, rtol=1e-5, msg=name)
    assert sum(not torch.equal(want[name], plain[name]) for name in want) > 3
    assert own.to_dict()['image_processor'] == encoder.to_dict()['image_processor']


class Tree(nn.Module):
    """Modules that have the names of a file's tensors: what another program's model code would be."""

    def __init__(self, tensors):
        super().__init__()
        for name, value in tensors.items():
            at = self
            *path, leaf = name.split('.')
            for i, part in enumerate(path):
                weight = tensors.get('.'.join([*path[: i + 1], 'weight']))
                linear = weight is not None and weight.dim() == 2
                if part not in at._modules:
                    at.add_module(part, nn.Linear(*weight.shape[::-1], bias=False) if linear else nn.Module())
                at = at._modules[part]
            at.register_parameter(leaf, nn.Parameter(value.clone()))

    def forward(self, x):
        return x


@pytest.fixture
def official(tmp_path):
    """An adapter over an official InternVL2 on InternLM2, whose attention rows are packed, and the merged tensors."""
    base = make_base(tmp_path / 'base', model_config(), 'official', encoder=make_encoder())
    tree = Tree(load_file(base / 'model.safetensors'))
    targets = r'language_model.*\.(wqkv|wo|w2)|vision_model.*\.qkv|mlp1\.3'
    merged = train(tree, tmp_path / 'checkpoint-301', base, target_modules=targets)
    return base, tmp_path / 'checkpoint-301', merged.state_dict()


def as_ours(opened, tensors):
    return {name: value for step in opened.layout.to_ours(tensors) for name, value in step(tensors.__getitem__).items()}


def test_over_an_official_internvl(official):
    base, run, merged = official
    opened = open_pretrained(run)
    want = as_ours(opened, merged)
    model, encoder = mmft.load(run)
    assert encoder.to_dict()['template'] == make_encoder().to_dict()['template']
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, want[name], atol=3e-6, rtol=1e-5)
    before = mmft.load(base)[0].state_dict()
    moved = {name.split('.')[0] for name in before if not torch.equal(before[name], want[name])}
    assert moved == {'vision', 'projector', 'llm'}


def test_trained_further_and_exported(official, tmp_path):
    """As ``pretrained``: the run's base is the merged model, which the export builds on."""
    _, run, merged = official
    cfg = {'model': model_config(), 'pretrained': str(run), 'tune': LORA, 'dtype': 'float32'}
    checkpoint, trained = make_checkpoint(tmp_path / 'iter_1.pth', cfg, make_encoder())
    made = convert(cfg, checkpoint, tmp_path / 'out', layout='official')
    assert made.measured['difference'] < 1e-5
    name = 'language_model.model.layers.0.feed_forward.w2.weight'
    got = load_file(made.path / 'model.safetensors')[name]
    own = trained.llm.lm.model.layers[0].mlp.down_proj
    torch.testing.assert_close(own.base_layer.weight, merged[name], atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(got, merged[name] + own.get_delta_weight('default'), atol=3e-6, rtol=1e-5)


def test_weights_to_start_from(official):
    """As ``init_from`` over its base: what the adapter changes is taken, and nothing else."""
    base, run, merged = official
    model, mark = build_pretrained(str(base), model_config())
    start = InitFrom(str(run), model_config(), {'path': str(base), 'fingerprint': mark})
    start.before_tune(model)
    want = as_ours(open_pretrained(run), merged)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, want[name], atol=3e-6, rtol=1e-5)
    changed = {name for name, value in build_pretrained(str(base))[0].named_parameters()
               if not torch.equal(value, want[name])}  # fmt: skip
    assert start.filled == changed
    shapes = InitFrom(str(run), model_config(), {'path': str(base), 'fingerprint': mark}, shapes_only=True)
    shapes.before_tune(build_meta(model_config()))
    assert shapes.filled == changed


def test_a_run_over_an_adapter_is_looked_over_first(official, tmp_path):
    base, run, _ = official
    cfg = Config({'model': model_config(), 'pretrained': str(run), 'encoder': {'type': 'ChatEncoder'}})
    assert tokenizer_directory(str(run)) == str(base)
    assert not [*missing_weights(cfg)]
    base.rename(tmp_path / 'moved')
    assert 'needs the base it was trained on' in next(missing_weights(cfg))


def test_an_adapter_of_a_part(tmp_path):
    """XTuner writes a directory for each part: its language model's adapter lies over a language model."""
    config = llava_config('Llama')
    numbers = {key: value for key, value in config['llm'].items() if key != 'type'}
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**numbers))
    base.save_pretrained(tmp_path / 'llm')
    merged = train(base, tmp_path / 'llm_adapter', tmp_path / 'llm', target_modules=['q_proj', 'down_proj'])
    model, _ = mmft.load({'llm': tmp_path / 'llm_adapter'}, model=config)
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(model.llm.lm.state_dict()[name], value, atol=3e-6, rtol=1e-5)


def test_what_finds_no_place_is_named(official):
    _, run, _ = official
    tensors = load_file(run / 'adapter_model.safetensors')
    extra = {f'{PREFIX}language_model.model.layers.9.attention.wo.lora_A.weight': torch.ones(4, 64),
             f'{PREFIX}vision_model.extra.weight': torch.ones(3)}  # fmt: skip
    save_file({**tensors, **extra}, run / 'adapter_model.safetensors')
    with pytest.raises(CheckpointError) as error:
        mmft.load(run)
    for part in ('2 tensors of the adapter', 'LoRA of language_model.model.layers.9.attention.wo', 'vision_model.extra',
                 'base was taken'):  # fmt: skip
        assert part in str(error.value)


@pytest.mark.parametrize(
    'changes',
    [{'lora_alpha': 'much'}, {'lora_alpha': None}, {'alpha_pattern': ['x']}, {'alpha_pattern': {'(': 1}},
     {'alpha_pattern': {'.*': 'x'}}, {'peft_type': 'VERA'}, {'base_model_name_or_path': 7},
     {'base_model_name_or_path': 'Org/gone'}, {'use_dora': True}],
)  # fmt: skip
def test_a_config_that_cannot_be_followed(official, changes):
    _, run, _ = official
    settings = json.loads((run / 'adapter_config.json').read_text())
    (run / 'adapter_config.json').write_text(json.dumps({**settings, **changes}))
    with pytest.raises(CheckpointError):
        mmft.load(run)


def test_an_adapter_over_an_adapter(official, tmp_path):
    base, run, _ = official
    (run / 'config.json').write_text((base / 'config.json').read_text())
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'adapter_config.json').write_text(json.dumps({'base_model_name_or_path': str(run)}))
    with pytest.raises(CheckpointError, match='which is an adapter too'):
        mmft.load(other)
