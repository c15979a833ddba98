"""A config that is named beside a checkpoint, compared with the one that the checkpoint holds."""

from __future__ import annotations

import pytest

from mmft.errors import CheckpointError
from mmft.export.trained_config import check_trained_model
from mmft.plain_json import config_json

CONFIG = {
    'model': {'type': 'VLM', 'vision': {'sizes': ((1, 2), (3, 4)), 'drop_path_rate': 0.1}, 'llm': {'eps': 1e-5}},
    'encoder': {'type': 'ChatEncoder', 'template': 'phi3-chat', 'tokenizer': '/a', 'tiler': {'sides': (1, 2)}},
    'tune': {'vision': 'frozen', 'llm': {'type': 'lora', 'r': 4, 'alpha': 8, 'dropout': 0.1}},
}


def check(model=None, encoder=None, stored=None, tune=None):
    model, encoder = {**CONFIG['model'], **(model or {})}, {**CONFIG['encoder'], **(encoder or {})}
    check_trained_model(model, encoder, config_json(CONFIG) if stored is None else stored, 'x.pth', tune)


def test_what_json_writes_otherwise_is_the_same(caplog):
    check()
    check({'llm': {'eps': 9.999999747378752e-06}})
    check({'vision': {'sizes': [[1, 2], (3, 4)], 'drop_path_rate': 0.5}})
    check(encoder={'tokenizer': '/moved', 'tiler': {'sides': [1, 2]}})
    check(stored={})
    assert not caplog.records


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'vision': {'sizes': ((1, 2), (3, 5))}}, r'model.vision.sizes: \[\[1, 2\], \[3, 4\]\] in training, '),
        ({'llm': {'eps': 1e-6}}, 'model.llm.eps: 1e-05 in training, 1e-06 in the config'),
        ({'llm': {'eps': 1e-5, 'heads': 2}}, 'model.llm.heads: None in training, 2 in the config'),
        ({'type': 'Other'}, "model.type: 'VLM' in training, 'Other' in the config"),
    ],
)
def test_another_model_is_refused(change, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        check(change)
    assert 'leave it out' in caught.value.fix


def test_another_encoder_is_warned_about(caplog):
    check(encoder={'template': 'Hermes-2', 'tokenizer': '/moved'})
    (record,) = caplog.records
    assert 'x.pth: its encoder is exported as it was in training' in record.message
    assert "encoder.template: 'phi3-chat' in training, 'Hermes-2' in the config" in record.message
    assert 'moved' not in record.message


def test_another_tune_is_warned_about(caplog):
    check(tune={'vision': 'frozen', 'llm': {'type': 'lora', 'r': 4, 'alpha': 8, 'dropout': 0.0}})
    assert not caplog.records
    check(tune={'vision': 'frozen', 'llm': {'type': 'lora', 'r': 4, 'alpha': 16}})
    (record,) = caplog.records
    assert 'x.pth: its tune is exported as it was in training' in record.message
    assert 'tune.llm.alpha: 8 in training, 16 in the config' in record.message
