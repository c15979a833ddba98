"""Answers come back as they were written: only control tokens go, whatever else a tokenizer marks as special."""

from __future__ import annotations

import json
import shutil

import pytest

from mmft.data import ChatEncoder, load_tokenizer
from mmft.data.text.special_tokens import add_special_tokens
from mmft.structures import IGNORE_INDEX
from tests.helpers import GOLDEN

TOKENIZERS = GOLDEN / 'tokenizers'
KINDS = {
    'internlm2': 'internlm2-chat',
    'llama_legacy': 'vicuna_v1',
    'llama_nonlegacy': 'vicuna_v1',
    'qwen2': 'Hermes-2',
    'phi3_norstrip': 'phi3-chat',
    'phi3_rstrip_additional': 'phi3-chat',
    'mpt': 'mpt',
}
TAGS = ('<ref>', '</ref>', '<box>', '</box>', '<quad>', '</quad>', '<mine>')
ANSWERS = (
    '<ref>dish</ref><box>[[1, 2, 3, 4]]</box>',
    'a <ref> b </ref> c <mine>é<mine> d',
    '肠粉 <quad>🍚</quad>.',
)


def make(kind: str) -> ChatEncoder:
    tokenizer = load_tokenizer(TOKENIZERS / kind)
    add_special_tokens(tokenizer, TAGS)
    return ChatEncoder(tokenizer, KINDS[kind], image_start='', image_token='<image>', image_end='', add_tokens=True)


def trained(encoder: ChatEncoder, answer: str) -> list[int]:
    sample = encoder([{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': answer}])
    return sample.input_ids[sample.labels != IGNORE_INDEX].tolist()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('answer', ANSWERS)
def test_an_answer_comes_back_as_it_was_written(kind, answer):
    """Legacy Llama tokenizers write a space of their own after a tag: it is not in the text."""
    encoder = make(kind)
    assert encoder.decode(trained(encoder, answer)) == answer


@pytest.mark.parametrize('kind', KINDS)
def test_control_tokens_go(kind):
    encoder = make(kind)
    template, tokenizer = encoder.template, encoder.tokenizer
    texts = [*(template.system or ()), *template.user, template.assistant]
    roles = [token for token in tokenizer.get_added_vocab() if any(token in text for text in texts)]
    names = [tokenizer.bos_token, tokenizer.unk_token, tokenizer.pad_token, '<image>', *roles]
    ids = [tokenizer.convert_tokens_to_ids(name) for name in names if name is not None]
    ids = [index for index in ids if index not in encoder.stop_token_ids]
    answer = trained(encoder, 'dish')[:-1]
    assert encoder.decode([*ids, *answer, *ids]) == 'dish'


@pytest.mark.parametrize('kind', ['llama_legacy', 'llama_nonlegacy', 'internlm2'])
def test_no_prompt_ends_with_an_end_token_that_the_tokenizer_appends(kind, tmp_path):
    """A program that generates from such a prompt gets an empty answer (vllm-project/vllm#7491)."""
    shutil.copytree(TOKENIZERS / kind, tmp_path / 'tok')
    file = tmp_path / 'tok/tokenizer_config.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'add_eos_token': True}))
    options = {'image_start': '', 'image_token': '<image>', 'image_end': '', 'add_tokens': True}
    plain = ChatEncoder(TOKENIZERS / kind, KINDS[kind], **options)
    appending = ChatEncoder(tmp_path / 'tok', KINDS[kind], **options)
    end = appending.tokenizer.eos_token_id
    question = [{'role': 'user', 'content': 'Hi'}]
    assert appending.prompt('Hi').input_ids.tolist() == plain.prompt('Hi').input_ids.tolist()
    assert appending.num_tokens(question, add_generation_prompt=True) == len(plain.prompt('Hi'))
    talk = [*question, {'role': 'assistant', 'content': 'Ho'}]
    assert appending(talk).input_ids.tolist() == [*plain(talk).input_ids.tolist(), end]
    assert appending(talk).labels.tolist() == [*plain(talk).labels.tolist(), IGNORE_INDEX]
