"""Every registered chat template, with byte-level and sentencepiece tokenizers: labels, prompts, Jinja, pictures."""

from __future__ import annotations

import random
import re

import pytest
import torch
from PIL import Image

from mmft.data.encoder import ChatEncoder
from mmft.data.pictures.tilers import Resize
from mmft.data.text.conversation import check_conversation
from mmft.data.text.special_tokens import add_special_tokens, give_pad_token
from mmft.data.text.templates import ChatTemplate, build_template, register_template
from mmft.data.text.templates.jinja import to_jinja
from mmft.data.text.tokenizers import load_tokenizer
from mmft.errors import ConfigError, DataError
from mmft.registry import TEMPLATES
from mmft.structures import IGNORE_INDEX
from tests.helpers import GOLDEN

NAMES = sorted({build_template(name).name for name in TEMPLATES.names()})  # without second names
TOKENIZERS = ['qwen2', 'stablelm', 'gemma', 'llama_legacy', 'llama_nonlegacy', 'internlm2']
PICTURE = Image.new('RGB', (2, 2))
WORDS = ['a', 'The ', ' dog', '肠粉', '。', '🍜', 'é', '\n', ' ', '   ', '!', '<', '|', '12', '▁', 'ASSISTANT:']


def make(tokenizer, template, **options):
    """A LLaVA-style encoder: '<image>' itself is the image token, and nothing stands around it."""
    template = build_template(template)
    loaded = load_tokenizer(GOLDEN / 'tokenizers' / tokenizer)
    add_special_tokens(loaded, [template.end.strip(), *template.stop])
    options = {'image_start': '', 'image_token': '<image>', 'image_end': '', 'add_tokens': True, **options}
    return ChatEncoder(loaded, template, Resize(2), tokens_per_tile=3, **options)


@pytest.fixture(scope='module', params=[(t, n) for n in NAMES for t in TOKENIZERS], ids=lambda pair: '-'.join(pair))
def encoder(request):
    return make(*request.param)


def talk(*texts, system=None):
    head = [] if system is None else [{'role': 'system', 'content': system}]
    return head + [{'role': ('user', 'assistant')[i % 2], 'content': text} for i, text in enumerate(texts)]


def conversation(template):
    """Two rounds with pictures, or what a template for captions takes."""
    if template.caption_only:
        return talk('<image>\nWhat is it?', 'A dog 是 x')
    return talk('Look: <image>\n是?', 'A dog. x', '<image><image> Both?', ' Yes')


def pictures(messages):
    return [PICTURE] * sum(turn['content'].count('<image>') for turn in messages)


def trained_runs(sample):
    runs, last = [], -2
    for place in (sample.labels != IGNORE_INDEX).nonzero().flatten().tolist():
        runs += [[]] if place != last + 1 else []
        runs[-1].append(int(sample.labels[place]))
        last = place
    return runs


def loose(text):
    """Spaces compared loosely: internlm2-chat strips, legacy Llama tokenizers add one after a special token."""
    return ' '.join(text.replace('▁', ' ').split())


def test_there_are_templates():
    asked = {'vicuna_v1', 'llava_llama_2', 'plain', 'mpt', 'chatml', 'mistral', 'tinyllama', 'stablelm', 'phi', 'gemma'}
    assert asked | {'qwen2', 'internlm2-chat'} <= set(NAMES)


def test_the_originals_names_are_known_too():
    names = {'v1': 'vicuna_v1', 'pretrain': 'plain', 'chatml_direct': 'chatml', 'mistral_instruct': 'mistral'}
    for theirs, ours in names.items():
        assert build_template(theirs) == build_template(ours)
    assert build_template('v1').text(talk('Hi', 'x')) == build_template('vicuna_v1.1').text(talk('Hi', 'x'))
    with pytest.raises(ConfigError, match="'v1' exists"):
        register_template(build_template({'type': 'v1', 'name': 'mine'}), also=['v1'])
    assert 'mine' not in TEMPLATES.names()


def test_the_answers_and_their_ends_are_trained_and_nothing_else(encoder):
    rng = random.Random(f'{encoder.template.name} {len(encoder.tokenizer)}')
    for _ in range(5):
        rounds = 1 if encoder.template.caption_only else rng.randint(1, 3)
        texts = [''.join([*rng.choices(WORDS, k=rng.randint(1, 10)), 'x']) for _ in range(2 * rounds)]
        texts[0] = rng.choice(['<image>\n' + texts[0], texts[0] + '<image><image>'])
        messages = talk(*texts)
        sample = encoder(messages, pictures(messages))
        runs = trained_runs(sample)
        assert len(runs) == rounds
        for run, answer in zip(runs, texts[1::2], strict=True):
            text = encoder.tokenizer.decode(run, skip_special_tokens=False)
            assert loose(text) == loose(answer + encoder.template.end)
            assert run[-1] == encoder.stop_token_ids[0]
            assert loose(encoder.decode([*run, 5, 6])) == loose(encoder.decode(run))
        assert int((sample.input_ids == encoder.image_token_id).sum()) == 3 * len(pictures(messages))
        assert encoder.num_tokens(messages, [(2, 2)] * len(pictures(messages))) == len(sample)


def test_a_prompt_is_the_beginning_of_the_training_sample(encoder):
    messages = conversation(encoder.template)
    whole = encoder(messages, pictures(messages))
    prompt = encoder(messages[:-1], pictures(messages), add_generation_prompt=True)
    assert torch.equal(whole.input_ids[: len(prompt)], prompt.input_ids)
    trained = (whole.labels != IGNORE_INDEX).nonzero().flatten()
    assert int(trained[trained >= len(prompt)][0]) == len(prompt)


def test_the_exported_jinja_template_leads_to_the_same_ids(encoder):
    encoder.tokenizer.chat_template = encoder.chat_template()
    messages = conversation(encoder.template)[:-1]
    ids = encoder(messages, pictures(messages), add_generation_prompt=True).input_ids.tolist()
    text = encoder.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert encoder.tokenizer(text.replace('<image>', '<image>' * 3))['input_ids'] == ids
    parts = [{'type': 'image'}, {'type': 'text', 'text': 'What?'}]
    text = encoder.tokenizer.apply_chat_template(
        [{'role': 'user', 'content': parts}], tokenize=False, add_generation_prompt=True
    )
    ids = encoder.prompt('What?', [PICTURE]).input_ids.tolist()
    assert encoder.tokenizer(text.replace('<image>', '<image>' * 3))['input_ids'] == ids
    first, *rest = text.split('<image>')
    stretches = encoder.tokenizer(first)['input_ids']
    for stretch in rest:  # LMDeploy tokenizes what stands between pictures, and takes BOS off but for the first stretch
        part = encoder.tokenizer(stretch)['input_ids']
        stretches += [encoder.image_token_id] * 3 + part[part[:1] == [encoder.tokenizer.bos_token_id] :]
    assert stretches == ids


def in_parts(message):
    """The message with its content as a list, where that says the same."""
    texts = re.split(r'<image>\n', message['content'])
    parts = [{'type': 'text', 'text': texts[0]}]
    for text in texts[1:]:
        parts += [{'type': 'image'}, {'type': 'text', 'text': text}]
    return {**message, 'content': parts}


TALKS = [
    talk('<image>\nWhat is "it"?', '  A {{dog}}.\n', 'Où?\n<image>\n', 'There\t{% raw %}', 'Sure?'),
    talk('Hi\n'),
    talk('<image>\n<image>\nCompare.', "It's \\n the same."),
]


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('form', ['string', 'parts'])
@pytest.mark.parametrize('system', [None, '', 'Be <b>kind</b>.\n'])
def test_jinja_gives_the_text_of_render(name, form, system):
    template = build_template(name)
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / 'qwen2')  # any: it only lends transformers' Jinja environment
    tokenizer.chat_template = to_jinja(template)
    for turns in TALKS:
        messages = turns if system is None else [{'role': 'system', 'content': system}, *turns]
        generate = turns[-1]['role'] == 'user'
        given = messages if form == 'string' else [in_parts(message) for message in messages]
        if template.system is None and system is not None:
            with pytest.raises(Exception, match='no place for a system message'):
                tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=generate)
            continue
        expected = template.text(template.normalise(messages, add_generation_prompt=True), generate)
        text = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=generate)
        assert text == expected


@pytest.mark.parametrize('name', NAMES)
def test_a_template_survives_its_dict_and_knows_its_place_for_a_system_message(name):
    template = build_template(name)
    assert build_template(template.to_dict()) == template
    messages = talk('<image>\nQ', 'A', system='Be kind.')
    if template.system is None:
        with pytest.raises(DataError, match='has no place'):
            check_conversation(messages, template)
    else:
        check_conversation(messages, template)
        assert template.text(messages).count('Be kind.') == 1


def test_llama_2_writes_the_system_message_into_the_first_question_only():
    template = build_template('llava_llama_2')
    messages = talk('Q1', 'A1', 'Q2', 'A2', system='S')
    first, rest = '[INST] <<SYS>>\nS\n<</SYS>>\n\nQ1 [/INST] A1 </s>', '<s>[INST] Q2 [/INST] A2 </s>'
    assert template.text(messages) == first + rest
    assert template.text(talk('Q1', 'A1', system='')) == '[INST] Q1 [/INST] A1 </s>'
    assert build_template('mistral').text(messages) == first + rest.removeprefix('<s>')
    assert build_template('mistral').text(messages[1:]) == '[INST] Q1 [/INST] A1 </s>[INST] Q2 [/INST] A2 </s>'


@pytest.mark.parametrize('tokenizer', ['llama_legacy', 'llama_nonlegacy'])
def test_every_round_of_llama_2_begins_with_one_bos_token(tokenizer):
    sample = make(tokenizer, 'llava_llama_2')(talk('Q1', 'A1', 'Q2', 'A2'))
    bos = sample.input_ids == 1
    assert int(bos.sum()) == 2
    assert bool(bos[0])
    assert (sample.labels[bos] == IGNORE_INDEX).all()


@pytest.mark.parametrize('name', ['gemma-it', 'plain'])
def test_a_system_message_without_a_place_is_refused(name):
    encoder = make('gemma', name)
    with pytest.raises(DataError, match=r'(?s)message 1 is of role system.*first question'):
        encoder(talk('<image>', 'x', system='Be kind.'), [PICTURE])
    own = build_template({'type': name, 'system': ('', '\n')})  # a place is one line of a config away
    assert own.text(talk('<image>', 'x', system='Be kind.')).startswith('Be kind.\n')


def test_captions_lose_their_question_but_not_their_pictures():
    encoder = make('stablelm', 'plain')
    sample = encoder(talk('Write <image> a caption.\n<image>', 'Two dogs.'), [PICTURE] * 2)
    assert encoder.describe(sample) == [('<image>x6', False), ('Two dogs.\n', True)]
    for messages in (talk('Hi', 'x'), talk('<image>', 'x', 'More?', 'y')):
        with pytest.raises(DataError, match='one question with a picture'):
            encoder(messages, pictures(messages))


def test_the_image_token_is_a_picture_in_questions_and_refused_elsewhere():
    encoder = make('llama_legacy', 'vicuna_v1')
    for messages in (talk('<image>\nWhich token?', 'The token <image>.'), talk('<image>', 'x', system='An <image>.')):
        with pytest.raises(DataError, match=r"(?s)contains the text '<image>'.*in a question if a picture is meant"):
            encoder(messages, [PICTURE])
    with pytest.raises(DataError, match='1 <image> in the questions, 0 pictures'):
        encoder(talk('<image>', 'x'))


def test_missing_tokens_are_added_or_named():
    with pytest.raises(ConfigError, match=r"(?s)no token '<image>'.*add_tokens=True"):
        make('phi2', 'phi', add_tokens=False)
    encoder = make('phi2', 'phi')
    assert encoder.image_token_id == 541
    again = ChatEncoder.from_dict(encoder.to_dict())
    assert (again.image_token_id, again.pad_token_id) == (encoder.image_token_id, encoder.pad_token_id)
    assert len(again.tokenizer) == len(encoder.tokenizer)


@pytest.mark.parametrize(
    ('tokenizer', 'template', 'stop', 'pad'),
    [
        ('llama_legacy', 'vicuna_v1', ['</s>'], '<unk>'),
        ('llama_nonlegacy', 'tinyllama', ['</s>'], '<unk>'),
        ('phi2', 'phi', ['<|endoftext|>'], '<pad>'),
        ('stablelm', 'stablelm', ['<|endoftext|>'], '<pad>'),
        ('gemma', 'gemma', ['<eos>'], '<pad>'),
        ('gemma', 'gemma-it', ['<end_of_turn>', '<eos>'], '<pad>'),
        ('qwen2', 'qwen2_base', ['<|endoftext|>'], '<pad>'),
        ('qwen2_instruct', 'qwen2', ['<|im_end|>', '<|endoftext|>'], '<|endoftext|>'),
        ('mpt', 'mpt', ['<|im_end|>', '<|endoftext|>'], '<pad>'),
        ('llama_legacy', 'mistral', ['</s>'], '<unk>'),
        ('stablelm', 'plain', ['Ċ', '<|endoftext|>'], '<pad>'),
    ],
)
def test_stop_tokens_and_a_pad_token_that_ends_nothing(tokenizer, template, stop, pad):
    """SERVING: LMDeploy marks pictures with the pad token, so it must not occur in a prompt."""
    encoder = make(tokenizer, template)
    assert encoder.tokenizer.convert_ids_to_tokens(encoder.stop_token_ids) == stop
    assert encoder.tokenizer.pad_token == pad
    assert encoder.pad_token_id == encoder.tokenizer.convert_tokens_to_ids(pad)
    ids = encoder(conversation(encoder.template), pictures(conversation(encoder.template))).input_ids
    assert encoder.pad_token_id not in ids


def test_a_good_pad_token_stays():
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / 'gemma')
    size = len(tokenizer)
    assert give_pad_token(tokenizer, '<eos>') == '<pad>'
    assert len(tokenizer) == size
    assert add_special_tokens(tokenizer, ['', '<eos>']) == 0


def test_an_end_that_the_tokenizer_lacks_is_named():
    with pytest.raises(ConfigError, match=r"'</s>', which is not a token"):
        ChatEncoder(
            GOLDEN / 'tokenizers' / 'phi2', 'vicuna_v1', image_token='<|endoftext|>', image_start='', image_end=''
        )


def test_contradictions_in_a_template_are_config_errors():
    with pytest.raises(ConfigError, match='no place for it'):
        build_template({'type': 'gemma-it', 'system_message': 'Be kind.'})
    with pytest.raises(ConfigError, match='any_order'):
        ChatTemplate('toy', '', ('', ''), ('', ''), '', any_order=True, system_in_question=True)
