"""The 22 TinyLLaVA-style experiments: each config says what its row of the published table says.

The table is written down here once more, by hand, and every number of a step is worked out from it: the samples of a
step are batch_size x accumulative_counts x the GPUs of the command in the config's docstring.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mmengine.config import Config

from mmft.engine.optim import group_of
from mmft.models.tuning import check_tune

ROOT = Path(__file__).parents[2] / 'configs' / 'tinyllava'


class Row(NamedTuple):
    """One line of the table; ``layer`` None: the tower is never opened."""

    llm: str
    tower: str
    projector: str
    layer: int | None
    data: str
    dtype: str
    align: tuple[float, int] | None
    tune: tuple[float, int] = (2e-5, 128)
    starts_from: int | None = None
    accumulated: int = 1
    lora: bool = False


LLAVA, SHARE = 'LLaVA-1.5', 'ShareGPT4V'
OPEN, CLOSED = (2e-5, 256), (1e-3, 256)
TABLE = {
    1: Row('TinyLlama', 'CLIP', 'MLP', 12, LLAVA, 'float16', OPEN),
    2: Row('TinyLlama', 'CLIP', 'MLP', 18, LLAVA, 'float16', OPEN),
    3: Row('TinyLlama', 'CLIP', 'MLP', 21, LLAVA, 'float16', OPEN),
    4: Row('TinyLlama', 'CLIP', 'MLP', None, LLAVA, 'float16', CLOSED),
    5: Row('TinyLlama', 'CLIP', 'MLP', 18, SHARE, 'float16', OPEN, starts_from=4, accumulated=2),
    6: Row('TinyLlama', 'CLIP', 'MLP', 12, SHARE, 'float16', OPEN, starts_from=4, accumulated=2),
    7: Row('TinyLlama', 'CLIP', 'MLP', 15, SHARE, 'float16', OPEN, starts_from=4, accumulated=2),
    8: Row('TinyLlama', 'CLIP', 'MoEMLP', 12, SHARE, 'float16', None, starts_from=6),
    9: Row('StableLM', 'CLIP', 'MLP', None, LLAVA, 'bfloat16', CLOSED),
    10: Row('StableLM', 'CLIP', 'MLP', 12, SHARE, 'bfloat16', OPEN),
    11: Row('StableLM', 'CLIP', 'MLP', None, SHARE, 'bfloat16', CLOSED),
    12: Row('MiniCPM', 'CLIP', 'MLP', None, LLAVA, 'bfloat16', CLOSED),
    13: Row('MiniCPM', 'CLIP', 'MLP', 12, SHARE, 'bfloat16', CLOSED),
    14: Row('TinyLlama', 'SigLIP', 'MLP', None, LLAVA, 'float16', CLOSED),
    15: Row('Phi', 'SigLIP', 'MLP', None, LLAVA, 'float16', CLOSED, (2e-4, 128), lora=True),
    16: Row('StableLM', 'SigLIP', 'MLP', None, LLAVA, 'bfloat16', CLOSED),
    17: Row('StableLM', 'SigLIP', 'MLP', 12, SHARE, 'bfloat16', CLOSED),
    18: Row('TinyLlama', 'SigLIP', 'MLP', 12, SHARE, 'float16', CLOSED),
    19: Row('Phi', 'SigLIP', 'MLP', None, LLAVA, 'float16', CLOSED),
    20: Row('Phi', 'SigLIP', 'MLP', 12, SHARE, 'float16', CLOSED),
    21: Row('Phi', 'CLIP', 'MLP', None, LLAVA, 'float16', CLOSED),
    22: Row('Phi', 'CLIP', 'MLP', 12, SHARE, 'float16', CLOSED),
}
LLMS = {
    'TinyLlama': ('Llama', 'TinyLlama/TinyLlama-1.1B-Chat-v1.0', 2048, 22),
    'StableLM': ('StableLM', 'stabilityai/stablelm-2-zephyr-1_6b', 2048, 24),
    'MiniCPM': ('MiniCPM', 'openbmb/MiniCPM-2B-dpo-bf16', 2304, 40),
    'Phi': ('Phi', 'microsoft/phi-2', 2560, 32),
}
TOWERS = {
    'CLIP': ('openai/clip-vit-large-patch14-336', 336, 24),
    'SigLIP': ('google/siglip-so400m-patch14-384', 384, 27),
}
ANNOTATIONS = {
    (LLAVA, 'align'): 'blip_laion_cc_sbu_558k',
    (LLAVA, 'tune'): 'llava_v1_5_mix665k',
    (SHARE, 'align'): 'share-captioner_coco_lcs_sam_1246k_1107',
    (SHARE, 'tune'): 'sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k',
}
STAGES = [(no, stage) for no, row in TABLE.items() for stage in ('align', 'tune') if stage == 'tune' or row.align]

each_row = pytest.mark.parametrize('no', TABLE)
each_stage = pytest.mark.parametrize(('no', 'stage'), STAGES, ids=lambda value: str(value))


@cache
def read(no: int, stage: str) -> Config:
    """The config of a stage; tests do not change it."""
    return Config.fromfile(ROOT / f'exp{no:02d}_{stage}.py')


def gpus(cfg: Config) -> int:
    """GPUs, as the command in the docstring says."""
    return int(re.search(r'--nproc_per_node=(\d+)', Path(cfg.filename).read_text(encoding='utf-8'))[1])


def samples_of_a_step(cfg: Config) -> int:
    return cfg.train_dataloader.batch_size * cfg.optim_wrapper.accumulative_counts * gpus(cfg)


def rates(cfg: Config) -> dict[str, float]:
    """The learning rate of every part that trains, worked out by hand."""
    parts = cfg.optim_wrapper.get('paramwise_cfg', {}).get('parts', {})
    found = {}
    for part, spec in check_tune(cfg.tune.to_dict()).items():
        if spec['type'] != 'frozen':
            assert set(parts.get(part, {})) <= {'lr'}
            found[part] = parts.get(part, {}).get('lr', cfg.optim_wrapper.optimizer.lr)
    return found


def test_there_is_a_file_for_every_stage_and_no_other():
    assert {path.stem for path in ROOT.glob('exp*.py')} == {f'exp{no:02d}_{stage}' for no, stage in STAGES}
    assert len(TABLE) == 22


@each_stage
def test_parts(no, stage):
    row, cfg = TABLE[no], read(no, stage)
    kind, repo, width, depth = LLMS[row.llm]
    assert (cfg.model.llm.type, cfg.model.llm.hidden_size, cfg.model.llm.num_hidden_layers) == (kind, width, depth)
    tower, side, blocks = TOWERS[row.tower]
    vision = cfg.model.vision
    assert (vision.type, vision.image_size, vision.num_hidden_layers) == (row.tower, side, blocks)
    assert vision.select_layer == -2
    assert cfg.model.projector.type == row.projector
    assert cfg.model.projector.depth == 2
    assert cfg.pretrained_repo.to_dict() == {'vision': tower, 'llm': repo}
    assert {part: Path(repo).name for part, repo in cfg.pretrained_repo.items()} == {
        part: Path(path).name for part, path in cfg.pretrained.items()
    }
    assert cfg.encoder.image_processor.tile_size == side


@each_stage
def test_data(no, stage):
    row, cfg = TABLE[no], read(no, stage)
    assert Path(cfg.train_dataloader.dataset.ann_file).parent.name == ANNOTATIONS[row.data, stage]
    assert (cfg.encoder.template == 'plain') == (stage == 'align')
    # The first stage sees pictures as the tower's own processor prepares them, the second padded to squares.
    square = {'CLIP': 'CenterCrop', 'SigLIP': 'Resize'}[row.tower]
    assert cfg.encoder.image_processor.type == (square if stage == 'align' else 'PadSquare')


@each_stage
def test_precision_and_schedule(no, stage):
    row, cfg = TABLE[no], read(no, stage)
    assert (cfg.dtype, cfg.optim_wrapper.dtype) == (row.dtype, row.dtype)
    assert cfg.train_cfg.max_epochs == 1
    assert cfg.param_scheduler.to_dict() == {'type': 'cosine', 'warmup_ratio': 0.03, 'min_lr_ratio': 0.0}
    assert cfg.optim_wrapper.optimizer.weight_decay == 0
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'


@each_stage
def test_rates(no, stage):
    row, cfg = TABLE[no], read(no, stage)
    lr = row.align[0] if stage == 'align' else row.tune[0]
    if stage == 'align':
        opened = {'vision', 'projector', 'llm'} if row.layer is not None else {'projector'}
        assert rates(cfg) == dict.fromkeys(opened, lr)
    else:
        assert rates(cfg) == {'projector': 2e-5, 'llm': lr}
    assert group_of('projector.mlp.0.weight') == 'projector'  # the names that `parts` goes by


@each_stage
def test_samples_of_a_step(no, stage):
    row, cfg = TABLE[no], read(no, stage)
    batch = row.align[1] if stage == 'align' else row.tune[1]
    assert samples_of_a_step(cfg) == batch
    assert cfg.optim_wrapper.accumulative_counts == (row.accumulated if stage == 'align' else 1)
    text = Path(cfg.filename).read_text(encoding='utf-8')
    assert f'{batch} samples a step on {gpus(cfg)} GPUs' in text
    counts = f'x {cfg.optim_wrapper.accumulative_counts} x {gpus(cfg)} GPUs = {batch} samples'
    assert f'batch_size={cfg.train_dataloader.batch_size})  # {counts}' in text


@each_stage
def test_what_trains(no, stage):
    row, cfg = TABLE[no], read(no, stage)
    tune = check_tune(cfg.tune.to_dict())
    if stage == 'align' and row.layer is not None:
        whole = {'type': 'full'}
        assert tune == {'vision': {'type': 'full', 'from_layer': row.layer}, 'projector': whole, 'llm': whole}
        assert row.layer < cfg.model.vision.num_hidden_layers - 1, 'a block that runs'
    elif stage == 'align':
        assert {part: spec['type'] for part, spec in tune.items()} == {
            'vision': 'frozen',
            'projector': 'full',
            'llm': 'frozen',
        }
    else:
        kinds = {'vision': 'frozen', 'projector': 'full', 'llm': 'lora' if row.lora else 'full'}
        assert {part: spec['type'] for part, spec in tune.items()} == kinds


@each_row
def test_where_it_starts(no):
    row = TABLE[no]
    if row.align:
        first = read(no, 'align').init_from
        assert first == (started_by(row.starts_from) if row.starts_from else None)
        assert read(no, 'tune').init_from == started_by(no)
    else:
        assert read(no, 'tune').init_from == started_by(row.starts_from)
        # What the row says of the tower happened in the stage that it starts from.
        assert read(row.starts_from, 'align').tune.vision.from_layer == row.layer


def started_by(no: int) -> str:
    """Where experiment ``no`` leaves its first stage: the work_dir that it has by default."""
    assert read(no, 'align').work_dir is None
    return f'work_dirs/exp{no:02d}_align'


@each_stage
def test_docstring(no, stage):
    row, cfg = TABLE[no], read(no, stage)
    title = Path(cfg.filename).read_text(encoding='utf-8').splitlines()[0]
    assert title.startswith(f'"""Experiment {no} of 22, {"alignment" if stage == "align" else "instruction tuning"}: ')
    assert row.llm in title
    assert row.tower in title


def test_lora_is_llavas():
    tune: dict[str, Any] = read(15, 'tune').tune.llm.to_dict()
    assert (tune['type'], tune['r'], tune['alpha']) == ('lora', 128, 256)


def test_the_mixture_of_experts_differs_from_number_6_in_its_projector_only():
    eight, six = (read(no, 'tune').to_dict() for no in (8, 6))
    assert eight['model'].pop('projector') != six['model'].pop('projector')
    assert eight == six
