"""Stages: a run starts from parts and from another run's weights, and its checkpoints stay complete in themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig

import mmft
from mmft.cli.configs import apply_options, load_config
from mmft.engine import Runner, validate_config
from mmft.engine.build import build_model
from mmft.engine.judging.config import find_problems
from mmft.engine.planning.dry_run import plan
from mmft.engine.planning.measure import make_plan
from mmft.engine.run_folder import read_checkpoint
from mmft.errors import CheckpointError, ConfigError
from mmft.export import convert
from tests.engine.tiny import write_tiny

SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a config, and the directories of a CLIP and a Llama."""
    folder = tmp_path_factory.mktemp('stages')
    path = write_tiny(folder)
    cfg = load_config(str(path))
    torch.manual_seed(5)
    CLIPVisionModel(CLIPVisionConfig(image_size=28, patch_size=7, **SIZES)).save_pretrained(folder / 'clip')
    llm = {key: value for key, value in cfg.model.llm.to_dict().items() if key != 'type'}
    AutoModelForCausalLM.from_config(LlamaConfig(**llm)).save_pretrained(folder / 'llm')
    return folder


def config(folder: Path, work_dir: Path, *options: str, **changes):
    cfg = load_config(str(folder / 'tiny.py'))
    cfg.model = dict(type='VLM', vision=dict(type='CLIP', image_size=28, patch_size=7, **SIZES),
                     projector=dict(type='MLP'), llm=cfg.model.llm.to_dict())  # fmt: skip
    cfg.pretrained = dict(vision=str(folder / 'clip'), llm=str(folder / 'llm'))
    cfg.encoder.tokenizer = load_config(str(folder / 'tiny.py')).encoder.tokenizer
    cfg.encoder.image_processor = dict(type='Resize', tile_size=28)
    cfg.work_dir = str(work_dir)
    cfg.val_dataloader = None
    cfg.train_cfg = dict(max_epochs=1)
    cfg.optim_wrapper.dtype = None
    cfg.optim_wrapper.paramwise_cfg = None
    for key, value in changes.items():
        cfg[key] = value
    apply_options(cfg, list(options))
    return cfg


@pytest.fixture(scope='module')
def aligned(folder: Path) -> Path:
    """The first stage: the projector, and the tower from layer 1 on."""
    tune = dict(vision=dict(type='full', from_layer=1), projector='full', llm='frozen')
    Runner.from_cfg(config(folder, folder / 'align', tune=tune)).train()
    return folder / 'align'


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_first_stage_says_which_layers_moved(aligned: Path, folder: Path) -> None:
    log = next(aligned.rglob('*.log')).read_text()
    # LLaVA's features are those of the last block but one: the last never runs.
    assert 'vision: layers 1 moved, 0, 2 did not' in log
    content = read_checkpoint(aligned / 'iter_3.pth')
    assert content['meta']['base']['path'] == {'vision': str(folder / 'clip'), 'llm': str(folder / 'llm')}
    assert content['meta']['initialised'] == []
    parts = {name.split('.')[0] for name in content['state_dict']}
    assert parts == {'vision', 'projector'}


def test_the_second_stage_holds_what_the_first_trained(aligned: Path, folder: Path, tmp_path: Path) -> None:
    before = read_checkpoint(aligned / 'iter_3.pth')['state_dict']
    lora = dict(vision='frozen', projector='full', llm=dict(type='lora', r=2, alpha=4, dropout=0.0))
    cfg = config(folder, tmp_path / 'run', init_from=str(aligned / 'last'), tune=lora, dtype='bfloat16')
    built = build_model(cfg)
    # What trains starts from the very values, not from their rounded copies; what is frozen is 16-bit.
    assert torch.equal(built.model.projector.mlp[0].weight, before['projector.mlp.0.weight'])
    name = 'vision.tower.encoder.layers.1.mlp.fc1.weight'
    assert torch.equal(built.model.get_parameter(name), before[name].bfloat16())
    assert set(built.initialised) == {key for key in before if key.startswith('vision')}

    cfg.dtype = 'float32'
    runner = Runner.from_cfg(cfg)
    runner.train()
    log = next((tmp_path / 'run').rglob('*.log')).read_text()
    assert f'started from {aligned / "iter_3.pth"}: ' in log
    content = read_checkpoint(tmp_path / 'run' / 'iter_3.pth')
    assert set(content['meta']['initialised']) == set(built.initialised)
    assert torch.equal(content['state_dict'][name], before[name])
    # Resumed without the first stage's file, and exported without it.
    cfg.init_from, cfg.train_cfg = 'work_dirs/gone', dict(max_epochs=2)
    with pytest.raises(ConfigError, match='nothing to start from at work_dirs/gone'):
        validate_config(cfg)
    cfg.resume = True
    validate_config(cfg)
    resumed = Runner.from_cfg(cfg)
    resumed.load_or_resume()
    now, then = weights(resumed.model), weights(runner.model)
    assert all(torch.equal(now[key], value) for key, value in then.items())
    convert(cfg, tmp_path / 'run' / 'iter_3.pth', tmp_path / 'out', layout='native')
    model, encoder = mmft.load(tmp_path / 'out')
    sample = encoder.prompt('What is this?', [next((folder / 'data').glob('*.png'))])
    given = {'input_ids': sample.input_ids[None], 'pixel_values': sample.pixel_values, 'mode': 'tensor'}
    with torch.no_grad():
        torch.testing.assert_close(model(**given), runner.model.eval()(**given), atol=1e-5, rtol=1e-5)


def test_frozen_random_weights_are_in_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    """A projector that starts at random and never trains is in no base."""
    cfg = config(folder, tmp_path, tune=dict(vision='frozen', projector='frozen', llm='full'))
    built = build_model(cfg)
    assert set(built.initialised) == {f'projector.mlp.{i}.{k}' for i in (0, 2) for k in ('weight', 'bias')}
    again = build_model(cfg, resumed=built.initialised)
    assert torch.equal(again.model.projector.mlp[0].weight, built.model.projector.mlp[0].weight)


def test_a_mixture_of_experts_starts_from_a_dense_mlp(aligned: Path, folder: Path, tmp_path: Path) -> None:
    dense = read_checkpoint(aligned / 'iter_3.pth')['state_dict']
    bin_file = tmp_path / 'mm_projector.bin'
    torch.save({f'model.mm_{k.replace(".mlp.", ".")}': v for k, v in dense.items() if 'projector' in k}, bin_file)
    for source in (str(aligned), str(bin_file), dict(path=str(aligned), parts=['projector'])):
        cfg = config(folder, tmp_path, init_from=source)
        cfg.model.projector = dict(type='MoEMLP', num_experts=3)
        model = build_model(cfg).model
        for expert in model.projector.experts:
            assert torch.equal(expert[0].weight, dense['projector.mlp.0.weight'])
    tower = 'vision.tower.encoder.layers.1.mlp.fc1.weight'
    assert not torch.equal(model.get_parameter(tower), dense[tower])  # of this one only the projector was wanted


def test_a_part_of_a_model_directory(folder: Path, tmp_path: Path) -> None:
    cfg = config(folder, tmp_path, tune=dict(projector='full', llm='frozen'))
    built = build_model(cfg)
    out = tmp_path / 'whole'
    runner = Runner.from_cfg(config(folder, tmp_path / 'run', tune=dict(projector='full', llm='full')))
    runner.train()
    convert(runner.cfg, tmp_path / 'run' / 'iter_3.pth', out, layout='hf')
    trained = weights(runner.model)
    cfg.init_from = dict(path=str(out), parts=['llm'])
    started = build_model(cfg)
    key = 'llm.lm.model.layers.0.mlp.up_proj.weight'
    assert torch.equal(started.model.get_parameter(key), trained[key])
    assert not torch.equal(started.model.get_parameter(key), built.model.get_parameter(key))
    assert {name.split('.')[0] for name in started.initialised} == {'llm'}


def test_what_does_not_fit_is_listed(aligned: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='nothing to start from'):
        build_model(config(folder, tmp_path, init_from=str(tmp_path / 'none')))
    with pytest.raises(ConfigError, match='no part is named'):
        build_model(config(folder, tmp_path, init_from=dict(path=str(aligned), parts=['projectr'])))
    cfg = config(folder, tmp_path, init_from=str(aligned), pretrained=None)
    cfg.model.vision.update(intermediate_size=64)
    with pytest.raises(CheckpointError) as error:
        build_model(cfg)
    assert 'mlp.fc1.weight: (48, 32) there, (64, 32) in the model' in str(error.value)
    lora = dict(vision='frozen', projector='full', llm=dict(type='lora', r=2, alpha=4))
    run = tmp_path / 'lora'
    Runner.from_cfg(config(folder, run, tune=lora)).train()
    with pytest.raises(CheckpointError, match='an adapter, which `tune` puts nowhere'):
        build_model(config(folder, tmp_path, init_from=str(run), tune=dict(llm='full')))
    build_model(config(folder, tmp_path, init_from=str(run), tune=lora))


def test_dry_run_of_parts(folder: Path, tmp_path: Path) -> None:
    cfg = config(folder, tmp_path, init_from=str(tmp_path / 'gone'))
    cfg.pretrained.llm = str(tmp_path / 'vicuna')
    cfg.pretrained_repo = dict(llm='lmsys/vicuna-7b-v1.5')
    text = plan(cfg)
    assert 'hf download lmsys/vicuna-7b-v1.5' in text
    assert 'nothing to start from' in text
    for projector in (dict(type='QFormer', num_queries=5, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=16), dict(type='MoEMLP'), dict(type='Linear')):  # fmt: skip
        cfg.model.projector = projector
        assert make_plan(cfg).memory.total > 0
        assert projector['type'] in plan(cfg)
    del cfg.encoder['image_processor']
    assert make_plan(cfg).load.tiles == 0
    assert 'tokens: a tile' not in plan(cfg)


def test_folders_of_tinyllava_factory(folder: Path, tmp_path: Path) -> None:
    """Its alignment leaves three folders; a projector alone, in its own folder or in the run's, is enough."""
    cfg = config(folder, tmp_path)
    model = build_model(cfg).model
    llm = {key: value for key, value in cfg.model.llm.to_dict().items() if key != 'type'}
    whole = {'model_type': 'tinyllava', 'connector_type': 'mlp2x_gelu', 'text_config': {'model_type': 'llama', **llm},
             'vision_config': dict(model_type='clip_vision_model', image_size=28, patch_size=7, **SIZES)}  # fmt: skip
    run = tmp_path / 'tiny-llava-pretrain'
    for name, part, ours in (
        ('language_model', 'llm.lm.', ''), ('vision_tower', 'vision.tower.', 'vision_model.'),
        ('connector', 'projector.mlp.', '_connector.'),
    ):  # fmt: skip
        (run / name).mkdir(parents=True)
        own = {ours + k.removeprefix(part): v + 1 for k, v in weights(model).items() if k.startswith(part)}
        torch.save(own, run / name / 'pytorch_model.bin')
    (run / 'config.json').write_text(json.dumps(whole))
    started = weights(build_model(config(folder, tmp_path, init_from=str(run))).model)
    assert all(torch.equal(started[name], value + 1) for name, value in weights(model).items())
    key = 'projector.mlp.0.weight'
    cfg = config(folder, tmp_path, pretrained={**cfg.pretrained, 'projector': str(run / 'connector')})
    validate_config(cfg)
    assert torch.equal(build_model(cfg).model.get_parameter(key), weights(model)[key] + 1)
    sources = [dict(path=str(run), parts=['projector']), str(run / 'connector'), str(run)]
    for source in sources:
        if source == str(run):
            shutil.rmtree(run / 'language_model')
        cfg = config(folder, tmp_path, init_from=source)
        validate_config(cfg)
        built = build_model(cfg)
        assert torch.equal(built.model.get_parameter(key), weights(model)[key] + 1)
        assert {name.split('.')[0] for name in built.initialised} <= {'projector'}


def test_the_folder_of_llava_s_first_stage(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where ``mm_use_im_start_end`` put the table of token vectors beside the projector."""
    model = build_model(config(folder, tmp_path)).model
    tensors = {f'model.mm_projector.{k}': v + 1 for k, v in model.projector.mlp.state_dict().items()}
    run = tmp_path / 'llava-pretrain'
    run.mkdir()
    torch.save({**tensors, 'model.embed_tokens.weight': torch.ones(9, 4)}, run / 'mm_projector.bin')
    (run / 'config.json').write_text(json.dumps({'model_type': 'llava', 'mm_vision_tower': 'openai/clip'}))
    with caplog.at_level('WARNING', 'mmft'):
        built = build_model(config(folder, tmp_path, init_from=str(run)))
    assert torch.equal(built.model.projector.mlp[0].weight, model.projector.mlp[0].weight + 1)
    assert 'left out model.embed_tokens.weight (9, 4)' in caplog.text


def refusals(cfg) -> tuple[str, str]:
    """What the start and the dry run say of ``init_from``."""
    with pytest.raises((CheckpointError, ConfigError)) as error:
        build_model(cfg)
    (wrong,) = find_problems(cfg).wrong
    return str(error.value), wrong


def test_the_dry_run_compares_shapes_as_the_start_does(aligned: Path, folder: Path, tmp_path: Path) -> None:
    assert find_problems(config(folder, tmp_path, init_from=str(aligned))).error is None
    other = config(folder, tmp_path, init_from=str(aligned))
    other.model.projector = dict(type='Linear')
    started, planned = refusals(other)
    assert started == planned
    assert 'projector.mlp.2.weight: not in the model' in planned
    assert 'make model.projector what the weights were trained with; or take the parts that fit' in planned
    assert planned.endswith("parts=['vision'])")
    assert planned in plan(other)
    other.init_from = dict(path=str(aligned), parts=['vision'])
    assert find_problems(other).error is None

    unknown = config(folder, tmp_path, init_from=dict(path=str(aligned), parts=['projectr']))
    assert len(set(refusals(unknown))) == 1
    nothing = config(folder, tmp_path, init_from=dict(path=str(aligned), parts=['llm']))
    started, planned = refusals(nothing)
    assert started == planned
    assert "holds nothing of llm\n  expected: some of the parts that it holds: ['projector', 'vision']" in planned


def test_the_dry_run_compares_adapters_and_directories(folder: Path, tmp_path: Path) -> None:
    lora = dict(vision='frozen', projector='full', llm=dict(type='lora', r=2, alpha=4))
    run, out = tmp_path / 'lora', tmp_path / 'out'
    Runner.from_cfg(config(folder, run, tune=lora)).train()
    assert find_problems(config(folder, tmp_path, init_from=str(run), tune=lora)).error is None
    started, planned = refusals(config(folder, tmp_path, init_from=str(run), tune=dict(llm='full')))
    assert started == planned
    assert 'an adapter, which `tune` puts nowhere' in planned
    assert 'adapt the same parts in `tune`' in planned
    assert planned.endswith("parts=['projector'])")
    wider = config(folder, tmp_path, init_from=str(run), tune={**lora, 'llm': dict(type='lora', r=3, alpha=4)})
    started, planned = refusals(wider)
    assert started == planned
    assert 'lora_A.default.weight: (2, 32) there, (3, 32) in the model' in planned

    convert(config(folder, run, tune=lora), run / 'iter_3.pth', out, layout='hf')
    assert find_problems(config(folder, tmp_path, init_from=str(out))).error is None
    other = config(folder, tmp_path, init_from=str(out), pretrained=None)
    other.model.llm.intermediate_size = 80
    started, planned = refusals(other)
    assert started == planned
    assert 'up_proj.weight: (48, 32) there, (80, 32) in the model' in planned
    assert 'make model.llm what' in planned


def test_a_hub_name_as_init_from(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    cfg.init_from = 'liuhaotian/llava-v1.5-7b'
    with pytest.raises(CheckpointError) as error:
        build_model(cfg)
    assert 'nothing to start from at liuhaotian/llava-v1.5-7b' in str(error.value)
    assert 'It may be the name of a model on a hub' in str(error.value)
    assert 'hf download liuhaotian/llava-v1.5-7b --local-dir pretrained/llava-v1.5-7b' in str(error.value)
    assert find_problems(cfg).missing == [str(error.value)]
    cfg.init_from = 'work_dirs/align'  # where the configs expect an earlier stage
    assert 'on a hub' not in find_problems(cfg).missing[0]
    assert 'run the earlier stage first' in find_problems(cfg).missing[0]


def test_what_a_part_gets_from_nowhere_is_said(
    aligned: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(folder, tmp_path, init_from=str(aligned))
    build_model(cfg)
    assert 'holds no values' not in caplog.text
    cfg.model.projector = dict(type='MLP', depth=3)
    build_model(cfg)
    assert 'holds no values for 2 tensors of the parts that start from it, such as projector.mlp.4.bias' in caplog.text
