"""The tokenizer of an export, as transformers reads it: tags stay in answers, prompts are padded on the left."""

from __future__ import annotations

import pytest
from tokenizers import processors
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from mmft.data import ChatEncoder
from mmft.layouts.tokenizer_files import write_tokenizer
from mmft.serve.backends.with_tags import with_tags
from tests.data.test_decode import ANSWERS, KINDS, make, trained
from tests.export.tiny import make_base, make_encoder, model_config, picture
from tests.export.tiny_llava import llava_config, llava_encoder


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    def write(kind):
        if kind not in made:
            encoder, directory = make(kind), tmp_path_factory.mktemp(kind)
            encoder.save_pretrained(directory)
            write_tokenizer(directory, encoder)
            made[kind] = encoder, directory, AutoTokenizer.from_pretrained(directory)
        return made[kind]

    made = {}
    return write


@pytest.mark.parametrize('kind', KINDS)
def test_transformers_spells_answers_as_the_encoder_does(kind, exported):
    """At once, and token by token as ``transformers serve`` does; also the encoder that the files give back."""
    encoder, directory, tokenizer = exported(kind)
    again = ChatEncoder.from_pretrained(directory)
    for answer in ANSWERS:
        ids, stream = trained(encoder, answer), DecodeStream([], skip_special_tokens=True)
        pieces = [stream.step(tokenizer.backend_tokenizer, index) or '' for index in ids]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == answer
        assert ''.join(pieces).strip() == answer
        assert again.decode(ids) == answer


@pytest.mark.parametrize('kind', KINDS)
def test_ids_stay_and_padding_is_on_the_left(kind, exported):
    encoder, directory, tokenizer = exported(kind)
    texts = [encoder.template.text([{'role': 'user', 'content': text}]) for text in ('Hi', *ANSWERS)]
    assert tokenizer(texts)['input_ids'] == encoder.tokenizer(texts)['input_ids']
    mask = tokenizer(texts, padding=True)['attention_mask']
    assert all(row == sorted(row) for row in mask)
    assert not all(all(row) for row in mask)
    assert ChatEncoder.from_pretrained(directory).prompt('Hi').input_ids.equal(encoder.prompt('Hi').input_ids)


@pytest.mark.parametrize('kind', KINDS)
def test_an_export_needs_no_second_correction(kind, exported, tmp_path):
    """It is served as it is, and exported again with the same files."""
    _, directory, _ = exported(kind)
    assert with_tags(directory, tmp_path / 'cache', lambda line: pytest.fail(line)) == directory
    again = ChatEncoder.from_pretrained(directory)
    again.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, again)
    assert (tmp_path / 'tokenizer.json').read_text() == (directory / 'tokenizer.json').read_text()


@pytest.mark.parametrize('wrapped', [False, True])
def test_nothing_is_appended_to_a_prompt(wrapped, tmp_path):
    encoder = make('llama_legacy')
    ends = processors.TemplateProcessing(
        single='<s> $A </s>', pair='<s> $A </s> <s>:1 $B:1 </s>:1', special_tokens=[('<s>', 1), ('</s>', 2)]
    )
    backend = encoder.tokenizer.backend_tokenizer
    backend.post_processor = processors.Sequence([processors.ByteLevel(), ends]) if wrapped else ends
    encoder.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, encoder)
    ids = AutoTokenizer.from_pretrained(tmp_path)('USER: Hi ASSISTANT:')['input_ids']
    assert ids[0] == 1
    assert ids == backend.encode('USER: Hi ASSISTANT:').ids[:-1]


@pytest.mark.parametrize('layout', ['hf', 'official', 'native'])
@pytest.mark.parametrize('family', ['internvl', 'llava'])
def test_every_layout_writes_it(family, layout, tmp_path):
    if family == 'llava':
        config, encoder = llava_config('Llama'), llava_encoder('Llama')
    else:
        config, encoder = model_config('InternLM2'), make_encoder('InternLM2')
    tokenizer = AutoTokenizer.from_pretrained(make_base(tmp_path / 'export', config, layout, encoder=encoder))
    assert tokenizer.padding_side == 'left'
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert special <= encoder.control_ids


def test_two_questions_of_different_lengths_are_answered_as_each_alone(tmp_path):
    """huggingface/transformers#31395: padding on the right makes the shorter question get another answer."""
    path = make_base(tmp_path / 'export', llava_config('Llama'), 'hf', encoder=llava_encoder('Llama'))
    processor = AutoProcessor.from_pretrained(path)
    model = AutoModelForImageTextToText.from_pretrained(path).eval()
    ask = ('What dish?', 'Look closely at the plate in the middle of the picture and tell me what dish it is')
    parts = [[{'type': 'image'}, {'type': 'text', 'text': text}] for text in ask]
    talks = [[{'role': 'user', 'content': content}] for content in parts]
    texts = [processor.apply_chat_template(talk, add_generation_prompt=True) for talk in talks]

    def answers(texts):
        images = [[picture()]] * len(texts)
        inputs = processor(text=texts, images=images, return_tensors='pt', padding=True)
        made = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
        return made[:, inputs['input_ids'].shape[1] :].tolist()

    assert answers(texts) == [answers([text])[0] for text in texts]
