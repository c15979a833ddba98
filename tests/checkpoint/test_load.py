"""Loading directories: shards, wrong directories, and that nothing in them runs."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, LlamaConfig

import mmft
from mmft.checkpoint import TensorDirectory, build_pretrained, fingerprint, read_layout
from mmft.errors import CheckpointError, ConfigError
from tests.helpers import GOLDEN

CASE = GOLDEN / 'internvl2_qwen2'


@pytest.fixture
def directory(tmp_path):
    """A copy of a golden model directory that a test may spoil."""
    for name in ('config.json', 'model.safetensors'):
        shutil.copy(CASE / name, tmp_path / name)
    return tmp_path


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_dtype():
    assert mmft.load(CASE)[0].dtype == torch.float16  # as stored
    assert mmft.load(CASE, dtype='float32')[0].dtype == torch.float32
    with pytest.raises(ConfigError, match='float7'):
        mmft.load(CASE, dtype='float7')


@pytest.mark.parametrize('device', ['cudaa', f'cuda:{torch.cuda.device_count()}'])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ConfigError, match=device):
        mmft.load(CASE, device=device)


def test_shards_and_bin_give_the_same_model(directory):
    want, _ = mmft.load(CASE)
    tensors = load_file(CASE / 'model.safetensors')
    names = sorted(tensors)
    (directory / 'model.safetensors').unlink()
    weight_map = {}
    for i, part in enumerate((names[:20], names[20:]), 1):
        file = f'model-0000{i}-of-00002.safetensors'
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
    assert same(mmft.load(directory)[0], want)
    mark = fingerprint(TensorDirectory(directory))
    for file in directory.glob('model*'):
        file.unlink()
    torch.save(tensors, directory / 'pytorch_model.bin')
    assert same(mmft.load(directory)[0], want)
    # The same base in another file format is the same base; one changed value is another.
    assert fingerprint(TensorDirectory(directory)) == mark == fingerprint(TensorDirectory(CASE))
    tensors['language_model.model.norm.weight'][3] += 1
    torch.save(tensors, directory / 'pytorch_model.bin')
    assert fingerprint(TensorDirectory(directory)) != mark


def test_nothing_in_the_directory_runs(directory):
    class Evil:
        def __reduce__(self):
            return open, (str(directory / 'ran'), 'w')

    for name in ('configuration_internvl_chat.py', 'modeling_internvl_chat.py'):
        (directory / name).write_text(f'open({str(directory / "ran")!r}, "w")')
    config = json.loads((directory / 'config.json').read_text())
    config['auto_map'] = {'AutoModel': 'modeling_internvl_chat.InternVLChatModel'}
    (directory / 'config.json').write_text(json.dumps(config))
    mmft.load(directory)
    assert not (directory / 'ran').exists()
    (directory / 'model.safetensors').unlink()
    (directory / 'pytorch_model.bin').write_bytes(pickle.dumps({'weight': Evil()}))
    with pytest.raises(CheckpointError, match='cannot be read'):
        mmft.load(directory)
    assert not (directory / 'ran').exists()


def test_missing_directory_files(tmp_path):
    with pytest.raises(CheckpointError, match='not a directory'):
        mmft.load(tmp_path / 'nowhere')
    with pytest.raises(CheckpointError, match=r'no config\.json'):
        mmft.load(tmp_path)
    shutil.copy(CASE / 'config.json', tmp_path)
    with pytest.raises(CheckpointError, match='no weights'):
        mmft.load(tmp_path)


def test_cut_off_weights(directory):
    data = (directory / 'model.safetensors').read_bytes()
    (directory / 'model.safetensors').write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match='cannot be read'):
        mmft.load(directory)


@pytest.mark.parametrize('content', ['{}', '[1]', '{"architectures": ["InternVLChatModel"]}', '{"architectures": '])
def test_config_json_that_says_too_little(directory, content):
    (directory / 'config.json').write_text(content)
    with pytest.raises(CheckpointError, match=r'config\.json'):
        mmft.load(directory)


def test_a_tie_that_only_the_top_of_config_json_tells(tmp_path):
    """What transformers 5 writes for a model of its defaults: the tie at the top, no lm_head in the file."""
    vision = InternVLVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=14
    )
    text = LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    theirs = InternVLForConditionalGeneration(
        InternVLConfig(vision_config=vision, text_config=text, image_token_id=30)
    ).eval()
    theirs.save_pretrained(tmp_path)
    assert not json.loads((tmp_path / 'config.json').read_text())['text_config']['tie_word_embeddings']
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(mmft.load(tmp_path)[0](ids, mode='tensor'), theirs(input_ids=ids).logits)
    # A head of other values than the table it is said to be is not dropped in silence.
    tensors = load_file(tmp_path / 'model.safetensors')
    tensors['language_model.lm_head.weight'] = torch.ones(32, 16)
    save_file(tensors, tmp_path / 'model.safetensors')
    with pytest.raises(CheckpointError, match=r'lm_head\.weight: other values than .*embed_tokens'):
        mmft.load(tmp_path)


def test_index_that_climbs_out(directory):
    (directory / 'model.safetensors').rename(directory.parent / 'outside.safetensors')
    index = {'weight_map': {'a': '../outside.safetensors'}}
    (directory / 'model.safetensors.index.json').write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match='plain file name'):
        mmft.load(directory)
    (directory / 'model.safetensors.index.json').write_text('{')
    with pytest.raises(CheckpointError, match='not valid JSON'):
        mmft.load(directory)


def test_tensors_that_do_not_fit_are_all_named(directory):
    tensors = load_file(directory / 'model.safetensors')
    tensors['mlp1.1.bias'] = torch.zeros(3)
    del tensors['mlp1.3.bias']
    save_file(tensors, directory / 'model.safetensors')
    with pytest.raises(CheckpointError) as error:
        mmft.load(directory)
    assert 'projector.mlp.1.bias: (3,) in the weights' in str(error.value)
    assert 'projector.mlp.3.bias: in the model, but not in the weights' in str(error.value)


def test_config_of_another_model():
    stored = read_layout(CASE).model_config
    config = {
        **stored,
        'llm': {**stored['llm'], 'rope_theta': 7.0},
        'projector': {**stored['projector'], 'version': 'v1'},
    }
    with pytest.raises(ConfigError, match='2 problems') as error:
        build_pretrained(CASE, config)
    assert 'rope_theta' in str(error.value)
    # What a config leaves out is its class's default, which may be another number too.
    config = {**stored, 'llm': {key: value for key, value in stored['llm'].items() if key != 'rope_theta'}}
    with pytest.raises(ConfigError, match=r'rope_theta = 10000\.0, but'):
        build_pretrained(CASE, config)
