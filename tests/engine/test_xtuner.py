"""What XTuner leaves: checkpoints as files and folders, configs; and the scripts and settings of other tools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmft.checkpoint.build import build_meta
from mmft.cli.configs import load_config
from mmft.engine.init_from import InitFrom
from mmft.engine.run_folder import read_checkpoint
from mmft.errors import CheckpointError, ConfigError
from mmft.export import convert
from mmft.layouts.internvl_official import InternVLOfficial
from mmft.models import VLM
from mmft.models.lora import lora_delta
from tests.export.tiny import make_base, make_encoder, model_config, random_model
from tests.export.tiny_llava import llava_config

CFG = """
model = dict(
    llm_lora=dict(lora_alpha=6, lora_dropout=0.05, r=3, target_modules=None, type='peft.LoraConfig'),
    model_path='OpenGVLab/InternVL2-2B', type='xtuner.model.InternVL_V1_5')
"""
META = {'cfg': CFG, 'mmengine_version': '0.10.4', 'iter': 500, 'epoch': 1, 'seed': 1}
HUB = {
    'log_scalars': {'train/loss': HistoryBuffer([1.0], [1])},
    'runtime_info': {'x': np.arange(3), 'y': np.float64(2)},
}


def built(config) -> VLM:
    return random_model(config)


def saved(path, state, kind: str):
    """A checkpoint as mmengine writes it: a file, or DeepSpeed's folder."""
    if kind == 'file':
        torch.save({'state_dict': state, 'meta': META, 'message_hub': HUB, 'optimizer': {}}, path)
    else:
        path.mkdir()
        torch.save({'module': state, 'meta': META, 'message_hub': HUB}, path / 'mp_rank_00_model_states.pt')
        torch.save({'optimizer_state_dict': {}}, path / 'bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt')
    return path


def internvl_state(config, default: str = '.default'):
    """LoRA on packed rows and the projector, under XTuner's names; and the weights that come out, under ours."""
    base = built(config)
    own = {name: value.detach().clone() for name, value in base.named_parameters()}
    layout = InternVLOfficial.from_model(config)
    theirs = {name: value for step in layout.to_theirs(own) for name, value in step(own.__getitem__).items()}
    torch.manual_seed(3)
    state = {f'model.{name}': value + 1 for name, value in theirs.items() if name.startswith('mlp1.')}
    merged = {**theirs, **{name.removeprefix('model.'): value for name, value in state.items()}}
    for name, weight in theirs.items():
        if name.startswith('language_model.') and name.endswith(('wqkv.weight', 'wo.weight', 'w2.weight')):
            module = name.removesuffix('.weight')
            a, b = torch.randn(3, weight.shape[1]), torch.randn(weight.shape[0], 3)
            at = f'model.language_model.base_model.model.{module.removeprefix("language_model.")}'
            state |= {f'{at}.lora_A{default}.weight': a, f'{at}.lora_B{default}.weight': b}
            merged[name] = lora_delta('', weight, {'.lora_A.default.weight': a, '.lora_B.default.weight': b}, 6, 3)
    want = {name: value for step in layout.to_ours(merged) for name, value in step(merged.__getitem__).items()}
    return state, want


@pytest.mark.parametrize('kind', ['file', 'folder'])
@pytest.mark.parametrize('default', ['.default', ''])
def test_lora_on_packed_rows_is_split_exactly(tmp_path, kind, default):
    config = model_config()
    state, want = internvl_state(config, default)
    path, model = saved(tmp_path / 'iter_500.pth', state, kind), built(config)
    start = InitFrom(str(path), config)
    start.before_tune(model)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, want[name], atol=1e-6, rtol=1e-6)
    assert {name.split('.')[0] for name in start.filled} == {'projector', 'llm'}
    shapes = InitFrom(str(path), config, shapes_only=True)
    shapes.before_tune(build_meta(config))
    assert shapes.filled == start.filled
    only = InitFrom({'path': str(path), 'parts': ['projector']}, config)
    only.before_tune(built(config))
    assert {name.split('.')[0] for name in only.filled} == {'projector'}


def test_it_becomes_a_model_directory(tmp_path):
    """The way that the error message names: ``init_from`` in a config, and no checkpoint."""
    config = model_config()
    state, want = internvl_state(config)
    base = make_base(tmp_path / 'base', config, 'official', encoder=make_encoder())
    path = saved(tmp_path / 'iter_500.pth', state, 'file')
    made = convert({'model': config, 'pretrained': str(base), 'init_from': str(path)}, None, tmp_path / 'out')
    import mmft

    for name, value in mmft.load(made.path)[0].named_parameters():
        torch.testing.assert_close(value, want[name], atol=1e-6, rtol=1e-6)


def test_llava_under_its_names(tmp_path):
    config = llava_config('Llama')
    own = {name: value.detach() + 1 for name, value in built(config).named_parameters()}
    names = {'llm.lm.': 'llm.', 'vision.tower.': 'visual_encoder.vision_model.', 'projector.mlp.': 'projector.model.'}
    state = {theirs + name.removeprefix(ours): value for name, value in own.items()
             for ours, theirs in names.items() if name.startswith(ours)}  # fmt: skip
    assert len(state) == len(own)
    model = built(config)
    InitFrom(str(saved(tmp_path / 'iter_9.pth', state, 'file')), config).before_tune(model)
    assert all(torch.equal(value, own[name]) for name, value in model.named_parameters())


def test_lora_whose_scale_nothing_says(tmp_path):
    config = model_config()
    state, _ = internvl_state(config)
    torch.save({'state_dict': state, 'meta': {**META, 'cfg': 'x'}}, tmp_path / 'iter_500.pth')
    with pytest.raises(CheckpointError, match=r'(?s)lora_alpha.*xtuner convert pth_to_hf'):
        InitFrom(str(tmp_path / 'iter_500.pth'), config).before_tune(built(config))


def test_pieces_of_zero_3(tmp_path):
    folder = tmp_path / 'iter_500.pth'
    folder.mkdir()
    torch.save({'module': {}}, folder / 'zero_pp_rank_0_mp_rank_00_model_states.pt')
    with pytest.raises(CheckpointError, match=r'(?s)ZeRO-3.*zero_to_fp32\.py'):
        InitFrom(str(folder), model_config()).before_tune(built(model_config()))


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_where_a_checkpoint_of_mmft_is_wanted(tmp_path, kind):
    path = saved(tmp_path / 'iter_500.pth', internvl_state(model_config())[0], kind)
    for reader in (read_checkpoint, lambda path: convert({'model': model_config()}, path, tmp_path / 'out')):
        with pytest.raises(CheckpointError, match=r'(?s)XTuner.*init_from') as error:
            reader(path)
        assert 'weights_only' not in str(error.value)


class Touch:
    """Runs a program when it is unpickled by whoever trusts the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f'open({str(self.path)!r}, "w")',)


def test_nothing_in_a_foreign_file_runs(tmp_path):
    mark, path = tmp_path / 'mark', tmp_path / 'iter_500.pth'
    state = internvl_state(model_config())[0]
    torch.save({'state_dict': state, 'meta': META, 'message_hub': Touch(mark)}, path)
    InitFrom(str(path), model_config()).before_tune(built(model_config()))
    assert not mark.exists()


FILES = {
    'XTuner': ('c.py', 'from xtuner.model import InternVL_V1_5\nmodel = dict(type=InternVL_V1_5)\n'),
    'TRL': ('sft.py', 'import trl\n'),
    'LLaVA': ('finetune_lora.sh', 'deepspeed llava/train/train_mem.py --lora_enable True\n'),
    'InternVL': ('x.sh', 'torchrun internvl/train/internvl_chat_finetune.py\n'),
    'ms-swift': ('sft.sh', 'swift sft --model OpenGVLab/InternVL2-2B\n'),
    'LLaMA-Factory': ('x.yaml', 'stage: sft\nfinetuning_type: lora\nmodel_name_or_path: llava-hf/llava-1.5-7b-hf\n'),
    'DeepSpeed': ('zero3.json', '{"zero_optimization": {"stage": 3}}'),
    'a script': ('x.bash', 'echo 1\n'),
}


@pytest.mark.parametrize('tool', FILES)
def test_configs_of_other_tools(tmp_path, tool):
    name, text = FILES[tool]
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf'(?s){tool}.*to do'):
        load_config(str(tmp_path / name))
