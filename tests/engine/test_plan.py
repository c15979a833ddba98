"""The report of --dry-run: right numbers, without weights, with or without data."""

from __future__ import annotations

import json
import re

import pytest
from mmengine.config import Config

from mmft.cli.configs import apply_options, load_config
from mmft.data import ChatDataset
from mmft.engine.build import build_encoder
from mmft.engine.planning.dry_run import GIB, make_plan, plan
from mmft.errors import ConfigError
from mmft.registry import MODELS
from tests.configs.shrink import shrink


def read(name: str, tmp_path) -> Config:
    cfg = load_config(name)
    cfg.work_dir = str(tmp_path)
    return cfg


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """The 2B LoRA config where there are neither weights nor data."""
    monkeypatch.chdir(tmp_path)
    return read('internvl2_2b_food_lora', tmp_path)


def test_parts_tokens_and_what_is_missing(cfg):
    text = plan(cfg)
    rows = {line.split()[0]: line for line in text.split('\n\n')[1].splitlines()}
    assert '304,012,288' in rows['vision']
    assert rows['vision'].endswith('frozen')
    assert '12,595,200' in rows['projector']
    assert '1,889,146,880' in rows['llm']
    assert rows['llm'].endswith('lora r=128 alpha=256 dropout=0.05')
    # r x (in + out) of q, k, v, o, gate, up, down, in 24 layers
    q, kv, f = 2048, 1024, 8192
    adapters = 24 * 128 * ((q + q) + 2 * (q + kv) + (q + q) + 3 * (q + f))
    assert f'{adapters:,}' in rows['llm']
    assert '2,205,754,368' in rows['total']
    assert '1, 3, 4, 5, 6, 7 tiles = 256, 768, 1,024, 1,280, 1,536, 1,792 tokens' in text
    assert 'batch_size 2 x accumulative_counts 8 x 1 GPU = 16 samples' in text
    assert 'train.jsonl is not there yet' in text
    assert 'hf download OpenGVLab/InternVL2-2B --local-dir pretrained/InternVL2-2B' in text


def test_dora_is_told_from_lora(cfg):
    cfg.tune.llm.dora = True
    assert 'lora (DoRA) r=128' in plan(cfg)


def test_the_rows_of_memory_add_up(cfg):
    made = make_plan(cfg)
    text = plan(cfg)
    total = float(re.search(r'^  total +([\d.]+) GiB', text, re.M)[1])
    assert total == pytest.approx(made.memory.total / GIB, abs=0.06)
    assert made.memory.total == sum(made.memory.rows().values())
    frozen = 304_012_288 + 1_889_146_880
    trained = sum(part.trained for part in made.weights.values())
    assert made.memory.weights == 2 * frozen + 4 * trained
    assert made.memory.optimizer == 8 * trained


@pytest.mark.parametrize(
    ('name', 'shown', 'options'),
    [
        ('internvl2_2b_food_lora', 'train_dataloader.batch_size=1', ['train_dataloader.batch_size=1']),
        ('internvl2_2b_food_lora', 'encoder.image_processor.max_tiles=3', ['encoder.image_processor.max_tiles=3']),
        ('internvl2_2b_food_lora', 'QLoRA', ['tune.llm.type=qlora']),
    ],
)
def test_what_is_offered_saves_what_it_says(name, shown, options, tmp_path):
    cfg = read(name, tmp_path)
    row = next(line for line in plan(cfg).splitlines() if line.strip().startswith(shown))
    offered = float(re.search(r'([\d.]+) GiB  saves', row)[1])
    apply_options(cfg, options)
    assert make_plan(cfg).memory.total / GIB == pytest.approx(offered, abs=0.06)


def test_full_training_is_offered_adapters_and_sharding(tmp_path):
    text = plan(read('internvl2_2b_food_full', tmp_path))
    for cure in ('LoRA: tune.llm', 'QLoRA: tune.llm', '--deepspeed zero2', '--deepspeed zero3'):
        assert cure in text
    sharded = read('internvl2_2b_food_full', tmp_path)
    sharded.deepspeed = 'zero2'
    assert (
        make_plan(sharded, gpus=8).memory.total < 0.5 * make_plan(read('internvl2_2b_food_full', tmp_path)).memory.total
    )
    assert '--deepspeed zero2_offload' in plan(sharded)


def test_lengths_are_those_of_the_data(tmp_path):
    cfg = shrink(load_config('internvl2_4b_food_lora'), tmp_path)
    encoder = build_encoder(cfg, MODELS.build(cfg.model.to_dict()))
    lengths = ChatDataset(tmp_path / 'data.jsonl', encoder=encoder).lengths
    found = re.search(r'data: 4 samples in \S+; the first 4 have 0 to 3 .*tiles, (\d+) to (\d+) .*tokens', plan(cfg))
    assert (int(found[1]), int(found[2])) == (lengths.min(), lengths.max())


def test_bad_data_is_said_and_does_not_stop_the_report(tmp_path):
    cfg = shrink(load_config('internvl2_2b_food_lora'), tmp_path)
    (tmp_path / 'data.jsonl').write_text('{broken\n', encoding='utf-8')
    text = plan(cfg)
    assert 'cannot be read' in text
    assert 'memory of one GPU' in text


def test_records_that_training_refuses_and_the_validation_set_are_said(tmp_path):
    cfg = shrink(load_config('internvl2_2b_food_lora'), tmp_path)
    good = (tmp_path / 'data.jsonl').read_text(encoding='utf-8')
    row = {'video': '1.mp4', 'conversations': [{'from': 'human', 'value': 'What?'}, {'from': 'gpt', 'value': 'It.'}]}
    (tmp_path / 'data.jsonl').write_text(good + json.dumps(row) + '\n', encoding='utf-8')
    (tmp_path / 'val.jsonl').write_text(json.dumps(row) + '\n' + good, encoding='utf-8')
    cfg.val_dataloader.dataset.ann_file = str(tmp_path / 'val.jsonl')
    text = plan(cfg)
    assert re.search(r'data: 4 samples in .*; 1 bad record, the first: .*data.jsonl:5: the key `video`', text)
    assert re.search(r'validation data: 4 samples in .*; 1 bad record, the first: .*val.jsonl:1: the key `video`', text)


def test_the_order_of_turns_is_judged_by_the_template_as_in_training(tmp_path):
    cfg = shrink(load_config('internvl2_2b_food_lora'), tmp_path)
    turns = [{'role': role, 'content': 'Hi'} for role in ('user', 'user', 'assistant')]
    (tmp_path / 'data.jsonl').write_text(json.dumps({'messages': turns}) + '\n', encoding='utf-8')
    assert 'data.jsonl:1: message 2 is of role' in plan(cfg)
    cfg.encoder.template = dict(type='internlm2-chat', any_order=True)
    text = plan(cfg)
    assert re.search(r'data: 1 sample in \S+; it has', text)
    assert 'bad record' not in text


def test_mistakes_are_reported(cfg):
    cfg.tune.llm.type = 'lorra'
    with pytest.raises(ConfigError, match='lorra'):
        plan(cfg)
    good = cfg.copy()
    good.tune.llm.type = 'lora'
    good.encoder.max_length = 512
    good.optim_wraper = {}
    text = plan(good)
    assert 'too short for a picture of 7 tiles' in text
    assert 'optim_wraper' in text


def test_cards_are_counted_and_what_cannot_be_is_not_offered(tmp_path):
    cfg = read('llava15_7b_boxes_lora', tmp_path)
    assert '4 GPUs and --deepspeed zero3' in plan(cfg, gpus=4)
    assert 'QLoRA: tune.llm.type=qlora ' in plan(cfg)
    cfg.deepspeed = 'zero3'
    text = plan(cfg, gpus=2)
    assert 'x 2 GPUs = 2 samples' in text
    assert 'QLoRA: tune.llm.type=qlora --deepspeed zero2' in text
    offered = float(re.search(r'--deepspeed zero2 +([\d.]+) GiB  saves', text)[1])
    apply_options(cfg, ['tune.llm.type=qlora', 'deepspeed=zero2'])
    assert make_plan(cfg, gpus=2).memory.total / GIB == pytest.approx(offered, abs=0.06)
    cfg.deepspeed = None
    assert 'zero3' not in plan(cfg).split('before it can train')[0], '4-bit weights cannot be sharded'
