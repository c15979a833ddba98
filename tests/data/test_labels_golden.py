"""Token ids and labels against OpenGVLab's preprocess functions, and what we do where those are wrong.

Numbers in brackets are the sections of the bug list that came with the golden data:
[3.1] a sample is masked whole when lengths of re-tokenized pieces do not add up: special-token text in a message, an
empty answer, an unanswered last turn; [3.2] an empty answer trains nothing and says nothing, and a role's own text is a
ValueError; [3.4] phi3's hard-coded offsets mask every multi-turn sample of a tokenizer that writes no leading '▁', and
the pad token's text is never a label; [3.5] internvl2_5 asserts the image count, the others ignore it; [3.6]
`preprocess` masks everything with its one remaining template; [3.7] a first turn of the assistant is dropped silently,
a system message is a KeyError and neighbours of one role an AssertionError.
"""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mmft.data.encoder import ChatEncoder
from mmft.data.pictures.tilers import ImageProcessor
from mmft.data.text.tokenizers import load_tokenizer
from mmft.errors import DataError
from mmft.structures import IGNORE_INDEX
from tests.helpers import GOLDEN, golden_json, golden_names

ROLES = {'human': 'user', 'gpt': 'assistant', 'system': 'system'}
FILES = golden_names('internvl_labels', 'preprocess*.json')
CONVERSATIONS = golden_json('internvl_labels', 'conversations.json')
Q = 4  # tokens per tile

# Conversations that we refuse, and why; the originals make a sample of them, of another text, or without labels.
REFUSED = {
    'empty_answer': 'empty answer',  # [3.1] [3.2]
    'last_turn_unanswered': 'last message',  # [3.1]; internlm even trains the question
    'fewer_placeholders_than_images': 'placeholder per picture',  # [3.5]
    'more_placeholders_than_images': 'placeholder per picture',  # [3.5]
}
REFUSED_IN_STRICT_ORDER = {'gpt_speaks_first': 'take turns', 'two_humans_in_a_row': 'take turns'}  # [3.7]


class OneRow(ImageProcessor):
    """A picture of w x h pixels becomes w blank tiles."""

    def grid(self, width, height, max_tiles=None):
        return width, 1

    def __call__(self, image, max_tiles=None):
        return torch.zeros(image.width, 3, self.tile_size, self.tile_size, dtype=torch.uint8)

    def to_dict(self):
        return {'type': 'OneRow', 'tile_size': self.tile_size}


@pytest.fixture(scope='module', params=FILES, ids=[name.removesuffix('.json') for name in FILES])
def case(request):
    _, template, tokenizer = request.param.removesuffix('.json').split('__')
    encoder = ChatEncoder(load_tokenizer(GOLDEN / 'tokenizers' / tokenizer), template, OneRow(1), Q)
    return encoder, golden_json('internvl_labels', request.param)


def encode(encoder, row, max_length=None):
    encoder.max_length, encoder.too_long = max_length, 'truncate'
    messages = [{'role': ROLES[turn['from']], 'content': turn['value']} for turn in CONVERSATIONS[row['id']]]
    pictures = [] if row['text_only'] else [Image.new('RGB', (count // Q, 1)) for count in row['num_image_token_list']]
    assert encoder.num_tokens(messages, [picture.size for picture in pictures]) > 0
    return encoder(messages, pictures)


def spans(sample):
    """Half-open ranges in which labels equal ids; elsewhere labels must be IGNORE_INDEX."""
    trained = sample.labels != IGNORE_INDEX
    assert torch.equal(sample.labels[trained], sample.input_ids[trained])
    edges = torch.diff(trained.int(), prepend=torch.zeros(1), append=torch.zeros(1)).nonzero().flatten().tolist()
    return [list(pair) for pair in zip(edges[::2], edges[1::2], strict=True)]


def bare(text):
    """Without whitespace: legacy Llama tokenizers add some after special tokens, Phi-3's role tokens swallow some."""
    return ''.join(text.split())


def trained(encoder, sample):
    return [bare(text) for text, flag in encoder.describe(sample) if flag]


def refusal(encoder, row):
    strict = {} if encoder.template.any_order else REFUSED_IN_STRICT_ORDER
    return {**REFUSED, **strict}.get(row['id'])


def masks_pad_text(encoder, row):
    """[3.4]: phi3 never trains '<|endoftext|>'; with its offsets one short it even shifts the second answer."""
    return encoder.template.name == 'phi3-chat' and row['id'] == 'eos_text_in_answer'


def test_ids_and_labels_are_the_originals_wherever_those_are_right(case):
    encoder, rows = case
    compared = 0
    for row in rows:
        wrong = row.get('error') or row.get('warned_mismatch') or refusal(encoder, row) or masks_pad_text(encoder, row)
        if wrong or row['model_max_length'] == 200:
            continue
        sample = encode(encoder, row)
        ids = row['input_ids']
        if not row['group_by_length']:  # padded to the maximum, or cut at it
            encoder.max_length = row['model_max_length']
            sample = encode(encoder, row, row['model_max_length'])
            assert set(ids[len(sample) :]) <= {encoder.pad_token_id}
            ids = ids[: len(sample)]
        assert sample.input_ids.tolist() == ids, row['id']
        assert spans(sample) == row['label_spans'], row['id']
        compared += 1
    assert compared >= (0 if encoder.template.name == 'internvl_zh' else 9)


def test_samples_cut_at_the_end_are_the_originals_unless_a_picture_or_every_label_goes(case):
    """The original [3.9] asserts that no </img> was cut and then takes a random other sample."""
    encoder, rows = case
    for row in (row for row in rows if row['model_max_length'] == 200):
        if row.get('error') or row.get('warned_mismatch') or refusal(encoder, row) or masks_pad_text(encoder, row):
            continue
        whole = encode(encoder, row)
        image = (whole.input_ids == encoder.image_token_id).nonzero()
        cuts_picture = len(image) and int(image[-1]) + 1 >= 200
        if len(whole) > 200 and (cuts_picture or (whole.labels[:200] == IGNORE_INDEX).all()):
            with pytest.raises(DataError, match='cutting would'):
                encode(encoder, row, 200)
        else:
            sample = encode(encoder, row, 200)
            assert sample.input_ids.tolist() == row['input_ids'], row['id']
            assert spans(sample) == row['label_spans'], row['id']


def test_where_the_original_masks_everything_by_mistake_the_answers_are_trained(case):
    """[3.1] [3.4] [3.6]: same token ids, and labels on every answer with its end token."""
    encoder, rows = case
    for row in rows:
        if not row.get('warned_mismatch') or refusal(encoder, row):
            continue
        sample = encode(encoder, row)
        assert sample.input_ids.tolist() == row['input_ids'], row['id']
        answers = [turn['value'] for turn in CONVERSATIONS[row['id']] if turn['from'] == 'gpt']
        assert trained(encoder, sample) == [bare(answer + encoder.template.end) for answer in answers], row['id']


def test_the_pad_tokens_text_in_an_answer_is_trained_like_any_other(case):
    """[3.4] of phi3, and [3.1] of the others. The original also hides it from attention: mask = ids != pad."""
    encoder, rows = case
    for row in (row for row in rows if row['id'] == 'eos_text_in_answer'):
        answers = ('It is </s> or <|endoftext|> here.', 'You are welcome!')
        expected = [bare(answer + encoder.template.end) for answer in answers]
        assert trained(encoder, encode(encoder, row)) == expected


def test_conversations_that_fit_no_picture_count_or_order_are_refused(case):
    encoder, rows = case
    for row in rows:
        if match := refusal(encoder, row):
            with pytest.raises(DataError, match=match):
                encode(encoder, row)


def test_texts_that_break_the_original_are_encoded(case):
    """[3.2] a role's text in a message, [3.7] a system message of the data's own."""
    encoder, rows = case
    for row in rows:
        if row['id'] in ('assistant_word_in_text', 'system_first') and row.get('error'):
            sample = encode(encoder, row)
            answer = CONVERSATIONS[row['id']][-1]['value']
            assert trained(encoder, sample) == [bare(answer + encoder.template.end)]
            text = ''.join(text for text, _ in encoder.describe(sample))
            assert ('You speak like a captain.' in text) == (row['id'] == 'system_first')
