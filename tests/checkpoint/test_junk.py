"""Junk where a model should be: it works, or one error of ours says what is wrong. Never a foreign traceback."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import mmft
from mmft.engine.run_folder import read_checkpoint
from mmft.errors import CheckpointError, MMFTError
from mmft.export.inputs import TrainingCheckpoint
from mmft.export.lazy_tensors import stored_tensors
from mmft.files.tensors import TensorDirectory, TensorFiles
from tests.export.tiny import make_base, make_encoder, model_config
from tests.helpers import GOLDEN

POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'
VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    float('nan'),
    1e300,
    'x',
    '',
    [],
    {},
    [1],
    ['x'],
    {'a': 1},
    [None],
    [{}],
    {'type': 'x'},
)
GOLDEN_DIRECTORIES = {'llava15': 'llava15', 'llava16_anyres': 'llama', 'tinyllava_model': 'llama'}


@pytest.fixture(scope='module')
def directories(tmp_path_factory) -> list[Path]:
    """A tiny directory of every layout."""
    root = tmp_path_factory.mktemp('directories')
    kinds = (('Qwen2', 'hf'), ('InternLM2', 'official'), ('Llama', 'native'))
    found = [make_base(root / kind, model_config(kind), name, encoder=make_encoder(kind)) for kind, name in kinds]
    adapter = root / 'adapter'
    adapter.mkdir()
    settings = {'peft_type': 'LORA', 'base_model_name_or_path': str(found[0]), 'r': 2, 'lora_alpha': 4.0,
                'target_modules': ['q_proj'], 'use_dora': False, 'use_rslora': False, 'alpha_pattern': {'x': 1},
                'rank_pattern': {}, 'modules_to_save': None, 'bias': 'none', 'fan_in_fan_out': False}  # fmt: skip
    (adapter / 'adapter_config.json').write_text(json.dumps(settings))
    layer = 'base_model.model.model.language_model.layers.0.self_attn.q_proj'
    lora = {f'{layer}.lora_A.weight': torch.zeros(2, 64), f'{layer}.lora_B.weight': torch.zeros(64, 2)}
    save_file(lora, adapter / 'adapter_model.safetensors')
    mmft.load(adapter)
    found.append(adapter)
    return found + [Path(shutil.copytree(GOLDEN / name, root / name)) for name in GOLDEN_DIRECTORIES]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The way to every value in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        if key != 'vocab' and key != 'merges':
            yield (*path, key)
            yield from places(inner, (*path, key))


def spoilt(content: Any, chance: random.Random) -> Any:
    content = copy.deepcopy(content)
    *way, last = chance.choice(list(places(content)))
    inner = content
    for key in way:
        inner = inner[key]
    if chance.random() < 0.2:
        del inner[last]
    else:
        inner[last] = chance.choice(VALUES)
    return content


def json_files(directory: Path) -> list[Path]:
    return [file for file in sorted(directory.glob('*.json')) if json.loads(file.read_text())]


@pytest.mark.parametrize('seed', range(int(os.environ.get('MMFT_JUNK', '250'))))
def test_spoilt_files_of_directories(directories, tmp_path, seed):
    chance = random.Random(seed)
    source = chance.choice(directories)
    spoil = chance.choice(json_files(source))
    made = tmp_path / 'made'
    shutil.copytree(source, made, copy_function=os.link)
    (made / spoil.name).unlink()
    text = spoil.read_text()
    kinds = {'': lambda: json.dumps(spoilt(json.loads(text), chance)), 'cut': lambda: text[: len(text) // 2],
             'other': lambda: json.dumps(chance.choice(VALUES)), 'nothing': str}  # fmt: skip
    (made / spoil.name).write_text(kinds[chance.choice(['', '', '', '', '', *kinds])]())
    refused, tensors = None, []
    try:
        tensors = list(mmft.load(made)[0].state_dict().values())
    except MMFTError as error:
        refused = error
    assert (refused.expected or refused.fix) if refused else len(tensors) > 10
    assert all(torch.isfinite(value).all() for value in tensors)


ODD = {
    'a list': ([torch.zeros(2)], 'holds a list'),
    'a tensor': (torch.zeros(2), 'holds a Tensor'),
    'a text': ('weights', 'holds a str'),
    'no tensor': ({'step': 1}, 'names no tensor'),
    'deeper': ({'weights': {'a': torch.zeros(2)}}, 'there may be some in weights'),
    'no names': ({None: torch.zeros(2)}, 'a tensor of the name None'),
    'numbers for names': ({3: torch.zeros(2), 'a': torch.zeros(2)}, 'a tensor of the name 3'),
    'sparse': ({'a': torch.eye(2).to_sparse()}, 'the tensor a without plain values'),
    'without values': ({'a': torch.zeros(2, device='meta')}, 'the tensor a without plain values'),
    'more than data': ({'a': torch.nn.Linear(1, 1)}, 'asks to run torch.nn.modules.linear.Linear'),
}


HUGE = {'num_hidden_layers': 10**6, 'hidden_size': 10**12, 'image_size': 10**9, 'intermediate_size': 10**12}


@pytest.mark.parametrize('name', HUGE)
def test_huge_numbers_end_soon_with_one_error(directories, tmp_path, name):
    """Not with all memory taken, nor with minutes of building layers."""
    files = [(source, file) for source in directories for file in json_files(source)]
    found = [(*both, way) for both in files for way in places(json.loads(both[1].read_text())) if way[-1] == name]
    refused = []
    for number, (source, file, (*way, last)) in enumerate(found):
        copied = Path(shutil.copytree(source, tmp_path / str(number)))
        content = inner = json.loads(file.read_text())
        for key in way:
            inner = inner[key]
        inner[last] = HUGE[name]
        (copied / file.name).write_text(json.dumps(content))
        try:
            mmft.load(copied)
        except MMFTError as error:
            refused.append(error)
    assert refused


@pytest.mark.parametrize('name', ODD)
def test_odd_weight_files(tmp_path, name):
    content, what = ODD[name]
    torch.save(content, tmp_path / 'pytorch_model.bin')
    with pytest.raises(CheckpointError, match=what) as error:
        TensorDirectory(tmp_path)
    assert 'weights_only' not in str(error.value)
    assert 'torch.serialization' not in str(error.value)


def whole_bin() -> bytes:
    import io

    stream = io.BytesIO()
    torch.save({'a': torch.zeros(300)}, stream)
    return stream.getvalue()


BYTES = {
    'a pointer': (POINTER.encode(), r'git-lfs pointer(.*\n)*.*git lfs pull'),
    'empty': (b'', 'it is empty'),
    'a page': (b'<!DOCTYPE html>\n<html>404</html>', 'it is a web page'),
    'cut off': (whole_bin()[:-300], 'it is cut off'),
    'something': (bytes(range(256)), 'cannot be read'),
}


@pytest.mark.parametrize('name', BYTES)
@pytest.mark.parametrize('file', ['model.safetensors', 'pytorch_model.bin', 'iter_1.pth'])
def test_what_is_no_weight_file(tmp_path, name, file):
    content, what = BYTES[name]
    (tmp_path / file).write_bytes(content)
    if file == 'model.safetensors' and name == 'cut off':
        what = 'cannot be read'  # a .bin of another name
    readers = (
        (read_checkpoint, TrainingCheckpoint.read) if file.endswith('.pth') else (lambda _: TensorDirectory(tmp_path),)
    )
    for read in readers:
        with pytest.raises(CheckpointError, match=what) as error:
            read(tmp_path / file)
        assert 'weights_only' not in str(error.value)


def test_a_directory_in_the_place_of_a_file(tmp_path):
    (tmp_path / 'a.bin').mkdir()
    with pytest.raises(CheckpointError, match='Is a directory'):
        TensorFiles([tmp_path / 'a.bin'])
    (tmp_path / 'config.json').mkdir()
    with pytest.raises(CheckpointError, match=r'config.json cannot be read: Is a directory'):
        mmft.load(tmp_path)


def test_shards_and_their_index(tmp_path):
    shard = 'model-00001-of-00002.safetensors'
    (tmp_path / shard).write_bytes(b'')
    with pytest.raises(CheckpointError, match=rf'{shard}, one of several files, but no model.safetensors.index.json'):
        TensorDirectory(tmp_path)
    for content in ({}, {'weight_map': None}, {'weight_map': ['a']}, {'weight_map': {'a': 1}}, {'weight_map': {}}):
        (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match='is not an index of shards'):
            TensorDirectory(tmp_path)
    (tmp_path / 'model.safetensors.index.json').write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    with pytest.raises(CheckpointError, match='which is missing'):
        TensorDirectory(tmp_path)
    for name in ('x' * 5000, 'x\0', '..', ''):  # names that no file has
        (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': name}}))
        with pytest.raises(CheckpointError, match='names the shard'):
            TensorDirectory(tmp_path)
    (tmp_path / 'model.safetensors.index.json').unlink()
    (tmp_path / shard).rename(tmp_path / 'llama.gguf')
    with pytest.raises(CheckpointError, match=r'llama\.gguf, which is not read'):
        TensorDirectory(tmp_path)


def test_files_of_before_torch_1_6_are_read_and_exported(tmp_path):
    values = {'a': torch.arange(6.0).view(2, 3)}
    torch.save(values, tmp_path / 'pytorch_model.bin', _use_new_zipfile_serialization=False)
    stored = stored_tensors(TensorDirectory(tmp_path))
    assert torch.equal(stored['a'].read(), values['a'])


META = {'tune': {'llm': {'type': 'full'}}, 'base': {'path': 'x', 'fingerprint': 'y'}, 'config': '', 'initialised': []}


@pytest.mark.parametrize(
    'change',
    [{'meta': []}, {'state_dict': [1]}, {'encoder': 'x'}, {'state_dict': {None: torch.zeros(1)}},
     *({'meta': {**META, **spoil}} for spoil in (
         {'tune': ['x']}, {'tune': {'llm': 'full'}}, {'base': 'x'}, {'base': {'path': 1, 'fingerprint': ''}},
         {'config': 3}, {'initialised': ['absent']}, {'initialised': 'x'}))],
)  # fmt: skip
def test_spoilt_checkpoints(tmp_path, change):
    torch.save({'state_dict': {}, 'meta': META, 'encoder': None, **change}, tmp_path / 'iter_1.pth')
    for read in (read_checkpoint, TrainingCheckpoint.read):
        with pytest.raises(CheckpointError, match='is not a training checkpoint of mmft'):
            read(tmp_path / 'iter_1.pth')


@pytest.mark.parametrize('value', [5, True, [5], [None], [['x']]])
def test_leading_space_of_a_tokenizer_that_is_no_list_of_texts(value, directories, tmp_path):
    shutil.copytree(directories[2], tmp_path / 'model')
    path = tmp_path / 'model' / 'tokenizer_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'leading_space': value}))
    with pytest.raises(CheckpointError, match='tokenizer'):
        mmft.load(tmp_path / 'model')


def test_a_base_whose_name_no_file_can_have(tmp_path):
    for name in ('x' * 5000, 'x\0'):
        (tmp_path / 'adapter_config.json').write_text(json.dumps({'base_model_name_or_path': name}))
        with pytest.raises(CheckpointError, match='there is no model in'):
            mmft.load(tmp_path)
