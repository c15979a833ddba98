"""Token ids, labels and prompts against LLaVA, TinyLLaVA Factory and its Bench, and what we do where they are wrong.

Numbers in brackets are the sections of the bug list that came with the golden data. All three find the answers by
tokenizing pieces of the text again and adding up lengths, and mask a sample whole where that does not come out:
[4.4] LLaVA's MPT function never counts the last <|im_end|>: every ordinary sample; [5.6] an end token or 'ASSISTANT: '
in a message, or an empty answer; [5.7] the Bench's StableLM function: every sample whose pad token is its end token.
[4.3] Samples with a picture are cut after their labels are made. [4.7] `plain` needs one question with a picture and
one answer; the Factory instead repeats the picture for each turn, gives one to texts without, and trains its
placeholder. A first turn of the assistant is dropped without a word by all three.

[4.2] They make one of several pictures of a turn; the tests give our encoder messages that have one.
"""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mmft.data.batches.collate import PadCollator
from mmft.data.encoder import ChatEncoder
from mmft.data.pictures.tilers import Resize
from mmft.data.text.special_tokens import add_special_tokens
from mmft.data.text.templates import ChatTemplate, build_template
from mmft.data.text.text_encoder import TextEncoder
from mmft.data.text.tokenizers import load_tokenizer
from mmft.errors import DataError
from mmft.structures import IGNORE_INDEX, Sample
from tests.helpers import GOLDEN, golden_json, golden_names

CASES = ('llava_labels', 'tinyllava_labels', 'tinyllavabench_labels')
FILES = [f'{case}/{name}' for case in CASES for name in golden_names(case, '*__*.json')]
ROLES = {'human': 'user', 'gpt': 'assistant'}
PICTURE = -200  # of the originals, in input_ids
REFUSED = {'gpt_first': 'take turns', 'empty_answer': 'empty answer', 'unanswered': 'last message'}


def with_one(text):
    """The message with the first of its pictures."""
    first, *others = text.split('<image>')
    return '<image>'.join([first, ''.join(others)]) if others else text


def conversations(case):
    found = {}
    for name, record in golden_json(case, 'conversations.json').items():
        turns = record['conversations'] if isinstance(record, dict) else record
        found[name] = [{'role': ROLES[turn['from']], 'content': with_one(turn['value'])} for turn in turns]
    return found


@pytest.fixture(scope='module', params=FILES, ids=[name.removesuffix('.json') for name in FILES])
def case(request):
    directory, file = request.param.split('/')
    version, tokenizer = file.removesuffix('.json').split('__')
    name = tokenizer.removesuffix('_pad0')
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / name)
    template = 'stablelm' if name == 'stablelm' and version == 'phi' else version
    encoder = ChatEncoder(tokenizer, template, Resize(1), 1, image_start='', image_token='<image>', image_end='',
                          images_first=True, add_tokens=True)  # fmt: skip
    # Those of 'v1' were tokenized without the tokens that they name; 'plain' never writes them.
    plain = encoder.template.caption_only
    rows = [row for row in golden_json(directory, file) if plain or not row.get('mm_use_im_start_end')]
    return encoder, rows, conversations(directory)


def encode(encoder, messages, max_length=None):
    encoder.max_length, encoder.too_long = max_length, 'truncate'
    count = sum(turn['content'].count('<image>') for turn in messages if turn['role'] == 'user')
    return encoder(messages, [Image.new('RGB', (1, 1))] * count)


def spans(sample):
    """Half-open ranges in which labels equal ids; elsewhere labels must be IGNORE_INDEX."""
    trained = sample.labels != IGNORE_INDEX
    assert torch.equal(sample.labels[trained], sample.input_ids[trained])
    edges = torch.diff(trained.int(), prepend=torch.zeros(1), append=torch.zeros(1)).nonzero().flatten().tolist()
    return [list(pair) for pair in zip(edges[::2], edges[1::2], strict=True)]


def ids_of(encoder, row):
    return [encoder.image_token_id if index == PICTURE else index for index in row['input_ids']]


def refusal(encoder, row, messages):
    if encoder.template.caption_only and (len(messages) > 2 or '<image>' not in messages[0]['content']):
        return 'take turns' if row['id'] == 'gpt_first' else 'last message' if len(messages) == 1 else 'the caption'
    return REFUSED.get(row['id'])


def bare(text):
    return ''.join(text.split())


def trained(encoder, sample):
    return [bare(text) for text, flag in encoder.describe(sample) if flag]


def answers(encoder, messages):
    return [bare(turn['content'] + encoder.template.end) for turn in messages if turn['role'] == 'assistant']


def short_by_one(encoder, row):
    """[4.4]: where the check of lengths is skipped, the labels of each round lie one more token to the left."""
    return encoder.template.name in ('mpt', 'chatml') and row['model_max_length'] == 90


def test_ids_and_labels_are_the_originals_wherever_those_are_right(case):
    encoder, rows, texts = case
    compared = 0
    for row in rows:
        messages = texts[row['id']]
        wrong = row.get('error') or row.get('warned_mismatch') or short_by_one(encoder, row)
        if wrong or refusal(encoder, row, messages):
            continue
        cut = len(row['input_ids'])  # shorter than the whole only where the original cuts before it makes labels [4.3]
        if not row['label_spans']:
            assert PICTURE not in row['input_ids']
            with pytest.raises(DataError, match='nothing to learn'):
                encode(encoder, messages, cut)
            continue
        sample = encode(encoder, messages, cut)
        assert sample.input_ids.tolist() == ids_of(encoder, row), row['id']
        assert spans(sample) == row['label_spans'], row['id']
        compared += 1
    pad_is_end = any(row.get('warned_mismatch') for row in rows if row['id'] == 'image_first')  # [4.4] [5.7]
    assert compared >= (0 if pad_is_end else 6 if encoder.template.caption_only else 18)


def test_where_the_original_masks_everything_by_mistake_the_answers_are_trained(case):
    """[4.4] [5.6] [5.7]: the same token ids, and labels on every answer with its end token."""
    encoder, rows, texts = case
    masked = [row for row in rows if row.get('warned_mismatch') and row['model_max_length'] == 2048]
    masked = [row for row in masked if not refusal(encoder, row, texts[row['id']])]
    assert masked or encoder.template.caption_only
    for row in masked:
        sample = encode(encoder, texts[row['id']])
        assert sample.input_ids.tolist() == ids_of(encoder, row), row['id']
        assert trained(encoder, sample) == answers(encoder, texts[row['id']]), row['id']


def test_conversations_that_the_originals_drop_or_mend_silently_are_refused(case):
    encoder, rows, texts = case
    refused = [row for row in rows if refusal(encoder, row, texts[row['id']])]
    assert refused
    for row in refused:
        with pytest.raises(DataError, match=refusal(encoder, row, texts[row['id']])):
            encode(encoder, texts[row['id']])


def test_what_llavas_chatml_trains_where_it_does_not_check(case):
    """[4.4]: each round moves its labels one more token to the left; the end of the last answer is never trained."""
    encoder, rows, texts = case
    for row in (row for row in rows if short_by_one(encoder, row) and row['id'] == 'image_middle_three_turns'):
        ours = spans(encode(encoder, texts[row['id']]))
        assert row['label_spans'] == [[start - n, stop - n] for n, (start, stop) in enumerate(ours, 1)]


def test_prompts_are_the_factorys(case):
    """'pretrain' asks with its own placeholder '{{content}}' in the text, so that one has no prompt to be equal to."""
    encoder, rows, texts = case
    for row in (row for row in rows if 'prompt' in row and row['model_max_length'] == 2048):
        messages = texts[row['id']]
        if refusal(encoder, row, messages):
            continue
        placed = [{**turn, 'content': encoder.place_images(turn['content'])} for turn in messages]
        assert encoder.template.text(encoder.template.normalise(placed)) == row['prompt']
        if encoder.template.caption_only:
            assert '{{content}}' in row['eval_prompt']
            continue
        assert encoder.template.text(placed[:-1], True) == row['eval_prompt']
        count = sum(turn['content'].count('<image>') for turn in messages)
        asked = encoder(messages[:-1], [Image.new('RGB', (1, 1))] * count, add_generation_prompt=True)
        assert asked.input_ids.tolist() == ids_of(encoder, {'input_ids': row['eval_input_ids']})


PROMPTS = golden_json('llava_prompts', 'prompts.json')


@pytest.mark.parametrize('row', PROMPTS, ids=lambda row: f'{row["template"]}-{row["id"]}')
def test_prompts_are_llavas(row):
    messages = [{'role': ('user', 'assistant')[i % 2], 'content': text} for i, text in enumerate(row['messages'])]
    name = row['template'].removeprefix('v0_') if row['template'] == 'v0_plain' else row['template']
    if name in ('default', 'v0', 'llava_v0', 'v0_mmtag'):
        # '###' ends a turn of these oldest ones, which is several tokens: nothing to stop at. Only their text is here.
        system = row['prompt'].split('###')[0]
        template = ChatTemplate(name, system, ('', '###'), ('Human: ', '###'), 'Assistant:', lead=' ', end='###')
    elif name in ('llama_2', 'v1_mmtag'):  # other system messages
        system = row['prompt'].partition('<<SYS>>\n')[2].partition('\n<</SYS>>')[0] or row['prompt'].split(' USER:')[0]
        template = build_template({'type': 'llava_llama_2' if name == 'llama_2' else 'v1', 'system_message': system})
    else:
        template = build_template(name)
    if template.caption_only:
        # [4.7] The original cannot write an answer, and asks with the question that training has thrown away.
        assert row['prompt'] is None
        if len(messages) == 2 and '<image>' in messages[0]['content']:
            asked = template.text(template.normalise(messages[:-1], True), True)
            assert asked == '<image>' * messages[0]['content'].count('<image>')
        return
    assert template.text(messages) == row['prompt']
    assert template.text(messages[:-1], True) == row['prompt_for_generation']


@pytest.mark.parametrize('row', golden_json('llava_tokens', 'tokens.json')['tokenizer_image_token'], ids=str)
def test_text_around_pictures_is_tokenized_as_by_llava(row):
    """[4.8]: each stretch between pictures alone."""
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / row['tokenizer'])
    add_special_tokens(tokenizer, ['<image>'])
    encoder = TextEncoder(tokenizer, ChatTemplate('none', '', None, ('', ''), ''))
    encoder.divide_at('<image>')
    ids, flags = encoder.encode_text([(row['text'], False)])
    picture = tokenizer.convert_tokens_to_ids('<image>')
    assert [PICTURE if index == picture else index for index in ids.tolist()] == row['input_ids']
    assert not flags.any()


COLLATED = [golden_json('llava_tokens', 'tokens.json')['collator'], *golden_json('tinyllava_labels', 'collator.json')]


@pytest.mark.parametrize('row', COLLATED, ids=['llava', *(row['tokenizer'] for row in COLLATED[1:])])
def test_batches_are_the_originals(row):
    """LLaVA hides every token whose id is the pad token's; the Factory's detour by way of -300 keeps end tokens [5.6].
    Both cut at the maximum here, after labels are made [4.3]; ours does so while a sample is encoded."""
    samples = [Sample(torch.tensor(i['input_ids']), torch.tensor(i['labels'])) for i in row['instances']]
    batch = PadCollator(row['pad_token_id'])(samples)
    theirs = {key: torch.tensor(value) for key, value in row['out'].items()}
    width = theirs['input_ids'].shape[1]
    assert torch.equal(batch['input_ids'][:, :width], theirs['input_ids'])
    assert torch.equal(batch['labels'][:, :width], theirs['labels'])
    differs = batch['attention_mask'][:, :width] != theirs['attention_mask'].bool()
    assert (theirs['input_ids'][differs] == row['pad_token_id']).all()
    assert batch['attention_mask'].sum(1).tolist() == [len(sample) for sample in samples]
