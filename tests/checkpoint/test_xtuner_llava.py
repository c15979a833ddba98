"""XTuner's LLaVAs on Llama 3 and Phi-3 in the forms that it publishes: read, asked, trained and written."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor

import mmft
from mmft.checkpoint import read_layout
from mmft.data import ChatEncoder
from mmft.errors import ConfigError
from mmft.export import convert
from mmft.structures import IGNORE_INDEX
from tests.checkpoint.xtuner_forms import FORMS, MODELS, SLOTS, make, xtuner_ids
from tests.export.tiny import LORA, make_checkpoint, picture
from tests.export.tiny_llava import CLIP_MEAN, CLIP_STD

TURNS = [('<image>\nWhat is it?', 'A dish.'), ('Which one?', 'A "dish" of  that.')]
each = pytest.mark.parametrize('name', MODELS)
each_form = pytest.mark.parametrize('form', FORMS)


def messages(turns, system=''):
    roles = ('user', 'assistant')
    said = [{'role': role, 'content': text} for turn in turns for role, text in zip(roles, turn, strict=True)]
    return [*([{'role': 'system', 'content': system}] if system else []), *said]


def normalised(pixels):
    mean, std = (torch.tensor(three)[:, None, None] for three in (CLIP_MEAN, CLIP_STD))
    return (pixels / 255 - mean) / std


def loaded(form, name):
    """Model and encoder; of a form in parts the encoder is a config's."""
    if form.config is None:
        return mmft.load(form.source)
    model, _ = mmft.load(form.source, model=form.config)
    encoder = ChatEncoder(
        form.path, name, {'type': 'PadSquare', 'tile_size': 28, 'mean': CLIP_MEAN}, SLOTS, image_start='',
        image_token='<image>', image_end='', images_first=True, add_tokens=True,
    )  # fmt: skip
    model.image_token_id = encoder.image_token_id
    return model, encoder


@each_form
@each
def test_read_as_published(name, form, tmp_path, caplog):
    made = make(name, form, tmp_path)
    with caplog.at_level(logging.WARNING, 'mmft'):
        model, encoder = loaded(made, name)
    assert not [record for record in caplog.records if record.name.startswith('mmft')]
    assert encoder.template.name == name
    kind = {'transformers': 'CenterCrop', 'official': 'PadSquare', 'xtuner': 'PadSquare'}[form]
    assert type(encoder.image_processor).__name__ == kind
    assert (model.vision.select_layer, model.vision.select_feature) == (-2, 'patch')
    assert model.image_token_id == encoder.image_token_id == made.image
    assert model.llm.vocab_size == made.rows
    sample = encoder(messages(TURNS)[:1], [picture()], add_generation_prompt=True)
    ids = sample.input_ids[None]
    asked = ids.where(ids != made.image, made.theirs.config.image_token_index)
    theirs = {'input_ids': asked, 'pixel_values': normalised(sample.pixel_values)}
    with torch.no_grad():
        got = model.float()(ids, pixel_values=sample.pixel_values, mode='tensor')
        torch.testing.assert_close(got, made.theirs(**theirs).logits[..., : made.rows], atol=1e-5, rtol=1e-5)
        greedy = {'max_new_tokens': 8, 'do_sample': False}
        answer = model.generate(ids, sample.pixel_values, **greedy)
        want = made.theirs.generate(**theirs, **greedy)[:, ids.shape[1] :]
    assert answer.tolist() == want.tolist()


@each_form
@pytest.mark.parametrize('system', ['', 'Be brief.'])
@each
def test_token_ids_and_labels_are_xtuners(name, system, form, tmp_path):
    made = make(name, form, tmp_path)
    encoder = loaded(made, name)[1]
    tokenizer, image = Tokenizer.from_file(str(made.path / 'tokenizer.json')), encoder.image_token_id
    sample = encoder(messages(TURNS, system), [picture()])
    ids, labels = xtuner_ids(name, tokenizer, TURNS, image, system)
    assert sample.input_ids.tolist() == ids
    assert sample.labels.tolist() == labels
    # What is asked is what was trained.
    asked = encoder(messages(TURNS, system)[:-1], [picture()], add_generation_prompt=True).input_ids.tolist()
    assert asked == ids[: len(asked)]
    assert labels[len(asked)] != IGNORE_INDEX
    stops = ['<|eot_id|>', '<|end_of_text|>'] if name == 'llama3' else ['<|end|>', '<|endoftext|>']
    assert encoder.stop_token_ids == [tokenizer.token_to_id(text) for text in stops]


@pytest.mark.parametrize('layout', ['hf', 'official'])
@pytest.mark.parametrize('form', ['transformers', 'official'])
@each
def test_written_again_bit_by_bit(name, form, layout, tmp_path):
    """In its own layout it is the same file again; so it is by way of the other, but for rows that a table gained."""
    made = make(name, form, tmp_path)
    out = convert({'pretrained': str(made.path)}, None, tmp_path / 'out', layout=layout, check='full').path
    own = 'hf' if form == 'transformers' else 'official'
    back = out if layout == own else convert({'pretrained': str(out)}, None, tmp_path / 'back', layout=own).path
    want, got = (load_file(path / 'model.safetensors') for path in (made.path, back))
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert got[key].dtype == value.dtype == torch.float16
        assert torch.equal(got[key][: len(value)], value), key
    if layout == 'hf':
        theirs = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
        model, encoder = mmft.load(out)
        assert theirs.config.image_token_id == encoder.image_token_id < theirs.config.text_config.vocab_size
        ids = encoder(messages(TURNS)[:3], [picture()], add_generation_prompt=True).input_ids[None]
        processor = AutoProcessor.from_pretrained(out)
        text = processor.apply_chat_template(messages(TURNS)[:3], add_generation_prompt=True)
        assert processor(images=picture(), text=text)['input_ids'] == ids.tolist()
        pixels = torch.randint(256, (1, 3, 28, 28), dtype=torch.uint8)
        with torch.no_grad():
            got = model.float()(ids, pixel_values=pixels, mode='tensor')
            want = theirs(input_ids=ids, pixel_values=normalised(pixels)).logits
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('layout', ['hf', 'official'])
@each_form
@each
def test_trained_and_exported(name, form, layout, tmp_path):
    made = make(name, form, tmp_path)
    encoder = loaded(made, name)[1]
    config = made.config or read_layout(made.path).model_config
    cfg = {
        'model': config,
        'pretrained': made.source if made.config else str(made.path),
        'tune': LORA,
        'dtype': 'float32',
    }
    path, trained = make_checkpoint(tmp_path / 'epoch_1.pth', cfg, encoder)
    if (config['llm']['type'], layout) == ('Phi3', 'official'):
        with pytest.raises(ConfigError, match='the language model Phi3: it has Llama and Mistral'):
            convert(cfg, path, tmp_path / 'out', layout=layout)
        return
    out = convert(cfg, path, tmp_path / 'out', layout=layout, dtype='float32', check='full').path
    model, again = mmft.load(out)
    assert again.template == encoder.template
    sample = again(messages(TURNS), [picture()])
    assert sample.input_ids.tolist() == encoder(messages(TURNS), [picture()]).input_ids.tolist()
    ids, pixels = sample.input_ids[None], sample.pixel_values
    with torch.no_grad():
        got, want = (one.float()(ids, pixel_values=pixels, mode='tensor')[..., : made.rows] for one in (model, trained))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
