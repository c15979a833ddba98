"""Names that wrappers of a training leave in files, and heads that no file holds."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmft
from mmft.engine.init_from import InitFrom
from mmft.errors import CheckpointError, ConfigError
from mmft.export import convert
from mmft.files.tensor_names import unwrapped
from mmft.models import VLM
from tests.export.tiny import make_base, make_encoder, model_config
from tests.export.tiny_llava import llava_config, llava_encoder

HEADS = ('lm_head.weight', 'language_model.output.weight')


def built(config):
    return VLM(**{key: value for key, value in config.items() if key != 'type'})


@pytest.mark.parametrize(
    'name',
    ['module.model.norm.weight', 'module.module.model.norm.weight', '_orig_mod.module.model.norm.weight',
     'base_model.model.model.norm.weight', 'base_model.model.model.norm.modules_to_save.default.weight',
     'module.base_model.model.model.norm.base_layer.weight', 'model.model.norm.weight',
     'model._fsdp_wrapped_module.norm._checkpoint_wrapped_module.weight', 'model.norm.weight'],
)  # fmt: skip
def test_wrappers_come_off(name):
    assert unwrapped(name) == 'model.norm.weight'


def values(width: int = 64):
    return {f'{i}.{k}': torch.randn(width, 48 if i == 0 else width) if k == 'weight' else torch.randn(width)
            for i in (0, 2) for k in ('weight', 'bias')}  # fmt: skip


@pytest.mark.parametrize(
    'prefix',
    ['model.mm_projector.', 'base_model.model.model.mm_projector.', 'module.model.mm_projector.', 'mm_projector.',
     'base_model.model.mm_projector.', 'module.base_model.model.model.mm_projector.', '_orig_mod.model.mm_projector.',
     'projector.model.', 'model.'],
)  # fmt: skip
@pytest.mark.parametrize('legacy', [False, True])
def test_a_projector_under_any_name(tmp_path, prefix, legacy):
    """LLaVA's ``non_lora_trainables.bin`` and XTuner's projector among them; files of torch before 1.6 too."""
    torch.manual_seed(0)
    want, file = values(), tmp_path / 'non_lora_trainables.bin'
    torch.save({prefix + name: value for name, value in want.items()}, file, _use_new_zipfile_serialization=not legacy)
    model = built(llava_config('Llama'))
    InitFrom(str(file), llava_config('Llama')).before_tune(model)
    for name, value in want.items():
        assert torch.equal(model.projector.mlp.get_parameter(name), value)


def test_two_tensors_of_one_name_are_an_error(tmp_path):
    file = tmp_path / 'x.bin'
    torch.save({f'{at}mm_projector.{n}': v for at in ('module.', '') for n, v in values().items()}, file)
    with pytest.raises(CheckpointError, match=r'twice: as module\.mm_projector\.0\.weight and as mm_projector'):
        InitFrom(str(file), llava_config('Llama')).before_tune(built(llava_config('Llama')))


def test_the_projector_directory_of_xtuner(tmp_path):
    want, folder = values(), tmp_path / 'projector'
    folder.mkdir()
    save_file({f'model.{name}': value for name, value in want.items()}, folder / 'model.safetensors')
    numbers = {'model_type': 'projector', 'hidden_act': 'gelu', 'depth': 2, 'auto_map': {'AutoModel': 'x.Projector'}}
    (folder / 'config.json').write_text(json.dumps(numbers))
    model = built(llava_config('Llama'))
    InitFrom(str(folder), llava_config('Llama')).before_tune(model)
    assert torch.equal(model.projector.mlp[2].weight, want['2.weight'])
    model, _ = mmft.load({'projector': folder}, model=llava_config('Llama'))
    assert torch.equal(model.projector.mlp[0].bias, want['0.bias'])
    (folder / 'config.json').write_text(json.dumps({**numbers, 'hidden_act': 'relu'}))
    with pytest.raises(ConfigError, match=r"model\.projector\.act = 'gelu', but .* says 'relu'"):
        mmft.load({'projector': folder}, model=llava_config('Llama'))


@pytest.mark.parametrize('at', ['mlp1.', 'model.mlp1.', 'module.mlp1.'])
def test_the_projector_of_an_internvl(tmp_path, at):
    config = model_config()
    model, other = built(config), built(config)
    torch.save({at + name: value + 1 for name, value in other.projector.mlp.state_dict().items()}, tmp_path / 'x.bin')
    InitFrom(str(tmp_path / 'x.bin'), config).before_tune(model)
    assert torch.equal(model.projector.mlp[3].weight, other.projector.mlp[3].weight + 1)


def said(*path):
    """An edit of ``config.json`` that says the tie at one place."""

    def edit(config):
        for at in path:
            config = config[at]
        config['tie_word_embeddings'] = True

    return edit


def unsaid(config):
    """transformers leaves out what is its class's default."""
    for at in (config, config.get('text_config', {})):
        at.pop('tie_word_embeddings', None)


TIED = {
    'InternVL official': ('official', model_config('Qwen2'), make_encoder('Qwen2'), said('llm_config')),
    'InternLM2': ('official', model_config('InternLM2'), make_encoder('InternLM2'), said('llm_config')),
    'InternVL hf': ('hf', model_config('Qwen2'), make_encoder('Qwen2'), said('text_config')),
    'llava-hf': ('hf', llava_config('Llama'), llava_encoder('Llama'), said('text_config')),
    'llava-hf of Gemma': ('hf', llava_config('Gemma'), llava_encoder('Gemma'), unsaid),
    'LLaVA': ('official', llava_config('Llama'), llava_encoder('Llama'), said()),
    'TinyLLaVA': ('official', llava_config('Qwen2'), llava_encoder('Qwen2'), said('text_config')),
    'native': ('native', model_config('Qwen2'), make_encoder('Qwen2'), said('model', 'llm')),
}


@pytest.mark.parametrize('case', TIED)
def test_a_head_that_no_file_holds_is_the_embedding(tmp_path, case):
    layout, config, encoder, edit = TIED[case]
    base = make_base(tmp_path / 'base', config, layout, encoder=encoder)
    tensors = load_file(base / 'model.safetensors')
    save_file({k: v for k, v in tensors.items() if not k.endswith(HEADS)}, base / 'model.safetensors', {'format': 'pt'})
    numbers = json.loads((base / 'config.json').read_text())
    edit(numbers)
    (base / 'config.json').write_text(json.dumps(numbers))
    lm = mmft.load(base)[0].llm.lm
    assert lm.lm_head.weight is lm.model.embed_tokens.weight
    made = convert({'pretrained': str(base)}, None, tmp_path / 'out', layout=layout)
    assert torch.equal(mmft.load(made.path)[0].llm.lm.lm_head.weight, lm.lm_head.weight)


def test_a_head_in_the_file_of_a_tied_model(tmp_path):
    """Equal it is fine; another one means that config.json or the file is wrong. InternVL's own class never ties."""
    base = make_base(tmp_path / 'base', llava_config('Qwen2'), 'hf', encoder=llava_encoder('Qwen2'))
    tensors = load_file(base / 'model.safetensors')
    table = tensors['language_model.model.embed_tokens.weight']
    for head, fits in ((table.clone(), True), (table + 1, False)):
        save_file({**tensors, 'language_model.lm_head.weight': head}, base / 'model.safetensors', {'format': 'pt'})
        if fits:
            assert mmft.load(base)[0].llm.lm.lm_head.weight.shape == table.shape
        else:
            with pytest.raises(CheckpointError, match='but the config ties them'):
                mmft.load(base)
    own = make_base(tmp_path / 'own', model_config('Qwen2'), 'official', encoder=make_encoder('Qwen2'))
    numbers = json.loads((own / 'config.json').read_text())
    said('llm_config')(numbers)
    (own / 'config.json').write_text(json.dumps(numbers))
    lm = mmft.load(own)[0].llm.lm
    assert not torch.equal(lm.lm_head.weight, lm.model.embed_tokens.weight)


def test_no_head_and_no_tie_names_the_remedy(tmp_path):
    base = make_base(tmp_path / 'base', model_config('Qwen2'), 'official', encoder=make_encoder('Qwen2'))
    tensors = load_file(base / 'model.safetensors')
    save_file({k: v for k, v in tensors.items() if not k.endswith(HEADS)}, base / 'model.safetensors', {'format': 'pt'})
    with pytest.raises(CheckpointError, match=r'lm_head\.weight: in the model, but not .*tie_word_embeddings'):
        mmft.load(base)


WHOLE = {
    'LLaVA': ('official', llava_config('Llama'), llava_encoder('Llama')),
    'llava-hf': ('hf', llava_config('Qwen2'), llava_encoder('Qwen2')),
    'InternVL': ('official', model_config('InternLM2'), make_encoder('InternLM2')),
    'native': ('native', model_config('Qwen2'), make_encoder('Qwen2')),
}


@pytest.mark.parametrize('case', WHOLE)
@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'base_model.model.'])
def test_a_whole_model_saved_inside_a_wrapper(tmp_path, case, prefix):
    layout, config, encoder = WHOLE[case]
    base = make_base(tmp_path / 'base', config, layout, encoder=encoder)
    want = mmft.load(base)[0].state_dict()
    tensors = {prefix + name: value for name, value in load_file(base / 'model.safetensors').items()}
    if prefix == 'module.':
        torch.save(tensors, base / 'pytorch_model.bin')
        (base / 'model.safetensors').unlink()
    else:
        save_file(tensors, base / 'model.safetensors', {'format': 'pt'})
    model, _ = mmft.load(base)
    assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())
    made = convert({'pretrained': str(base)}, None, tmp_path / 'out', layout=layout)
    assert {*load_file(made.path / 'model.safetensors')} == {name.removeprefix(prefix) for name in tensors}


def test_names_that_are_a_part_s_own_stay():
    own = ('vision.modules_to_save.weight', 'vision.base_layer.weight', 'vision.original_module.weight')
    assert [*map(unwrapped, own)] == [*own]


@pytest.mark.parametrize('adapters', [False, True])
def test_the_folders_of_xtuner_are_named_as_parts(tmp_path, adapters):
    """XTuner publishes a LLaVA's language model with ``projector/`` and ``visual_encoder/`` beside its files."""
    config = llava_config('Llama')
    base = make_base(tmp_path / 'base', config, 'official', encoder=llava_encoder('Llama'))
    root, tensors = tmp_path / 'xtuner', load_file(base / 'model.safetensors')
    tower = 'model.vision_tower.vision_tower.'
    vision = json.loads((base / 'vision_config.json').read_text())
    llm = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM'], **config['llm']}
    parts = {
        'projector': ('model.mm_projector.', 'model.', {'model_type': 'projector', 'hidden_act': 'gelu', 'depth': 2}),
        'visual_encoder': (tower, '', {**vision, 'model_type': 'clip_vision_model'}),
        '': (('model.embed', 'model.layers', 'model.norm', 'lm_head'), None, llm),
    }
    for folder, (start, prefix, numbers) in parts.items():
        held = {key if prefix is None else prefix + key.removeprefix(start): value
                for key, value in tensors.items() if key.startswith(start)}  # fmt: skip
        (root / folder).mkdir(parents=True, exist_ok=True)
        save_file(held, root / folder / 'model.safetensors', {'format': 'pt'})
        (root / folder / 'config.json').write_text(json.dumps(numbers))
    named = {'llm': str(root), 'vision': str(root / 'visual_encoder'), 'projector': str(root / 'projector')}
    want = mmft.load(base)[0].state_dict()
    model, _ = mmft.load(named, model=config)
    assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())
    if adapters:
        (root / 'config.json').unlink()
        (root / 'visual_encoder' / 'config.json').unlink()
        (root / 'llm_adapter').mkdir()
        (root / 'llm_adapter' / 'adapter_config.json').write_text('{}')
        named['llm'], named['vision'] = str(root / 'llm_adapter'), 'the vision tower that it was trained with'
    with pytest.raises(CheckpointError, match='a folder for each part') as caught:
        mmft.load(root)
    for part, place in named.items():
        assert f'{part}={place if place.startswith("the ") else repr(place)}' in caught.value.fix


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_of_others_are_refused(tmp_path, dtype):
    base = make_base(tmp_path / 'base', model_config('Qwen2'), 'hf', encoder=make_encoder('Qwen2'))
    tensors = load_file(base / 'model.safetensors')
    name = 'language_model.model.layers.0.mlp.up_proj.weight'
    save_file({**tensors, name: tensors[name].to(dtype)}, base / 'model.safetensors', {'format': 'pt'})
    numbers = json.loads((base / 'config.json').read_text())
    (base / 'config.json').write_text(json.dumps({**numbers, 'quantization_config': {'quant_method': 'bitsandbytes'}}))
    with pytest.raises(CheckpointError, match=rf'1 weight is quantised \(bitsandbytes\), such as {name}'):
        mmft.load(base)
    with pytest.raises(CheckpointError, match=rf'1 weight is quantised \(bitsandbytes\), such as {name}'):
        mmft.load({'llm': base}, model=model_config('Qwen2'))


@pytest.mark.parametrize('said', [True, False])
@pytest.mark.parametrize('dtype', [torch.int32, torch.uint8])
def test_quantised_parts_are_refused(tmp_path, dtype, said):
    """GPTQ and AWQ pack weights as ``qweight``; a directory that says nothing of it is told by its tensors."""
    config = llava_config('Llama')
    base = make_base(tmp_path / 'base', config, 'official', encoder=llava_encoder('Llama'))
    tensors = {k: v for k, v in load_file(base / 'model.safetensors').items() if 'tower' not in k and 'mm_' not in k}
    weight = 'model.layers.0.mlp.up_proj.weight'
    name = weight if dtype == torch.uint8 else weight.replace('weight', 'qweight')
    path, method = tmp_path / 'llm', {'quantization_config': {'quant_method': 'awq'}} if said else {}
    path.mkdir()
    save_file({**tensors, name: tensors.pop(weight).to(dtype)}, path / 'model.safetensors', {'format': 'pt'})
    numbers = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM'], **config['llm'], **method}
    (path / 'config.json').write_text(json.dumps(numbers))
    with pytest.raises(CheckpointError, match=r'1 weight is quantised.*, such as ' + name):
        mmft.load({'llm': path}, model=config)


@pytest.mark.parametrize(
    ('dtype', 'message'), [(torch.int8, '2 weights are quantised'), (torch.int64, 'whole numbers')]
)
def test_a_file_of_whole_numbers_is_no_projector(tmp_path, dtype, message):
    file = tmp_path / 'mm_projector.bin'
    torch.save({f'model.mm_projector.{name}': value.to(dtype) for name, value in values().items()}, file)
    with pytest.raises(CheckpointError, match=message):
        mmft.load({'projector': file}, model=llava_config('Llama'))
    with pytest.raises(CheckpointError, match=message):
        InitFrom(str(file), llava_config('Llama')).before_tune(built(llava_config('Llama')))
