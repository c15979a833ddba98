"""Every config of the tree: it is read, it builds at its full size, and shrunken it takes a real training step."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmft.checkpoint.build import build_meta
from mmft.cli.configs import apply_options
from mmft.engine import Runner, validate_config
from mmft.engine.build import build_dataloader, build_encoder, build_model
from mmft.engine.optim import build_optim_wrapper
from mmft.engine.planning import memory
from mmft.engine.planning.dry_run import GIB, MARGIN, make_plan
from mmft.errors import ConfigError
from mmft.models import VLM
from mmft.models.lora import is_lora_key
from mmft.models.tuning import part_of
from mmft.registry import ENCODERS, IMAGE_PROCESSORS, TEMPLATES

from .shrink import shrink

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(path for path in ROOT.rglob('*.py') if '_base_' not in path.parts)
NAMES = [path.stem for path in CONFIGS]
REQUIRED = {f'internvl2_{size}_food_{kind}' for size in ('1b', '2b', '4b', '8b', '26b') for kind in ('full', 'lora')}
REQUIRED |= {'internvl2_2b_food_qlora', 'internvl2_8b_food_qlora', 'internvl2_tiny_food_lora'}
INTERNVL = ('internvl2_40b', 'internvl2_llama3_76b', *(f'internvl2_5_{size}b' for size in (1, 2, 4, 8, 26, 38)))
INTERNVL += tuple(f'internvl3_{size}b' for size in (1, 2, 8, 9, 14, 38))
INTERNVL += tuple(f'internvl3_5_{size}b' for size in (1, 2, 4, 8, 14, 38))
REQUIRED |= {f'{base}_food_{kind}' for base in INTERNVL for kind in ('full', 'lora')}
REQUIRED |= {f'internvl2_{size}_{stage}' for size in ('2b', '8b') for stage in ('mlp', 'joint')}
REQUIRED |= {f'llava15_{size}_{kind}' for size in ('7b', '13b') for kind in ('align', 'full', 'lora', 'qlora')}
REQUIRED |= {f'llava15_7b_{task}_lora' for task in ('okvqa', 'boxes', 'codalm')}
REQUIRED |= {f'llava_{name}_food_{kind}' for name in ('llama3_8b', 'phi3_mini') for kind in ('full', 'lora')}
REQUIRED |= {f'llava_onevision_{size}_food_{kind}' for size in ('0_5b', '7b') for kind in ('full', 'lora')}
BASES = sorted(path for path in (ROOT / '_base_' / 'models').glob('*.py') if path.stem not in ('internvl2', 'llava'))

each_config = pytest.mark.parametrize('path', CONFIGS, ids=NAMES)


def read(name: str) -> Config:
    return Config.fromfile(ROOT / f'{name}.py')


def test_the_tree_holds_what_it_should():
    assert set(NAMES) >= REQUIRED
    assert len(NAMES) == len(set(NAMES)), 'bare names must be unique'


@each_config
def test_it_is_short_and_says_what_it_is(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    assert lines[0].startswith('"""')
    assert len(lines) <= 40


@each_config
def test_it_reads_and_only_weights_and_data_are_missing(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict()
    try:
        validate_config(cfg)
    except ConfigError as error:
        complaints = [line for line in str(error).splitlines() if line[:1].isdigit() or 'does not exist' in line]
        complaints = [line for line in complaints if 'problems in the config' not in line]
        assert complaints
        known = (
            'base weights',
            'pretrained',
            'init_from: nothing to start from',
            'dataset.ann_file',
            'dataset.image_root',
        )
        for line in complaints:
            assert any(name in line for name in known), line


@each_config
def test_it_builds_at_full_size_and_takes_what_it_says(path):
    cfg, said = Config.fromfile(path), docstring_of(path)
    cfg.deepspeed = said['deepspeed'] or cfg.get('deepspeed')
    made = make_plan(cfg, said['gpus'])
    assert all(p.is_meta for p in made.model.parameters())
    trained = {part_of(name) for name, p in made.model.named_parameters() if p.requires_grad}
    assert trained == {part for part, spec in made.tune.items() if spec['type'] != 'frozen'}
    check_encoder(cfg, made.model)
    if said['samples']:
        assert said['samples'] == made.load.samples * cfg.optim_wrapper.accumulative_counts * said['gpus']
        assert abs(said['gib'] - made.memory.total / GIB) < 1
        at_most = made.memory.total
        if said['longest']:
            assert said['longest'] == cfg.encoder.max_length
            load = replace(made.load, length=said['longest'])
            at_most = memory.estimate(made.model, made.tune, made.weights, load, made.setting).total
            assert abs(said['longest_gib'] - at_most / GIB) < 1
        assert at_most * MARGIN <= said['gpu_gb'] * GIB


def docstring_of(path: Path) -> dict[str, int | str | None]:
    """What the docstring of a config says of a step: samples, GPUs, memory, and the command."""
    text = path.read_text(encoding='utf-8').split('"""')[1]
    step = re.search(
        r'(\d+) samples? a step on (one GPU|\d+ GPUs) of (\d+) GB: about (\d+) GiB'
        r'(?: each)? at the peak \(`--dry-run` adds it up\)(?:,\n(\d+) with samples of ([\d,]+) tokens)?\.\n',
        text,
    )
    gpus, deepspeed = re.search(r'--nproc_per_node=(\d+)', text), re.search(r'--deepspeed (\w+)', text)
    said = {'gpus': int(gpus[1]) if gpus else 1, 'deepspeed': deepspeed[1] if deepspeed else None, 'samples': None}
    if step is None:
        assert 'tiny' in path.stem, 'a docstring says what a step takes'
        return said
    assert path.stem in text, 'the command names the config'
    assert step[2] == ('one GPU' if said['gpus'] == 1 else f'{said["gpus"]} GPUs')
    names = ('samples', 'gpu_gb', 'gib', 'longest_gib', 'longest')
    values = (step[1], step[3], step[4], step[5], step[6])
    return said | {name: value and int(value.replace(',', '')) for name, value in zip(names, values, strict=True)}


def check_encoder(cfg: Config, model: VLM) -> None:
    """The encoder's pictures are those that the model takes, and the largest leaves room for text."""
    assert cfg.encoder.template in TEMPLATES.names()
    assert cfg.encoder.type in ENCODERS.names()
    processor = IMAGE_PROCESSORS.build(cfg.encoder.image_processor.to_dict())
    # A tower whose positions are made for another side, DINOv2's, interpolates them; the others see their own.
    assert processor.tile_size == model.vision.image_size or cfg.model.vision.type == 'DINOv2'
    assert (model.merge is not None) == processor.arranges
    per_tile = model.num_image_tokens(processor.tile_size)
    longest = processor.tile_counts()[-1] * per_tile
    if processor.arranges:
        longest = max(processor.num_tokens(*size, per_tile) for size in processor.grid_pinpoints)
    assert longest + 256 <= (cfg.encoder.max_length or longest + 256)
    mean = cfg.encoder.image_processor.get('mean')
    assert mean is None or tuple(mean) == model.pixel_mean


@pytest.mark.parametrize('path', BASES, ids=lambda path: path.stem)
def test_a_model_base_builds_and_fits_its_encoder(path):
    cfg = Config.fromfile(path)
    if path.stem not in {base for config in CONFIGS for base in bases_of(config)}:  # else: see above
        check_encoder(cfg, build_meta(cfg.model.to_dict()))
    if isinstance(cfg.get('pretrained'), dict):
        assert set(cfg.pretrained) == set(cfg.pretrained_repo)
        assert {'vision', 'llm'} <= set(cfg.pretrained) <= {'vision', 'projector', 'llm'}


def bases_of(path: Path) -> set[str]:
    return set(re.findall(r'_base_\.models\.(\w+) import', path.read_text(encoding='utf-8')))


@each_config
def test_shrunken_it_takes_a_training_step(path, tmp_path):
    cfg = shrink(Config.fromfile(path), tmp_path)
    validate_config(cfg)
    runner = Runner.from_cfg(cfg)
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train()
    moved = {name for name, p in runner.model.named_parameters() if not torch.equal(p.detach(), before[name])}
    trained = {name for name, p in runner.model.named_parameters() if p.requires_grad}
    assert moved <= trained
    named = {id(p): name for name, p in runner.model.named_parameters()}
    idle = {named[id(p)] for p in runner.model.vision.idle_layers.parameters()}
    assert trained == {name for name in before if should_train(name, cfg.tune)} - idle - frozen_inside(runner.model)
    assert {part_of(name) for name in moved} == {part_of(name) for name in trained}
    assert (tmp_path / 'work').is_dir()
    logging.shutdown()


def should_train(name: str, tune: dict) -> bool:
    """What ``tune`` says of a parameter, read without the library's help."""
    spec = tune[part_of(name)]
    kind, first = (spec, 0) if isinstance(spec, str) else (spec['type'], spec.get('from_layer', 0))
    if kind == 'full' and first:
        layer = re.search(r'\.(?:layers?|blocks)\.(\d+)\.', name)
        return layer is not None and int(layer[1]) >= first
    return kind == 'full' or (kind in ('lora', 'qlora') and is_lora_key('.' + name))


def frozen_inside(model: VLM) -> set[str]:
    """Of MiniGPT-4's projector only the linear map trains."""
    if not getattr(model.projector, 'frozen_qformer', False):
        return set()
    return {name for name, _ in model.named_parameters() if name.startswith('projector.') and '.proj.' not in name}


def test_qlora_keeps_its_linear_weights_in_four_bits(tmp_path):
    lora, qlora = (build_model(shrink(read(f'internvl2_2b_food_{kind}'), tmp_path)).model for kind in ('lora', 'qlora'))
    name = 'llm.lm.model.layers.0.mlp.up_proj.base_layer.weight'
    plain, packed = dict(lora.named_parameters())[name], dict(qlora.named_parameters())[name]
    assert plain.dtype == torch.bfloat16
    assert packed.dtype == torch.uint8
    assert packed.numel() * 2 == plain.numel()
    assert dict(qlora.named_parameters())['llm.lm.lm_head.weight'].dtype == torch.bfloat16
    shapes = [{n: tuple(p.shape) for n, p in m.named_parameters() if p.requires_grad} for m in (lora, qlora)]
    assert shapes[0] == shapes[1]


def test_options_change_what_is_built(tmp_path):
    cfg = shrink(read('internvl2_2b_food_lora'), tmp_path)
    apply_options(
        cfg,
        [
            'optim_wrapper.optimizer.lr=5e-5',
            'optim_wrapper.optimizer.weight_decay=0.2',
            'optim_wrapper.optimizer.betas=(0.8,0.9)',
            'optim_wrapper.accumulative_counts=3',
            'train_dataloader.batch_size=1',
            'encoder.image_processor.max_tiles=1',
            'tune.llm.r=3',
        ],
    )
    model = build_model(cfg).model
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper.to_dict())
    assert {group['lr'] for group in wrapper.optimizer.param_groups} == {5e-5}
    assert {group['weight_decay'] for group in wrapper.optimizer.param_groups} <= {0.2, 0.0}
    assert {tuple(group['betas']) for group in wrapper.optimizer.param_groups} == {(0.8, 0.9)}
    assert wrapper.accumulative_counts == 3
    ranks = {p.shape[0] for name, p in model.named_parameters() if 'lora_A' in name}
    assert ranks == {3}
    loader = build_dataloader(cfg.train_dataloader, build_encoder(cfg, model), seed=0)
    batch = next(iter(loader))
    assert len(batch['input_ids']) == 1
    assert loader.dataset.encoder.image_processor.max_tiles == 1


def test_an_option_that_names_nothing_is_an_error():
    with pytest.raises(ConfigError, match='lr'):
        apply_options(read('internvl2_2b_food_lora'), ['optim_wrapper.optimizer.lrr=1e-3'])


@pytest.mark.parametrize(
    ('key', 'value'),
    [('optim_wraper', {}), ('pretraind', 'x'), ('tune.visoin', 'full'), ('train_cfg.max_epoch', 3)],
)
def test_misspelt_keys_are_caught(key, value):
    cfg = read('internvl2_2b_food_lora')
    cfg.merge_from_dict({key: value})
    with pytest.raises(ConfigError, match=key.rsplit('.', 1)[-1]):
        validate_config(cfg)


def test_the_demo_differs_from_the_2b_in_model_and_sizes_only():
    tiny, real = (read(f'internvl2_{size}_food_lora').to_dict() for size in ('tiny', '2b'))
    for cfg in (tiny, real):
        for key in ('model', 'pretrained', 'pretrained_repo', 'pretrained_command', 'dtype'):
            cfg.pop(key, None)
    assert set(tiny) == set(real)
    assert shape_of(tiny) == shape_of(real)


def shape_of(value):
    """A config with its numbers and switches blanked: what is left are parts, types and names."""
    if isinstance(value, dict):
        return {key: shape_of(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [shape_of(child) for child in value]
    return '#' if isinstance(value, (int, float)) or value in ('float32', 'bfloat16') else value
