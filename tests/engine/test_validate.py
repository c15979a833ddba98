"""All problems of a config are told at once, before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmft.engine.judging.config import Problems, find_problems, validate_config
from mmft.errors import ConfigError
from mmft.models.projectors import Linear
from tests.engine.tiny import TOKENIZER
from tests.engine.toy import toy_config

SIZES = dict(hidden_size=16, num_attention_heads=2, intermediate_size=32)
LLM = dict(type='Llama', vocab_size=1024, num_hidden_layers=2, **SIZES)
CLIP = dict(type='CLIP', num_hidden_layers=3, image_size=28, **SIZES)
QFORMER = dict(type='QFormer', num_queries=5, num_hidden_layers=1, **SIZES)
ENCODER = dict(type='ChatEncoder', template='internlm2-chat', tokenizer=str(TOKENIZER))
ANYRES, ONEVISION, RESIZE = (
    dict(image_processor=dict(type=kind, tile_size=28)) for kind in ('AnyResTiler', 'OneVisionTiler', 'Resize')
)


def config(tmp_path: Path, model: dict | None = None, **changes: Any) -> Config:
    """A config that could train, but for its data."""
    cfg = toy_config(tmp_path, **changes)
    own = dict(type='VLM', vision=dict(CLIP), projector=dict(type='MLP'), llm=dict(LLM))
    cfg.model = {**own, **(model or {})}
    return cfg


def problems(cfg: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        validate_config(cfg)
    return str(caught.value)


def test_a_good_config_passes(tmp_path: Path) -> None:
    assert find_problems(config(tmp_path)) == Problems(wrong=[], missing=[])


@pytest.mark.parametrize(
    ('model', 'changes', 'expected'),
    [
        ({'vision': dict(type='CLPI')}, {}, "did you mean 'CLIP'"),
        ({'projector': dict(type='Identity'), 'llm': {**LLM, 'hidden_size': 32}}, {}, 'Identity'),
        ({'projector': dict(type='PixelShuffleMLP'), 'vision': {**CLIP, 'image_size': 42}}, {}, 'PixelShuffleMLP'),
        ({'vision': {**CLIP, 'select_layer': -9}}, {}, 'select_layer -9'),
        ({'llm': {**LLM, 'num_attention_heads': 3}}, {}, 'Llama: transformers refuses this config'),
        ({'merge': dict(type='AnyResMerge'), 'projector': QFORMER}, {}, 'square'),
        ({}, {'tune': dict(vision=dict(type='full', from_layer=7))}, 'from_layer = 7'),
        ({}, {'tune': dict(llm=dict(type='lora', targets=['q_prj']))}, 'q_prj'),
        ({}, {'encoder': ANYRES}, "puts tiles together as 'flat'"),
        ({'merge': dict(type='AnyResMerge')}, {'encoder': RESIZE}, "puts tiles together as 'spatial_unpad'"),
        (
            {'merge': dict(type='AnyResMerge')},
            {'encoder': ONEVISION},
            'counts with shrink_to=9, but model.merge has',
        ),
        ({'merge': dict(type='AnyResMerge', shrink_to=9)}, {'encoder': ANYRES}, 'counts with shrink_to=None'),
        ({'merge': dict(type='AnyResMerge', newline=False)}, {}, 'unpad=True with newline=False, which no mode'),
        ({'merge': dict(type='AnyResMerge', unpad=False)}, {'encoder': ANYRES}, 'unpad=False with newline=True'),
        ({'llm': {**LLM, 'hidden_act': 'glu'}}, {}, "model.llm: Llama: transformers refuses this config: 'glu'"),
        ({'projector': dict(type='MLP', depth='2')}, {}, "model.projector: a projector MLP: depth '2'"),
        ({}, {'encoder': dict(image_processor=dict(type='Resize', tile_size=None))}, 'encoder.image_processor: Resize'),
        ({}, {'tune': dict(llm=dict(type=['lora']))}, 'tune'),
        ({'vision': None, 'projector': 'MLP'}, {}, 'model: vision = None'),
        ({'vision': None, 'projector': 'MLP'}, {}, "model: projector = 'MLP'"),
        ({}, {'init_from': 'work_dirs/nowhere'}, 'nothing to start from at work_dirs/nowhere'),
        ({}, {'encoder': {**ENCODER, 'type': 'ChatEncodr'}}, "did you mean 'ChatEncoder'"),
        ({}, {'encoder': {**ENCODER, 'max_lenght': 9}}, 'encoder.max_lenght: ChatEncoder has no such setting; did you'),
        ({}, {'encoder': dict(type='ChatEncoder')}, 'encoder.template is missing'),
        ({}, {'tune': dict(vision=['{"type":"lora"', '"r":4}'])}, 'tune.vision: type ['),
        ({}, {'load_from': 'a.pth'}, '`load_from` is now called `init_from`'),
    ],
)
def test_a_combination_that_cannot_work_says_why(tmp_path: Path, model: dict, changes: dict, expected: str) -> None:
    assert expected in problems(config(tmp_path, model, **changes))


def test_missing_weights_of_every_part_are_one_entry(tmp_path: Path) -> None:
    (tmp_path / 'here').mkdir()
    for name in ('config.json', 'model.safetensors'):
        (tmp_path / 'here' / name).write_text('{}')
    parts = dict(vision='pretrained/clip', llm='pretrained/vicuna', projector='pretrained/qformer.pth')
    repos = dict(vision='openai/clip-vit-large-patch14-336', llm='lmsys/vicuna-7b-v1.5')
    told = problems(config(tmp_path, pretrained=parts, pretrained_repo=repos))
    assert 'hf download openai/clip-vit-large-patch14-336 --local-dir pretrained/clip' in told
    assert 'hf download lmsys/vicuna-7b-v1.5 --local-dir pretrained/vicuna' in told
    assert 'put them into pretrained/qformer.pth' in told
    assert told.count('base weights') == 1
    assert not find_problems(config(tmp_path, pretrained=dict(llm=str(tmp_path / 'here')))).missing
    told = problems(config(tmp_path, pretrained=dict(vision=str(tmp_path / 'here'), language='x')))
    assert "names the part 'language'" in told
    assert 'encoder.tokenizer is missing' in told


def test_everything_at_once(tmp_path: Path) -> None:
    cfg = config(
        tmp_path,
        optim_wrappr=dict(),
        tune=dict(visoin='frozen', llm='half'),
        optim_wrapper=dict(
            optimizer=dict(lr=0.0), accumulative_counts=0, paramwise_cfg=dict(parts=dict(visual=dict(lr='x')))
        ),
        train_cfg=dict(max_iters=3),
        val_cfg=dict(max_sample=1),
        train_dataloader=dict(batch_size=0, dataset=dict(ann_file='nowhere.jsonl')),
        pretrained='pretrained/InternVL2-2B',
        pretrained_repo='OpenGVLab/InternVL2-2B',
    )
    with pytest.raises(ConfigError) as caught:
        validate_config(cfg)
    text = str(caught.value)
    for part in (
        "unknown key `optim_wrappr`; did you mean 'optim_wrapper'?",
        'tune.visoin',
        "tune.llm: type 'half'",
        'optimizer.lr = 0.0; expected a number above 0',
        'accumulative_counts = 0',
        "parts.visual: no such part; did you mean 'vision'?",
        "parts.visual.lr = 'x'",
        "['max_epochs', 'max_iters']",
        "val_cfg.max_sample: unknown; did you mean 'max_samples'?",
        'train_dataloader.batch_size = 0',
        'nowhere.jsonl does not exist',
        'hf download OpenGVLab/InternVL2-2B --local-dir pretrained/InternVL2-2B',
    ):
        assert part in text, part


def test_bad_values_of_all_parts_at_once(tmp_path: Path) -> None:
    """Each under the key of its part; those of the projector too, whose neighbours' widths are known all the same."""
    model = dict(
        vision={**CLIP, 'patch_size': 0, 'select_feature': 'patch'},
        projector=dict(type='MoEMLP', num_experts='4', top_k=1.5),
        llm={**LLM, 'num_key_value_heads': 0, 'rope_tetha': 1},
        merge=dict(type='AnyResMerge', dim=True),
    )
    encoder = {**ENCODER, 'template': 'nope', 'image_processor': dict(type='Resize', tile_size=0)}
    cfg = config(tmp_path, model, tune=dict(llm='half'), encoder=encoder)
    told = problems(cfg)
    for text in (
        'model.vision: CLIP: patch_size 0',
        "model.projector: MoEMLP: num_experts '4'",
        'model.projector: MoEMLP: top_k 1.5',
        'model.llm: Llama: num_key_value_heads 0',
        'model.llm.rope_tetha',
        'model.merge: AnyResMerge: dim True',
        "tune.llm: type 'half'",
        'encoder.image_processor: Resize: tile_size 0',
        "encoder.template: no chat template is named 'nope'",
    ):
        assert text in told
    assert told.startswith('9 problems')


@pytest.mark.parametrize('error', [KeyError('x'), IndexError('x'), OverflowError('x'), NotImplementedError('x')])
def test_whatever_a_part_raises_bears_its_key(error: Exception, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(self: Linear, in_dim: int, out_dim: int) -> None:
        raise error

    monkeypatch.setattr(Linear, '__init__', fail)
    told = problems(config(tmp_path, {'projector': dict(type='Linear')}))
    assert told.startswith(f'model.projector: it cannot be built: {type(error).__name__}')


def test_a_misspelt_setting_of_the_language_model(tmp_path: Path) -> None:
    cfg = config(tmp_path, {'llm': {**LLM, 'type': 'InternLM2', 'bias': True, 'rope_tetha': 1e6}})
    with pytest.raises(ConfigError, match=r"model\.llm\.rope_tetha: .*; did you mean 'rope_theta'\?$"):
        validate_config(cfg)


def test_variables_of_the_config_itself_are_no_problem(tmp_path: Path) -> None:
    assert find_problems(config(tmp_path, data_root='data/food/', prompt='x')).error is None


def test_missing_sections(tmp_path: Path) -> None:
    cfg = toy_config(tmp_path)
    cfg.optim_wrapper = None
    cfg.model = None
    with pytest.raises(ConfigError, match='`model` is missing') as caught:
        validate_config(cfg)
    assert '`optim_wrapper` is missing' in str(caught.value)
