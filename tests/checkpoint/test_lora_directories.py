"""LoRA directories of LLaVA's own training: adapter, ``non_lora_trainables.bin`` and config, over a base elsewhere."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import mmft
from mmft.checkpoint import fingerprint, open_pretrained
from mmft.checkpoint.encoder import tokenizer_directory
from mmft.errors import CheckpointError
from mmft.export import convert
from tests.helpers import GOLDEN, golden_json

TOWER = 'model.vision_tower.vision_tower.'
TARGETS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']


def make(tmp_path, base: str = 'vicuna', safetensors: bool = False, **options):
    """The directories of a run, made with peft as LLaVA's code does: its folder, the merged LLM, the base's tensors."""
    tensors = {k: v.float() for k, v in load_file(GOLDEN / 'llava15' / 'model.safetensors').items()}
    config = golden_json('llava15', 'config.json')
    numbers = golden_json('llava15', 'vision_config.json')
    llm = {k: v for k, v in tensors.items() if not k.startswith(('model.vision_tower', 'model.mm_projector'))}
    torch.manual_seed(1)
    names = LlamaConfig().to_dict()
    lm = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config.items() if k in names and v is not None}))
    lm.load_state_dict(llm)
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=TARGETS, init_lora_weights=False, **options)
    wrapped = get_peft_model(lm, lora)
    wrapped.peft_config['default'].base_model_name_or_path = f'lmsys/{base}'
    run = tmp_path / 'run'
    wrapped.save_pretrained(run, safe_serialization=safetensors)
    # LLaVA saves what trained beside LoRA under the names of its wrapped model.
    trained = {f'base_model.model.{k}': v + 1 for k, v in tensors.items() if k.startswith('model.mm_projector')}
    torch.save(trained, run / 'non_lora_trainables.bin')
    (run / 'config.json').write_text(json.dumps({**config, 'mm_vision_tower': 'openai/clip-tiny'}))
    places = {base: llm, 'clip-tiny': {k.removeprefix(TOWER): v for k, v in tensors.items() if k.startswith(TOWER)}}
    if base == 'llava':  # a base that is a whole LLaVA already: projector and tower inside
        places = {base: tensors}
    for name, content in places.items():
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / 'pytorch_model.bin')
    (tmp_path / base / 'config.json').write_text(json.dumps({**config, 'architectures': ['LlamaForCausalLM']}))
    if 'clip-tiny' in places:
        (tmp_path / 'clip-tiny' / 'config.json').write_text(json.dumps({**numbers, 'model_type': 'clip_vision_model'}))
    else:
        (run / 'vision_config.json').write_text(json.dumps(numbers))
    return run, wrapped.merge_and_unload(), tensors


@pytest.mark.parametrize(
    'options',
    [{}, {'safetensors': True}, {'base': 'llava'}, {'use_rslora': True}, {'use_dora': True},
     {'rank_pattern': {'q_proj': 2}, 'alpha_pattern': {'mlp.up_proj': 3}}],
    ids=['vicuna', 'safetensors', 'over-llava', 'rslora', 'dora', 'patterns'],
)  # fmt: skip
def test_merged_as_peft_merges(tmp_path, options):
    run, merged, tensors = make(tmp_path, **options)
    model, encoder = mmft.load(run)
    assert encoder is None
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(model.llm.lm.state_dict()[name], value, atol=2e-6, rtol=1e-5)
    for i in (0, 2):
        want = tensors[f'model.mm_projector.{i}.weight'] + 1
        assert torch.equal(model.projector.mlp[i].weight, want)
    assert torch.equal(model.vision.tower.pre_layrnorm.weight, tensors[f'{TOWER}vision_model.pre_layrnorm.weight'])


def test_a_base_that_is_elsewhere(tmp_path):
    run, merged, _ = make(tmp_path)
    (tmp_path / 'vicuna').rename(tmp_path / 'moved')
    with pytest.raises(CheckpointError, match=r"needs the base it was trained on 'lmsys/vicuna'"):
        mmft.load(run)
    model, _ = mmft.load(run, base=tmp_path / 'moved')
    assert torch.equal(model.llm.lm.model.norm.weight, merged.model.norm.weight)


def test_another_adapter_is_another_base(tmp_path):
    run, _, _ = make(tmp_path)
    opened = open_pretrained(run)
    mark = fingerprint(opened.tensors)
    key = 'model.layers.0.self_attn.q_proj.weight'
    assert opened.tensors.origin(key) is None
    assert opened.tensors.meta(key) == (torch.float32, (96, 96))
    assert opened.tensors.origin('model.mm_projector.0.weight')[0].name == 'non_lora_trainables.bin'
    adapter = torch.load(run / 'adapter_model.bin', weights_only=True)
    name = f'base_model.model.{key.removesuffix(".weight")}.lora_B.weight'
    torch.save({**adapter, name: adapter[name] + 1}, run / 'adapter_model.bin')
    assert fingerprint(open_pretrained(run).tensors) != mark
    torch.save(
        {**adapter, 'base_model.model.model.layers.7.x.lora_A.weight': torch.ones(2, 2)}, run / 'adapter_model.bin'
    )
    with pytest.raises(CheckpointError, match=r'1 tensor of the adapter found no place .*LoRA of model\.layers\.7\.x'):
        mmft.load(run)
    (run / 'adapter_model.bin').unlink()
    with pytest.raises(CheckpointError, match='download the adapter'):
        mmft.load(run)


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize('name', ['../vicuna', './somewhere/vicuna/', '/data/models/vicuna'])
def test_a_base_named_by_a_path_is_found_beside(tmp_path, name):
    run, merged, _ = make(tmp_path)
    rewrite(run / 'adapter_config.json', base_model_name_or_path=name)
    assert torch.equal(mmft.load(run)[0].llm.lm.model.norm.weight, merged.model.norm.weight)


@pytest.mark.parametrize('name', [None, ''])
def test_no_base_named(tmp_path, monkeypatch, name):
    """Nothing is looked for, least of all in the folder in which the program happens to run."""
    run, _, _ = make(tmp_path)
    rewrite(run / 'adapter_config.json', base_model_name_or_path=name)
    monkeypatch.chdir(tmp_path / 'vicuna')
    with pytest.raises(CheckpointError, match=r'base_model_name_or_path is (None|\'\')'):
        mmft.load(run)
    assert mmft.load(run, base=tmp_path / 'vicuna')[0].llm.layers


def test_what_trained_beside_lora_under_shorter_names(tmp_path):
    """``builder.py`` takes a wrapper less too."""
    run, _, tensors = make(tmp_path)
    trained = torch.load(run / 'non_lora_trainables.bin', weights_only=True)
    torch.save({k.replace('base_model.model.', 'base_model.'): v for k, v in trained.items()},
               run / 'non_lora_trainables.bin')  # fmt: skip
    weight = mmft.load(run)[0].projector.mlp[0].weight
    assert torch.equal(weight, tensors['model.mm_projector.0.weight'] + 1)


@pytest.mark.parametrize('kind', ['linear', 'mlp3x_gelu', None])
def test_a_config_of_another_projector(tmp_path, kind):
    run, _, _ = make(tmp_path)
    rewrite(run / 'config.json', mm_projector_type=kind)
    with pytest.raises(
        CheckpointError, match=rf"mm_projector_type '{kind or 'linear'}', the weights hold 'mlp2x_gelu'"
    ):
        mmft.load(run)
    rewrite(run / 'config.json', mm_projector_type='ldpnet')
    with pytest.raises(CheckpointError, match=r"run: config\.json says mm_projector_type 'ldpnet'"):
        mmft.load(run)


def test_what_a_run_may_lack(tmp_path):
    run, _, _ = make(tmp_path)
    settings = json.loads((run / 'adapter_config.json').read_text())
    for changes, message in (({'peft_type': 'IA3'}, 'IA3 adapter'), ({'fan_in_fan_out': True}, 'fan_in_fan_out')):
        rewrite(run / 'adapter_config.json', **changes)
        with pytest.raises(CheckpointError, match=message):
            mmft.load(run)
        rewrite(run / 'adapter_config.json', **settings)
    adapter = torch.load(run / 'adapter_model.bin', weights_only=True)
    name = 'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight'
    for shape in ((96, 5), (95, 4)):
        torch.save({**adapter, name: torch.ones(shape)}, run / 'adapter_model.bin')
        with pytest.raises(CheckpointError, match=r'q_proj\.weight is \(96, 96\) in the base, its lora_A \(4, 96\)'):
            mmft.load(run)
    torch.save(adapter, run / 'adapter_model.bin')
    (run / 'non_lora_trainables.bin').unlink()
    with pytest.raises(CheckpointError, match=r'holds no non_lora_trainables\.bin, and its base no projector'):
        mmft.load(run)


@pytest.mark.parametrize('layout', ['hf', 'official', 'native'])
def test_a_run_in_its_usual_types_without_a_tokenizer(tmp_path, layout):
    """A float16 base, a bfloat16 run: one dtype comes out, the language model's, with the base's tokenizer."""
    run, _, _ = make(tmp_path)
    for folder, dtype in (('vicuna', torch.float16), ('clip-tiny', torch.float16), ('run', torch.bfloat16)):
        for file in (tmp_path / folder).glob('*.bin'):
            tensors = torch.load(file, weights_only=True)
            torch.save({name: value.to(dtype) for name, value in tensors.items()}, file)
    for file in (GOLDEN / 'tokenizers' / 'llama_legacy').iterdir():
        (tmp_path / 'vicuna' / file.name).write_bytes(file.read_bytes())
    model, encoder = mmft.load(run)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert tokenizer_directory(run) == str(tmp_path / 'vicuna')
    made = convert({'pretrained': str(run)}, None, tmp_path / 'out', layout=layout, check='weights')
    stored = load_file(made.path / 'model.safetensors')
    assert {value.dtype for value in stored.values()} == {torch.float16}
    again, its = mmft.load(made.path)
    assert its.prompt('What is this?').input_ids.tolist() == encoder.prompt('What is this?').input_ids.tolist()
    assert again(torch.arange(5)[None], mode='tensor').dtype == torch.float16


def test_an_export_without_a_tokenizer_says_so(tmp_path):
    """Neither the run nor its base has one: chat and serve will refuse what comes out."""
    run, _, _ = make(tmp_path)
    said = []
    convert({'pretrained': str(run)}, None, tmp_path / 'out', check='none', log=said.append)
    assert any('will hold no tokenizer' in line for line in said)
    for file in (GOLDEN / 'tokenizers' / 'llama_legacy').iterdir():
        (tmp_path / 'vicuna' / file.name).write_bytes(file.read_bytes())
    said.clear()
    convert({'pretrained': str(run)}, None, tmp_path / 'with', check='none', log=said.append)
    assert not any('tokenizer' in line for line in said)
