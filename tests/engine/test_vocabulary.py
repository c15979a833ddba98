"""Tokens without a row in the table are found when a config is read; ``resize_embeddings`` adds and trains some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mmft
from mmft.cli.configs import load_config
from mmft.cli.main import main
from mmft.data.text.tokenizers import load_tokenizer, save_tokenizer
from mmft.engine.build import build_model
from mmft.engine.judging.config import validate_config
from mmft.errors import ConfigError
from mmft.export.gate import logits_of
from mmft.registry import LANGUAGE_MODELS
from tests.engine.tiny import TOKENIZER, write_tiny
from tests.export.tiny import make_base

TABLES = ('llm.lm.model.embed_tokens.weight', 'llm.lm.lm_head.weight')
LORA = dict(type='lora', r=4, alpha=8)


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config whose data has two new tokens, a tokenizer that has them, and base weights that do not."""
    folder = tmp_path_factory.mktemp('vocabulary')
    config = write_tiny(folder / 'run')
    data = folder / 'run' / 'data' / 'train.jsonl'
    data.write_text(data.read_text().replace('"dish 1', '"<OK>').replace('"dish ', '"<NG> '))
    tokenizer = load_tokenizer(TOKENIZER)
    tokenizer.add_tokens(['<NG>', '<OK>'])
    save_tokenizer(tokenizer, folder / 'tokenizer')
    model = load_config(str(config)).to_dict()['model']
    bases = {tied: make_base(folder / f'base_{tied}', _tied(model, tied), 'hf') for tied in (False, True)}
    return {'config': config, 'tokenizer': folder / 'tokenizer', 'bases': bases, 'model': model}


def _tied(model: dict, tied: bool) -> dict:
    return {**model, 'llm': {**model['llm'], 'tie_word_embeddings': tied}}


def options(place: dict[str, Any], tied: bool = False, llm: Any = LORA, resize: bool = True) -> list[str]:
    return [
        f'encoder.tokenizer={place["tokenizer"]}', f'pretrained={place["bases"][tied]}', f'tune.llm={llm}',
        f'+model.llm.tie_word_embeddings={tied}', f'resize_embeddings={resize}', 'val_dataloader=None',
        'default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=2', 'optim_wrapper.dtype=None',
        'work_dir=nowhere',
    ]  # fmt: skip


def test_found_when_the_config_is_read(place: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    config, given = str(place['config']), options(place, resize=False)
    for command in (
        ['train', config, '--dry-run'],
        ['train', config, '--work-dir', str(tmp_path)],
        ['check-data', config],
    ):
        assert main([*command, '--cfg-options', *given]) == 1
        said = ''.join(capsys.readouterr())
        for text in ('2 tokens beyond the table', "'<NG>' (id 1024)", 'vocab_size 1024', 'resize_embeddings=True'):
            assert text in said
    assert main(['check-data', config, '--cfg-options', *options(place)]) == 0


def test_a_token_that_add_tokens_makes_counts_too(place: dict[str, Any]) -> None:
    """But the image token does not: image features fill its places."""
    cfg = load_config(str(place['config']), ['work_dir=nowhere'])
    cfg.encoder.update(image_token='<picture>', image_start='', image_end='', add_tokens=True)
    validate_config(cfg)
    cfg.encoder.update(image_start='<a picture>')
    with pytest.raises(ConfigError, match=r"1 token beyond .*'<a picture>' \(id 1025\)|'<a picture>' \(id 1024\)"):
        validate_config(cfg)
    cfg.resize_embeddings = True
    validate_config(cfg)


@pytest.mark.parametrize('llm', ['frozen', LORA, dict(type='full', from_layer=1), 'full'])
def test_new_rows_are_the_mean_and_train(place: dict[str, Any], llm: Any) -> None:
    cfg = load_config(str(place['config']), options(place, llm=llm))
    before = mmft.load(place['bases'][False])[0]
    model, _, tune, _ = build_model(cfg)
    assert tune['llm']['embeddings'] is True
    assert model.llm.vocab_size == 1026
    for name in TABLES:
        new, old = (m.get_parameter(name) for m in (model, before))
        assert new.requires_grad
        assert new.dtype == torch.float32
        assert torch.equal(new[:1024], old)
        torch.testing.assert_close(new[1024:], old.mean(0).expand(2, -1))
    # Without new tokens nothing grows, and nothing more trains.
    cfg.encoder.tokenizer = str(TOKENIZER)
    model, _, tune, _ = build_model(cfg)
    assert model.llm.vocab_size == 1024
    assert 'embeddings' not in tune['llm']


@pytest.mark.parametrize('tied', [False, True])
def test_trained_resumed_exported_and_loaded(place: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    given = options(place, tied)
    run = ['train', str(place['config']), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *given]
    assert main(run) == 0
    last = tmp_path / 'run' / 'iter_6.pth'
    whole = torch.load(last, weights_only=True)['state_dict']
    tables = TABLES[:1] if tied else TABLES
    assert {name for name in whole if 'lora' not in name and name.startswith('llm')} == set(tables)
    assert not torch.equal(whole[TABLES[0]][1024], whole[TABLES[0]][1025])  # they began alike
    for file in (last, tmp_path / 'run' / 'last_checkpoint'):
        file.unlink()
    (tmp_path / 'run' / 'last_checkpoint').write_text('iter_4.pth')
    assert main([*run, 'resume=True']) == 0
    resumed = torch.load(last, weights_only=True)['state_dict']
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())

    found = {}
    for layout in ('hf', 'official', 'native'):
        out = tmp_path / layout
        command = ['pth_to_hf', str(place['config']), str(last), str(out), '--layout', layout, '--check', 'full']
        # With or without resize_embeddings: it is the checkpoint that has grown.
        assert main([*command, '--cfg-options', *(given if layout == 'hf' else given[:4])]) == 0
        config = json.loads((out / 'config.json').read_text())
        llm = config.get('text_config') or config.get('llm_config') or config['model']['llm']
        assert llm['vocab_size'] == 1026
        model, encoder = mmft.load(out)
        assert encoder.tokenizer.convert_tokens_to_ids('<NG>') == 1024
        assert len(model.get_parameter(TABLES[0])) == 1026
        torch.testing.assert_close(model.get_parameter(TABLES[0]), whole[TABLES[0]])
        found[layout] = logits_of(model, encoder.prompt('<NG> or <OK>?'))
    assert found['hf'].shape[1] == 1026
    for logits in found.values():
        torch.testing.assert_close(logits, found['hf'])

    # A grown directory is a base as any other: nothing grows a second time.
    again = load_config(str(place['config']), [*given, f'pretrained={tmp_path / "hf"}', 'model.llm.vocab_size=1026'])
    validate_config(again)
    assert build_model(again).model.llm.vocab_size == 1026


@pytest.mark.parametrize('kind', LANGUAGE_MODELS.names())
@pytest.mark.parametrize('tied', [False, True])
def test_rows_of_every_language_model(kind: str, tied: bool) -> None:
    """As transformers' own resizing, whose noise is a billionth of the variance."""
    sizes = dict(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                 num_key_value_heads=2, head_dim=8, pad_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    known = LANGUAGE_MODELS.get(kind).config_names()
    llm = LANGUAGE_MODELS.build(
        {'type': kind, 'tie_word_embeddings': tied, **{k: v for k, v in sizes.items() if k in known}}
    )
    embeds = torch.randn(1, 5, llm.hidden_size)
    before = llm.head(llm.hidden(embeds, None, None))
    llm.add_rows(43)
    llm.add_rows(41)  # never fewer
    after = llm.head(llm.hidden(embeds, None, None))
    assert after.shape[-1] == llm.vocab_size == llm.lm.config.vocab_size == 43
    torch.testing.assert_close(after[..., :40], before)
    assert (after[..., 40:] < before.max(-1, keepdim=True).values).all()
    assert llm.embed(torch.tensor([[42]])).shape == (1, 1, llm.hidden_size)
    first, head = llm.tables
    assert (first.weight is head.weight) == llm.lm.config.tie_word_embeddings
