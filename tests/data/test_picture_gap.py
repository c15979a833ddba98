"""What stands between a picture and the text after it: as LLaVA tokenizes it, in training, in prompts and in exports.

LLaVA tokenizes each stretch of text between two pictures by itself. A Llama tokenizer with ``legacy=False`` begins such
a stretch with a '▁' of its own, but not before a special token.
"""

from __future__ import annotations

import itertools
import random

import pytest
from PIL import Image

from mmft.data import ChatEncoder, load_tokenizer
from mmft.data.text.special_tokens import add_special_tokens
from mmft.data.text.tokenizers import LEADING_SPACE
from mmft.structures import IGNORE_INDEX
from tests.helpers import GOLDEN

TOKENIZERS = ('llama_nonlegacy', 'phi3_rstrip', 'phi3_norstrip', 'llama_legacy', 'qwen2')
TEMPLATES = ('vicuna_v1', 'chatml', 'chatml_newline', 'plain', 'llava_llama_2', 'mistral', 'llama3', 'phi3')
ADDED = (
    '<|im_start|>', '<|im_end|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>', '<ref>', '</s>',
    '<|system|>', '<|user|>', '<|assistant|>', '<|end|>',
)  # fmt: skip
QUESTIONS = (
    '<image>', '<image>\nWhat?', 'What? <image>', 'a<image>b<image>', '<image><image>', '<image><s> and </s>',
    '<image> </s>x', '<image><ref>dish', '<image>  two', '<ref><image><ref>',
)  # fmt: skip
ANSWERS = ('dish', '<s> and </s>', ' dish', '<ref>dish')
SYSTEMS = (None, '', 'Be kind.', ' x', '<ref>')
TILE = Image.new('RGB', (8, 8))


def make(kind: str, template: str, images_first: bool) -> ChatEncoder:
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / kind)
    add_special_tokens(tokenizer, ADDED)
    processor = {'type': 'Resize', 'tile_size': 8}
    return ChatEncoder(
        tokenizer, template, processor, 1, image_start='', image_token='<image>', image_end='',
        images_first=images_first, add_tokens=True,
    )  # fmt: skip


def conversations(encoder):
    """(messages, whether an answer follows) of one and two turns."""
    plain = encoder.template.caption_only
    every = list(itertools.product(QUESTIONS, ANSWERS, SYSTEMS))
    for question, answer, system in random.Random(0).sample(every, 24):
        if encoder.template.system is None and system is not None:
            continue
        first = [] if system is None else [{'role': 'system', 'content': system}]
        first.append({'role': 'user', 'content': question})
        yield first, True
        talk = [*first, {'role': 'assistant', 'content': answer}]
        yield talk, False
        if not plain:
            yield [*talk, {'role': 'user', 'content': question}], True


def encoded(encoder, messages, generate):
    pictures = sum(turn['content'].count('<image>') for turn in messages if turn['role'] == 'user')
    return encoder(messages, [TILE] * pictures, generate)


@pytest.mark.parametrize('images_first', [False, True])
@pytest.mark.parametrize('template', TEMPLATES)
@pytest.mark.parametrize('kind', TOKENIZERS)
def test_the_exported_jinja_leads_to_the_same_ids(kind, template, images_first):
    encoder = make(kind, template, images_first)
    encoder.tokenizer.chat_template = encoder.chat_template()
    for messages, generate in conversations(encoder):
        text = encoder.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
        ids = encoder.tokenizer.backend_tokenizer.encode(text).ids
        assert ids == encoded(encoder, messages, generate).input_ids.tolist(), messages


@pytest.mark.parametrize('template', TEMPLATES)
@pytest.mark.parametrize('kind', ['llama_nonlegacy', 'phi3_rstrip', 'phi3_norstrip'])
def test_stretches_are_tokenized_as_llava_does(kind, template):
    encoder = make(kind, template, False)
    tokenizer = encoder.tokenizer
    wants_space = tuple(tokenizer.init_kwargs[LEADING_SPACE])
    for messages, generate in conversations(encoder):
        ids = [tokenizer.bos_token_id]
        turns = encoder.template.normalise(messages, generate)
        for number, text in enumerate(encoder.template.text(turns, generate).split('<image>')):
            ids += [encoder.image_token_id] if number else []
            space = ' ' if text.startswith(wants_space) else ''
            ids += tokenizer.backend_tokenizer.encode(space + text, add_special_tokens=False).ids if text else []
        assert encoded(encoder, messages, generate).input_ids.tolist() == ids, messages


def test_nothing_that_is_not_in_the_caption_is_trained():
    encoder = make('llama_nonlegacy', 'plain', True)
    sample = encoder([{'role': 'user', 'content': '<image>'}, {'role': 'assistant', 'content': '<s> and </s>'}], [TILE])
    trained = sample.labels[sample.labels != IGNORE_INDEX].tolist()
    assert encoder.tokenizer.decode(trained, skip_special_tokens=False) == '<s> and </s>\n'
    assert trained[0] == encoder.tokenizer.bos_token_id
