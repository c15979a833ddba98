"""The streaming safetensors writer, read back by the safetensors library."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmft.checkpoint import TensorDirectory
from mmft.errors import CheckpointError, ConfigError
from mmft.export.lazy_tensors import materialise, stored_pickle, stored_safetensors, stored_tensors
from mmft.export.shards import ShardWriter, parse_size
from mmft.export.weights import run_in_threads


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        'bytes': torch.arange(5, dtype=torch.uint8),
        'half': torch.randn(3, 4, generator=generator).to(torch.bfloat16),
        'full': torch.randn(7, 2, generator=generator),
        'scalar': torch.tensor(2.5),
        'none': torch.empty(0, 3),
        'long': torch.arange(6).view(2, 3),
    }


def kinds(values):
    return {name: (value.dtype, tuple(value.shape)) for name, value in values.items()}


def same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        assert torch.equal(got[name], value), name


def test_one_file_written_in_any_order(tmp_path):
    values = tensors()
    writer = ShardWriter(tmp_path, kinds(values))
    for name in reversed(values):
        writer.write(name, [values[name]] if values[name].dim() == 0 else values[name].split(2))
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ['model.safetensors']
    same(load_file(tmp_path / 'model.safetensors'), values)
    with safe_open(tmp_path / 'model.safetensors', 'pt') as file:
        assert file.metadata() == {'format': 'pt'}


def test_shards_and_their_index(tmp_path):
    values = {f't{i}': torch.full((10, 10), float(i)) for i in range(7)}
    writer = ShardWriter(tmp_path, kinds(values), '900B')
    for name, value in values.items():
        writer.write(name, [value])
    writer.close()
    files = sorted(path.name for path in tmp_path.glob('*.safetensors'))
    assert files == [f'model-0000{i}-of-00004.safetensors' for i in range(1, 5)]
    index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
    assert index['metadata']['total_size'] == 7 * 400
    for name, file in index['weight_map'].items():
        assert torch.equal(load_file(tmp_path / file)[name], values[name])
    same(dict(TensorDirectory(tmp_path)), values)


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path):
    values = {'a': torch.zeros(4), 'b': torch.zeros(400), 'c': torch.zeros(4)}
    writer = ShardWriter(tmp_path, kinds(values), 100)
    for name, value in values.items():
        writer.write(name, [value])
    writer.close()
    assert len(list(tmp_path.glob('*.safetensors'))) == 3


def test_copies_from_safetensors_and_pickles(tmp_path):
    values = {name: value for name, value in tensors().items() if name != 'none'}
    save_file(values, tmp_path / 'source.safetensors')
    torch.save({'nested': [values], 'n': 3, 'turned': values['full'].t()}, tmp_path / 'source.pth')
    stored = stored_pickle(tmp_path / 'source.pth')
    assert stored['n'] == 3
    assert torch.equal(materialise(stored)['turned'], values['full'].t())
    for i, source in enumerate((stored_safetensors(tmp_path / 'source.safetensors'), stored['nested'][0])):
        out = tmp_path / str(i)
        out.mkdir()
        writer = ShardWriter(out, kinds(values))
        for name in values:
            writer.copy(name, source[name])
        writer.close()
        same(load_file(out / 'model.safetensors'), values)
        same({name: value.read() for name, value in source.items()}, values)
        assert torch.equal(source['full'].rows(2, 5), values['full'][2:5])


def test_shared_storage_in_a_pickle(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    torch.save({'whole': whole, 'row': whole[1], 'column': whole[:, 2]}, tmp_path / 'pytorch_model.bin')
    stored = stored_tensors(TensorDirectory(tmp_path))
    assert torch.equal(stored['row'].read(), whole[1])
    assert torch.equal(stored['column'].read(), whole[:, 2])


def test_what_was_announced_must_come(tmp_path):
    writer = ShardWriter(tmp_path, {'a': (torch.float32, (4, 2)), 'b': (torch.float32, (2,))})
    with pytest.raises(ValueError, match='16 bytes came, 32'):
        writer.write('a', [torch.zeros(2, 2)])
    with pytest.raises(ValueError, match='announced'):
        writer.write('b', [torch.zeros(2, dtype=torch.float64)])
    with pytest.raises(KeyError):
        writer.write('c', [torch.zeros(2)])
    writer.abandon()
    second = tmp_path / 'second'
    second.mkdir()
    writer = ShardWriter(second, {'a': (torch.float32, (4, 2)), 'b': (torch.float32, (2,))})
    writer.write('b', [torch.zeros(2)])
    with pytest.raises(ValueError, match="not written, such as \\['a'\\]"):
        writer.close()
    writer.abandon()


def test_sizes():
    assert parse_size('5GB') == 5 * 10**9
    assert parse_size('2 MiB') == 2 * 2**20
    assert parse_size(77) == 77
    for wrong in ('five', '0', '-1GB', '3 apples'):
        with pytest.raises(ConfigError, match='shard size'):
            parse_size(wrong)


def test_files_that_are_cut_off_or_missing(tmp_path):
    save_file({'a': torch.zeros(100)}, tmp_path / 'a.safetensors')
    stored = stored_safetensors(tmp_path / 'a.safetensors')['a']
    with open(tmp_path / 'a.safetensors', 'r+b') as file:
        file.truncate(200)
    with pytest.raises(CheckpointError, match='cut off'):
        stored.read()
    with pytest.raises(CheckpointError, match='no file'):
        stored_pickle(tmp_path / 'none.pth')
    torch.save({'a': torch.zeros(1000)}, tmp_path / 'half.pth')
    with open(tmp_path / 'half.pth', 'r+b') as file:
        file.truncate(2000)
    with pytest.raises(CheckpointError, match='cannot be read'):
        stored_pickle(tmp_path / 'half.pth')


def test_threads_that_start_after_an_export_have_all_cores():
    """What an export's threads set for themselves torch keeps for every thread that starts later."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        inside = []
        run_in_threads(lambda _: inside.append(torch.get_num_threads()), range(20))
        with pytest.raises(ZeroDivisionError):
            run_in_threads(lambda n: 1 // n, range(3))
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
        assert (set(inside), torch.get_num_threads()) == ({1}, 3)
    finally:
        torch.set_num_threads(before)
