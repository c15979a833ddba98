"""What one stage of a foreign training leaves: TinyLLaVA Factory's folders, also with LoRA; LLaVA's projector alone."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

import mmft
from mmft.checkpoint import build_pretrained, open_pretrained, read_layout
from mmft.checkpoint.load import build_opened
from mmft.errors import CheckpointError
from tests.helpers import GOLDEN, golden_json

TINY = GOLDEN / 'tinyllava_model'
PREFIXES = {
    'language_model': 'language_model.', 'vision_tower': 'vision_tower._vision_tower.', 'connector': 'connector.',
}  # fmt: skip


class Whole(nn.Module):
    """TinyLLaVA Factory's model, as far as its parameters are named."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        text, vision = config['text_config'], config['vision_config']
        self.language_model = LlamaForCausalLM(LlamaConfig(**text))
        self.vision_tower, self.connector = nn.Module(), nn.Module()
        # transformers' CLIP was one module deeper when the Factory was written.
        self.vision_tower._vision_tower = nn.ModuleDict({'vision_model': CLIPVisionModel(CLIPVisionConfig(**vision))})
        sizes = vision['hidden_size'], text['hidden_size']
        self.connector._connector = nn.Sequential(nn.Linear(*sizes), nn.GELU(), nn.Linear(sizes[1], sizes[1]))


def write_folders(run, tensors: dict[str, torch.Tensor]) -> None:
    """The tensors in the three folders, under the names that each part's own ``named_parameters()`` has."""
    for name, prefix in PREFIXES.items():
        (run / name).mkdir(parents=True)
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        torch.save(own, run / name / 'pytorch_model.bin')


@pytest.fixture
def aligned(tmp_path):
    """A directory as ``BaseTrainingRecipe.save`` writes it after the alignment."""
    run = tmp_path / 'tiny-llava-pretrain'
    write_folders(run, load_file(TINY / 'model.safetensors'))
    (run / 'config.json').write_text((TINY / 'config.json').read_text())
    return run


def same(model: nn.Module, other: nn.Module) -> None:
    want = other.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, want[name]), name


def test_three_folders_are_one_model(aligned):
    model, encoder = mmft.load(aligned)
    assert encoder is None
    same(model, mmft.load(TINY)[0])
    config = read_layout(aligned).model_config
    parts = {'llm': str(aligned / 'language_model'), 'vision': str(aligned / 'vision_tower')}
    for name, key, kind in (
        ('language_model', 'text_config', 'llama'), ('vision_tower', 'vision_config', 'clip_vision_model'),
    ):  # fmt: skip
        own = {**golden_json('tinyllava_model', 'config.json')[key], 'model_type': kind}
        (aligned / name / 'config.json').write_text(json.dumps(own))
    for projector in (aligned, aligned / 'connector', aligned / 'connector' / 'pytorch_model.bin'):
        apart, _ = build_pretrained({**parts, 'projector': str(projector)}, config)
        same(apart, model)
    (aligned / 'language_model').rename(aligned.parent / 'elsewhere')
    parts = {'llm': str(aligned.parent / 'elsewhere'), 'vision': parts['vision'], 'projector': str(aligned)}
    same(build_pretrained(parts, config)[0], model)


def test_a_folder_that_is_missing(aligned):
    (aligned / 'vision_tower' / 'pytorch_model.bin').unlink()
    with pytest.raises(CheckpointError, match=r'(?s)no weights in vision_tower/.*copy the missing folders'):
        mmft.load(aligned)


def make_lora(tmp_path, targets=('q_proj', 'up_proj')):
    """A run of ``LoRATrainingRecipe``: base and adapter in one directory; and the whole model, merged by peft."""
    run, config = tmp_path / 'tiny-llava-lora', golden_json('tinyllava_model', 'config.json')
    torch.manual_seed(3)
    whole = Whole(config)
    whole.load_state_dict({k: v.float() for k, v in load_file(TINY / 'model.safetensors').items()})
    names = [name for name, module in whole.named_modules()
             if isinstance(module, nn.Linear) and name.endswith(tuple(targets))]  # fmt: skip
    wrapped = get_peft_model(whole, LoraConfig(r=4, lora_alpha=8, target_modules=names, init_lora_weights=False))
    wrapped.base_model.model.connector._connector[0].weight.data.add_(1)  # what trained beside the adapters
    base = {k: v.detach() for k, v in wrapped.base_model.model.named_parameters() if 'lora_' not in k}
    write_folders(run, base)
    assert any('.base_layer.' in key for key in base)
    wrapped.save_pretrained(run, state_dict={k: v for k, v in wrapped.named_parameters() if 'lora_' in k})
    (run / 'config.json').write_text(json.dumps(config))
    return run, wrapped.merge_and_unload().state_dict()


@pytest.mark.parametrize('targets', [('q_proj', 'up_proj'), ('q_proj', 'fc1', '_connector.2')], ids=['llm', 'all'])
def test_an_adapter_beside_its_own_base(tmp_path, targets):
    run, merged = make_lora(tmp_path, targets)
    opened = open_pretrained(run)
    for key, value in merged.items():
        if key in opened.tensors:
            torch.testing.assert_close(opened.tensors[key], value, atol=2e-6, rtol=1e-5)
    adapted = [key for key in merged if key.endswith(tuple(f'{name}.weight' for name in targets))]
    assert adapted
    assert all(opened.tensors.origin(key) is None for key in adapted)
    model, encoder = mmft.load(run)
    assert encoder is None
    torch.testing.assert_close(model.projector.mlp[2].weight, merged['connector._connector.2.weight'])
    torch.testing.assert_close(model.projector.mlp[0].weight, merged['connector._connector.0.weight'])
    name = 'model.layers.1.self_attn.q_proj.weight'
    torch.testing.assert_close(model.llm.lm.state_dict()[name], merged[f'language_model.{name}'], atol=2e-6, rtol=1e-5)


def test_a_base_in_8_bits_is_refused(tmp_path):
    run, _ = make_lora(tmp_path)
    path = run / 'language_model' / 'pytorch_model.bin'
    tensors = torch.load(path, weights_only=True)
    name = next(key for key in tensors if '.base_layer.' in key)
    torch.save({**tensors, name: tensors[name].to(torch.int8)}, path)
    with pytest.raises(CheckpointError, match=r'(?s)1 quantised weight.*int8.*QLoRA'):
        mmft.load(run)


# -- LLaVA's first stage ----------------------------------------------------------------------------------------------


@pytest.fixture
def projector(tmp_path):
    """``config.json`` and ``mm_projector.bin`` of LLaVA's first stage, its base and its tower beside it."""
    tower = 'model.vision_tower.vision_tower.'
    tensors = {key: value.float() for key, value in load_file(GOLDEN / 'llava15' / 'model.safetensors').items()}
    config = golden_json('llava15', 'config.json')
    run = tmp_path / 'llava-pretrain'
    places = {
        'vicuna': {k: v for k, v in tensors.items() if 'vision_tower' not in k and 'mm_projector' not in k},
        'clip-tiny': {k.removeprefix(tower): v for k, v in tensors.items() if k.startswith(tower)},
    }
    for name, content in places.items():
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / 'pytorch_model.bin')
    numbers = {**golden_json('llava15', 'vision_config.json'), 'model_type': 'clip_vision_model'}
    (tmp_path / 'clip-tiny' / 'config.json').write_text(json.dumps(numbers))
    plain = {key: value for key, value in config.items() if not key.startswith('mm_')}
    own = {**plain, 'architectures': ['LlamaForCausalLM'], 'model_type': 'llama'}
    (tmp_path / 'vicuna' / 'config.json').write_text(json.dumps(own))
    run.mkdir()
    changed = {**config, 'architectures': ['LlamaForCausalLM'], 'mm_vision_tower': 'openai/clip-tiny'}
    (run / 'config.json').write_text(json.dumps(changed))
    torch.save({k: v + 1 for k, v in tensors.items() if 'mm_projector' in k}, run / 'mm_projector.bin')
    return run


def test_a_projector_over_its_base(projector):
    with pytest.raises(CheckpointError, match=r'(?s)holds a projector alone.*base=.*init_from'):
        mmft.load(projector)
    whole = mmft.load(GOLDEN / 'llava15', dtype='float32')[0].state_dict()
    # The base may also be a whole LLaVA, whose projector this one replaces.
    for base in (projector.parent / 'vicuna', GOLDEN / 'llava15'):
        if base.parent == GOLDEN:
            numbers = (GOLDEN / 'llava15' / 'vision_config.json').read_text()
            (projector / 'vision_config.json').write_text(numbers)
        model, encoder = mmft.load(projector, base=base, dtype='float32')
        assert encoder is None
        for name, value in model.state_dict().items():
            assert torch.equal(value, whole[name] + name.startswith('projector.')), name


def test_token_vectors_beside_the_projector(projector, caplog):
    """``mm_use_im_start_end`` stores the table of token vectors with it."""
    path, base = projector / 'mm_projector.bin', projector.parent / 'vicuna'
    table = torch.load(base / 'pytorch_model.bin', weights_only=True)['model.embed_tokens.weight']
    tensors = torch.load(path, weights_only=True)
    torch.save({**tensors, 'model.embed_tokens.weight': table + 1}, path)
    assert torch.equal(mmft.load(projector, base=base)[0].llm.lm.get_input_embeddings().weight, table + 1)
    torch.save({**tensors, 'model.embed_tokens.weight': torch.cat([table, table[:2]])}, path)
    with pytest.raises(CheckpointError, match=r'(?s)model\.embed_tokens\.weight is .*mm_use_im_start_end'):
        mmft.load(projector, base=base)
    config = read_layout(GOLDEN / 'llava15').model_config
    for place in (projector, path):
        caplog.clear()
        with caplog.at_level(logging.WARNING, 'mmft'):
            parts = {'projector': str(place), 'llm': str(base), 'vision': str(projector.parent / 'clip-tiny')}
            model, drawn = build_opened(open_pretrained(parts, config), config)
        assert not drawn
        assert torch.equal(model.projector.mlp[0].weight, tensors['model.mm_projector.0.weight'])
        assert torch.equal(model.llm.lm.get_input_embeddings().weight, table)
        assert 'left out model.embed_tokens.weight' in caplog.text
