"""The conversion: every tensor, every refusal, and nothing half done."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mmft
from mmft.checkpoint import TensorDirectory
from mmft.errors import CheckpointError, ConfigError
from mmft.export import convert, gate
from mmft.export.lazy_tensors import stored_tensors
from mmft.export.model_path import stored_config
from tests.export.tiny import (
    LORA,
    logits,
    make_base,
    make_checkpoint,
    make_encoder,
    model_config,
    picture,
)
from tests.helpers import GOLDEN, INTERNVL_CASES

FULL = {'vision': 'full', 'projector': 'full', 'llm': 'full'}
TUNES = {
    'lora': LORA,
    'lora_everywhere': {
        'vision': {'type': 'lora', 'r': 2, 'alpha': 6, 'from_layer': 1},
        'projector': {'type': 'lora', 'r': 3},
        'llm': {'type': 'lora', 'r': 4, 'targets': ['q_proj', 'down_proj']},
    },
    'dora': {'vision': {'type': 'lora', 'r': 2, 'dora': True}, 'llm': {'type': 'lora', 'r': 4, 'dora': True}},
    'full': FULL,
    'upper_layers': {'vision': {'type': 'full', 'from_layer': 1}, 'llm': {'type': 'full', 'from_layer': 1}},
}


@pytest.fixture
def run(tmp_path):
    """Makes (cfg, checkpoint, trained model, encoder) of a training of a tiny InternVL2."""

    def make(tune=LORA, kind='InternLM2', layout='official', dtype=torch.float32, **more):
        encoder, config = make_encoder(kind), model_config(kind)
        base = make_base(tmp_path / 'base', config, layout, dtype, encoder)
        cfg = {'model': config, 'pretrained': str(base), 'tune': tune}
        path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder, **more)
        return cfg, path, model, encoder

    return make


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if '.tmp-' in path.name or '.old-' in path.name]


def test_a_scaled_rope_is_the_same_in_training_and_export(run, tmp_path):
    """Building a model writes nothing into its config, neither before it is stored nor before it is compared."""
    _, path, _, _ = run()
    assert stored_config(path)['model']['llm']['rope_scaling'] == {'type': 'dynamic', 'factor': 2.0}
    convert(stored_config(path), path, tmp_path / 'out', check='none')


@pytest.mark.parametrize('case', INTERNVL_CASES)
def test_official_to_mmft_to_official_is_bit_identical(case, tmp_path):
    made = convert({'pretrained': str(GOLDEN / case)}, None, tmp_path / 'out', 'official', check='weights')
    original, written = (load_file(path / 'model.safetensors') for path in (GOLDEN / case, tmp_path / 'out'))
    assert original.keys() == written.keys()
    for name, value in original.items():
        assert written[name].dtype == value.dtype
        assert torch.equal(written[name], value), name
    assert made.measured == {'tensors': len(dict(mmft.load(GOLDEN / case)[0].named_parameters()))}
    before, after = (mmft.checkpoint.read_layout(path).model_config for path in (GOLDEN / case, tmp_path / 'out'))
    assert {k: v for k, v in after['llm'].items() if k in before['llm']} == before['llm']
    assert (after['vision'], after['projector']) == (before['vision'], before['projector'])


@pytest.mark.parametrize('case', [case for case in INTERNVL_CASES if 'rms' not in case])
def test_through_hf_and_back_is_bit_identical(case, tmp_path):
    convert({'pretrained': str(GOLDEN / case)}, None, tmp_path / 'hf', check='none')
    model = mmft.checkpoint.read_layout(GOLDEN / case).model_config
    convert({'pretrained': str(tmp_path / 'hf'), 'model': model}, None, tmp_path / 'back', 'official', check='none')
    original, written = (load_file(path / 'model.safetensors') for path in (GOLDEN / case, tmp_path / 'back'))
    assert original.keys() == written.keys()
    assert all(torch.equal(written[name], value) for name, value in original.items())


@pytest.mark.parametrize('name', TUNES)
def test_written_model_is_the_trained_one(name, run, tmp_path):
    cfg, path, model, encoder = run(TUNES[name])
    want = logits(model, encoder, [picture()])
    for layout in ('hf', 'official'):
        made = convert(cfg, path, tmp_path / layout, layout, check='full')
        assert made.measured['difference'] < 1e-5
        read, read_encoder = mmft.load(tmp_path / layout)
        torch.testing.assert_close(logits(read, read_encoder, [picture()]), want, atol=1e-5, rtol=1e-5)
    assert leftovers(tmp_path) == []


def test_merging_rounds_once(run, tmp_path):
    """Against peft's own merge in float32, rounded afterwards."""
    cfg, path, model, _ = run(dtype=torch.bfloat16)
    for module in model.modules():
        if hasattr(module, 'lora_A') and hasattr(module, 'merge'):
            module.merge()
    merged = {name.replace('.base_layer.', '.'): p for name, p in model.named_parameters() if '.lora_' not in name}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        out = tmp_path / str(dtype)
        convert(cfg, path, out, dtype=str(dtype), check='weights')
        read, _ = mmft.load(out)
        for name, parameter in read.named_parameters():
            assert parameter.dtype == dtype
            torch.testing.assert_close(parameter, merged[name].detach().to(dtype), atol=1e-7, rtol=1e-6, msg=name)


def test_dtype_auto_is_the_bases(run, tmp_path):
    cfg, path, _, _ = run(dtype=torch.bfloat16)
    convert(cfg, path, tmp_path / 'out', check='weights')
    assert {stored.dtype for stored in stored_tensors(TensorDirectory(tmp_path / 'out')).values()} == {torch.bfloat16}
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['dtype'] == config['text_config']['dtype'] == 'bfloat16'


def test_unchanged_tensors_keep_their_bytes(run, tmp_path):
    cfg, path, _, _ = run(dtype=torch.bfloat16)
    convert(cfg, path, tmp_path / 'out', 'official', check='none')
    base, out = (
        load_file(directory / 'model.safetensors') for directory in (Path(cfg['pretrained']), tmp_path / 'out')
    )
    changed = {name for name in base if not torch.equal(base[name], out[name])}
    llm = ('attention.wqkv', 'attention.wo', 'feed_forward')
    assert changed == {n for n in base if n.startswith('mlp1') or ('.layers.' in n and any(word in n for word in llm))}


def test_qlora_merges_into_the_unquantised_base(run, tmp_path):
    cfg, path, model, encoder = run()
    content = torch.load(path, weights_only=True)
    content['meta']['tune']['llm']['type'] = 'qlora'
    torch.save(content, path)
    convert(cfg, path, tmp_path / 'out', check='full')
    read, _ = mmft.load(tmp_path / 'out')
    torch.testing.assert_close(
        logits(read, encoder, [picture()]), logits(model, encoder, [picture()]), atol=1e-5, rtol=1e-5
    )


def test_without_a_base_everything_is_in_the_checkpoint(tmp_path):
    encoder, config = make_encoder(), model_config()
    cfg = {'model': config, 'pretrained': None, 'tune': FULL, 'dtype': 'bfloat16'}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    convert(cfg, path, tmp_path / 'out', check='full')
    read, _ = mmft.load(tmp_path / 'out')
    assert read.dtype == torch.bfloat16
    convert(cfg, path, tmp_path / 'float32', dtype='float32', check='weights')
    read, _ = mmft.load(tmp_path / 'float32')
    assert torch.equal(logits(read, encoder, [picture()]), logits(model, encoder, [picture()]))
    cfg['tune'] = LORA
    path, _ = make_checkpoint(tmp_path / 'iter_2.pth', cfg, encoder)
    with pytest.raises(CheckpointError, match='randomly initialised frozen weights are in no file'):
        convert(cfg, path, tmp_path / 'never')


def test_shards(run, tmp_path):
    cfg, path, model, encoder = run()
    made = convert(cfg, path, tmp_path / 'out', max_shard_size='150KB', check='weights')
    shards = [name for name in made.files if name.startswith('model-')]
    assert len(shards) > 3
    assert 'model.safetensors.index.json' in made.files
    read, _ = mmft.load(tmp_path / 'out')
    want = logits(model, encoder, [picture()])
    torch.testing.assert_close(logits(read, encoder, [picture()]), want, atol=1e-5, rtol=1e-5)


def test_official_takes_python_files_along_as_data(run, tmp_path):
    cfg, path, _, _ = run()
    (Path(cfg['pretrained']) / 'configuration_internvl_chat.py').write_text('raise SystemExit("executed")\n')
    convert(cfg, path, tmp_path / 'out', 'official', check='full')
    assert 'executed' in (tmp_path / 'out' / 'configuration_internvl_chat.py').read_text()
    convert(cfg, path, tmp_path / 'hf', check='none')
    assert not list((tmp_path / 'hf').glob('*.py'))


def test_official_config_keeps_what_mmft_does_not_know(run, tmp_path):
    cfg, path, _, _ = run()
    file = Path(cfg['pretrained']) / 'config.json'
    config = json.loads(file.read_text())
    config['something_new'] = 7
    config['llm_config']['auto_map'] = {'AutoConfig': 'configuration_internlm2.InternLM2Config'}
    file.write_text(json.dumps(config))
    convert(cfg, path, tmp_path / 'out', 'official', check='none')
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['something_new'] == 7
    assert config['llm_config']['auto_map']['AutoConfig'] == 'configuration_internlm2.InternLM2Config'
    assert config['llm_config']['rope_scaling'] == {'type': 'dynamic', 'factor': 2.0}
    assert (config['template'], config['max_dynamic_patch'], config['force_image_size']) == ('internlm2-chat', 6, 56)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_another_base_is_refused(run, tmp_path):
    cfg, path, _, encoder = run()
    other = make_base(tmp_path / 'other', cfg['model'], encoder=encoder, seed=5)
    with pytest.raises(CheckpointError) as caught:
        convert({**cfg, 'pretrained': str(other)}, path, tmp_path / 'out')
    assert str(other) in str(caught.value)
    assert cfg['pretrained'] in str(caught.value)
    with pytest.raises(CheckpointError, match='pretrained=None'):
        convert({**cfg, 'pretrained': None}, path, tmp_path / 'out')
    # The same weights in another place are the same base.
    Path(cfg['pretrained']).rename(tmp_path / 'moved')
    convert({**cfg, 'pretrained': str(tmp_path / 'moved')}, path, tmp_path / 'out', check='weights')


def test_another_model_is_refused(run, tmp_path):
    cfg, path, _, _ = run()
    config = {**cfg['model'], 'vision': {**cfg['model']['vision'], 'num_attention_heads': 2}}
    with pytest.raises(ConfigError, match='num_attention_heads'):
        convert({**cfg, 'model': config}, path, tmp_path / 'out')
    config = {**cfg['model'], 'pixel_std': [0.5, 0.5, 0.5]}
    with pytest.raises(CheckpointError, match=r'pixel_std: None in training, \[0\.5'):
        convert({**cfg, 'model': config}, path, tmp_path / 'out')
    free = {**cfg['model'], 'vision': {**cfg['model']['vision'], 'drop_path_rate': 0.1}}
    convert({**cfg, 'model': free}, path, tmp_path / 'out', check='none')


def edited(path: Path, change) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


A_LORA = 'llm.lm.model.layers.1.mlp.up_proj.lora_B.default.weight'


@pytest.mark.parametrize(
    'change',
    [
        lambda content: content['state_dict'].pop(A_LORA),
        lambda content: content['state_dict'].pop('projector.mlp.1.bias'),
        lambda content: content['state_dict'].update({'llm.lm.model.strange': torch.zeros(2)}),
        lambda content: content['meta']['tune']['llm'].update(targets=['q_proj']),
    ],
)
def test_missing_and_surplus_tensors_are_refused(change, run, tmp_path):
    cfg, path, _, _ = run()
    with pytest.raises(CheckpointError, match=r'tensors? missing'):
        convert(cfg, edited(path, change), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_what_is_no_checkpoint_is_refused(run, tmp_path):
    cfg, _, _, _ = run()
    for name, content, what in (
        ('weights', {'a': torch.zeros(3)}, 'not a training checkpoint of mmft'),
        ('list', [1, 2], 'not a training checkpoint of mmft'),
        ('meta', {'state_dict': {}, 'meta': {}}, 'does not say what was trained'),
    ):
        torch.save(content, tmp_path / f'{name}.pth')
        with pytest.raises(CheckpointError, match=what):
            convert(cfg, tmp_path / f'{name}.pth', tmp_path / 'out')
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(CheckpointError, match='cannot be read'):
        convert(cfg, tmp_path / 'text.pth', tmp_path / 'out')
    with pytest.raises(CheckpointError, match='no file'):
        convert(cfg, tmp_path / 'none.pth', tmp_path / 'out')
    torch.save({'state_dict': {}, 'meta': {'tune': {}}, 'code': Path}, tmp_path / 'code.pth')
    with pytest.raises(CheckpointError, match='only tensors and plain values'):
        convert(cfg, tmp_path / 'code.pth', tmp_path / 'out')


def test_existing_output(run, tmp_path):
    cfg, path, _, _ = run()
    out = tmp_path / 'out'
    out.mkdir()
    convert(cfg, path, out, check='none')  # an empty directory is no loss
    (out / 'precious.txt').write_text('mine')
    with pytest.raises(ConfigError, match='--force'):
        convert(cfg, path, out)
    assert (out / 'precious.txt').exists()
    convert(cfg, path, out, check='none', force=True)
    assert not (out / 'precious.txt').exists()
    assert leftovers(tmp_path) == []
    for place in (cfg['pretrained'], tmp_path):
        with pytest.raises(ConfigError, match='would delete'):
            convert(cfg, path, place, force=True)


# -- nothing half done ------------------------------------------------------------------------------------------------


def test_an_error_in_the_middle_leaves_nothing(run, tmp_path, monkeypatch):
    cfg, path, _, _ = run()
    calls = []

    def broken(self, *args):
        calls.append(args)
        if len(calls) > 5:
            raise OSError('no space left on device')

    monkeypatch.setattr('mmft.disk.LargeFile.put', broken)
    with pytest.raises(OSError, match='no space'):
        convert(cfg, path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    assert leftovers(tmp_path) == []


def test_a_full_disk_and_a_place_that_cannot_be(run, tmp_path, monkeypatch):
    cfg, path, _, _ = run()
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='cannot be made'):
        convert(cfg, path, tmp_path / 'file' / 'out')

    def full(self, *args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('mmft.disk.LargeFile.put', full)
    with pytest.raises(CheckpointError, match=r'(?s)out: No space left.*GB are free'):
        convert(cfg, path, tmp_path / 'out')
    assert leftovers(tmp_path) == []


def test_a_damaged_checkpoint_does_not_pass_the_gate(run, tmp_path):
    """Both of the gate's sides would have the damage."""
    cfg, path, _, _ = run()
    data = bytearray(path.read_bytes())
    key = next(name for name, t in torch.load(path, weights_only=True)['state_dict'].items() if t.numel() > 500)
    at = data.find(torch.load(path, weights_only=True)['state_dict'][key].numpy().tobytes())
    data[at + 100] ^= 1
    (tmp_path / 'flipped.pth').write_bytes(data)
    with pytest.raises(CheckpointError, match=r'flipped.pth is damaged: .*checksums differ'):
        convert(cfg, tmp_path / 'flipped.pth', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_what_a_killed_export_left_is_named(run, tmp_path):
    cfg, path, _, _ = run()
    (tmp_path / 'out.tmp-123').mkdir()
    said = []
    convert(cfg, path, tmp_path / 'out', check='none', log=said.append)
    assert any('out.tmp-123 is of an export that was cut off' in line for line in said)
    assert (tmp_path / 'out.tmp-123').is_dir()


def test_a_failed_check_leaves_nothing_and_keeps_the_old(run, tmp_path, monkeypatch):
    cfg, path, _, _ = run()
    convert(cfg, path, tmp_path / 'out', check='none')
    before = (tmp_path / 'out' / 'model.safetensors').read_bytes()
    genuine = gate.rebuild

    def other(*args):
        model = genuine(*args)
        with torch.no_grad():
            model.llm.lm.lm_head.weight.add_(0.05)
        return model

    monkeypatch.setattr(gate, 'rebuild', other)
    with pytest.raises(CheckpointError, match='logits differ'):
        convert(cfg, path, tmp_path / 'out', check='full', force=True)
    assert (tmp_path / 'out' / 'model.safetensors').read_bytes() == before
    assert leftovers(tmp_path) == []


def test_check_weights_sees_a_flipped_bit(run, tmp_path, monkeypatch):
    cfg, path, _, _ = run()
    genuine = gate.check_weights

    def after_damage(directory, export):
        file = directory / 'model.safetensors'
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data)
        return genuine(directory, export)

    monkeypatch.setattr(gate, 'check_weights', after_damage)
    with pytest.raises(CheckpointError, match='1 written tensor different from the trained'):
        convert(cfg, path, tmp_path / 'out', check='weights')
    assert not (tmp_path / 'out').exists()


def test_a_kill_in_the_middle_leaves_no_output(run, tmp_path):
    cfg, path, _, _ = run()
    script = (
        'import json, sys, time\n'
        'from mmft.disk import LargeFile\n'
        'from mmft.export import convert\n'
        'write = LargeFile.put\n'
        'def slow(*a):\n    write(*a); print("written", flush=True); time.sleep(600)\n'
        'LargeFile.put = slow\n'
        'convert(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3])\n'
    )
    command = [sys.executable, '-c', script, json.dumps(cfg), str(path), str(tmp_path / 'out')]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert child.stdout.readline() == b'written\n'
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / 'out').exists()
    convert(cfg, path, tmp_path / 'out', check='weights')


# -- command line -----------------------------------------------------------------------------------------------------


def test_command_line(run, tmp_path, capsys):
    from mmft.cli.main import main

    cfg, path, model, encoder = run()
    config = tmp_path / 'config.py'
    config.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.items()))
    out = tmp_path / 'out'
    assert main(['pth_to_hf', str(config), str(path), str(out), '--check', 'full', '--max-shard-size', '1GB']) == 0
    assert 'difference' in capsys.readouterr().out
    read, _ = mmft.load(out)
    want = logits(model, encoder, [picture()])
    torch.testing.assert_close(logits(read, encoder, [picture()]), want, atol=1e-5, rtol=1e-5)
    assert main(['pth_to_hf', str(config), str(path), str(out)]) == 1
    assert '--force' in capsys.readouterr().err
    assert main(['pth_to_hf', str(config), 'none', str(tmp_path / 'base_hf'), '--check', 'weights']) == 0
    assert main(['pth_to_hf', str(config), str(path), str(tmp_path / 'native'), '--layout', 'native']) == 0
    capsys.readouterr()
    assert main(['pth_to_hf', str(config), str(path), str(tmp_path / 'adapter'), '--adapter', '--check', 'full']) == 0
    assert 'difference' in capsys.readouterr().out
