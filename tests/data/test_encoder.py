"""ChatEncoder: masks on random conversations, pictures, lengths, errors, and keeping it with a checkpoint."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from mmft.data import ChatEncoder
from mmft.data.pictures.tilers import DynamicTiler
from mmft.data.prompt import from_parts
from mmft.data.records.formats import parse_record
from mmft.data.text.special_tokens import add_special_tokens
from mmft.data.text.tokenizers import load_tokenizer
from mmft.errors import CheckpointError, ConfigError, DataError, ShapeError
from mmft.registry import ENCODERS
from mmft.structures import IGNORE_INDEX
from tests.helpers import GOLDEN

TOKENIZERS = GOLDEN / 'tokenizers'
PAIRS = [  # every tokenizer with every template whose end token it has
    (tokenizer, template)
    for template, tokenizers in {
        'internlm2-chat': ('internlm2', 'qwen2', 'qwen2_instruct', 'mpt'),
        'Hermes-2': ('internlm2', 'qwen2', 'qwen2_instruct', 'mpt'),
        'internvl2_5': ('internlm2', 'qwen2', 'qwen2_instruct', 'mpt'),
        'phi3-chat': ('phi3_rstrip', 'phi3_norstrip', 'phi3_rstrip_additional'),
        'internvl_zh': ('internlm2', 'llama_legacy', 'llama_nonlegacy'),
        'vicuna_v1.1': ('internlm2', 'llama_legacy', 'llama_nonlegacy'),
    }.items()
    for tokenizer in tokenizers
]
TILER = {'type': 'DynamicTiler', 'tile_size': 28, 'max_tiles': 6}
WORDS = [
    'a',
    'The ',
    ' dog',
    '肠粉',
    '叉烧',
    '。',
    '🍜',
    '👩‍🍳',
    'é',
    '\n',
    '\n\n',
    ' ',
    '   ',
    '\t',
    '!',
    '<',
    '|',
    '<|im',
    '12',
]
WORDS += ['▁', 'ASSISTANT:']


def make(tokenizer='internlm2', template='internlm2-chat', **kwargs):
    loaded = load_tokenizer(TOKENIZERS / tokenizer)
    add_special_tokens(loaded)
    return ChatEncoder(loaded, template, **{'image_processor': TILER, 'tokens_per_tile': 4, **kwargs})


def talk(*texts, system=None):
    head = [] if system is None else [{'role': 'system', 'content': system}]
    return head + [{'role': ('user', 'assistant')[i % 2], 'content': text} for i, text in enumerate(texts)]


def picture(width=56, height=28, colour=(200, 30, 30)):
    return Image.new('RGB', (width, height), colour)


def trained_runs(sample):
    runs, last = [], -2
    for place in (sample.labels != IGNORE_INDEX).nonzero().flatten().tolist():
        if place != last + 1:
            runs.append([])
        runs[-1].append(int(sample.labels[place]))
        last = place
    return runs


@pytest.mark.parametrize(('tokenizer', 'template'), PAIRS)
def test_trained_tokens_spell_the_answers_and_their_end_tokens(tokenizer, template):
    """Random conversations. Outer spaces are compared loosely: internlm2-chat strips, Phi-3's role tokens swallow
    them, legacy Llama tokenizers add one."""
    rng = random.Random(f'{tokenizer} {template}')
    encoder = make(tokenizer, template)
    end = encoder.template.end
    for _ in range(40):
        turns = [[*rng.choices(WORDS, k=rng.randint(1, 12)), 'x'] for _ in range(2 * rng.randint(1, 3))]
        pictures = [picture(rng.randint(1, 90), rng.randint(1, 90)) for _ in range(rng.choice([0, 0, 1, 3]))]
        for _ in pictures:
            question = turns[2 * rng.randrange(len(turns) // 2)]
            question.insert(rng.randint(0, len(question)), '<image>')
        texts = [''.join(turn) for turn in turns]
        messages = talk(*texts, system=rng.choice([None, '', 'Sei 友好!']))
        sample = encoder(messages, pictures)
        runs = trained_runs(sample)
        assert len(runs) == len(texts) // 2
        for run, answer in zip(runs, texts[1::2], strict=True):
            text = encoder.tokenizer.decode(run, skip_special_tokens=False)
            expected = ' '.join(answer.replace('▁', ' ').split()) + end
            assert ' '.join(text.replace('▁', ' ').split()) == expected, (answer, text)
            assert run[-1] == encoder.stop_token_ids[0]
            assert encoder.decode([*run, 5, 6]).split() == encoder.decode(run).split()
        assert int((sample.input_ids == encoder.image_token_id).sum()) == 4 * sum(sample.num_tiles)
        assert sample.pixel_values is None or len(sample.pixel_values) == sum(sample.num_tiles)
        assert encoder.num_tokens(messages, sample.image_sizes) == len(sample)


@pytest.mark.parametrize(('tokenizer', 'template'), PAIRS)
def test_a_prompt_is_the_beginning_of_the_training_sample(tokenizer, template):
    """What is asked when the model is served is what stood before the answer in training."""
    encoder = make(tokenizer, template)
    messages = talk('<image>\nWhat 是 it?', 'A dog. 🐕', 'Sure?', 'Yes!')
    whole = encoder(messages, [picture()])
    prompt = encoder(messages[:-1], [picture()], add_generation_prompt=True)
    assert (prompt.labels == IGNORE_INDEX).all()
    assert torch.equal(whole.input_ids[: len(prompt)], prompt.input_ids)
    trained = (whole.labels != IGNORE_INDEX).nonzero().flatten()
    assert int(trained[trained >= len(prompt)][0]) == len(prompt)


@pytest.mark.parametrize('tokenizer', ['internlm2', 'qwen2', 'phi3_rstrip', 'llama_legacy', 'llama_nonlegacy'])
def test_expanding_ids_equals_tokenizing_the_expanded_text(tokenizer):
    template = {'qwen2': 'Hermes-2', 'phi3_rstrip': 'phi3-chat', 'internlm2': 'internvl2_5'}.get(
        tokenizer, 'vicuna_v1.1'
    )
    encoder = make(tokenizer, template)
    messages = talk('A: <image>B: <image>\nboth', 'ok')
    sample = encoder(messages, [picture(90, 30), picture(10, 10)])
    text = encoder.text_prefix + encoder.template.text(messages)
    for tiles in sample.num_tiles:
        text = text.replace('<image>', '<img>' + '<IMG_CONTEXT>' * (4 * tiles) + '</img>', 1)
    assert sample.input_ids.tolist() == encoder.tokenizer(text)['input_ids']


@pytest.mark.parametrize(('tokenizer', 'template'), [p for p in PAIRS if p[0] != 'mpt'])
def test_the_exported_jinja_template_leads_to_the_same_ids(tokenizer, template):
    encoder = make(tokenizer, template)
    encoder.tokenizer.chat_template = encoder.chat_template()
    parts = [{'type': 'image'}, {'type': 'text', 'text': 'What is it?'}]
    text = encoder.tokenizer.apply_chat_template(
        [{'role': 'user', 'content': parts}], tokenize=False, add_generation_prompt=True
    )
    prompt = encoder.prompt('What is it?', [picture(20, 20)]).input_ids.tolist()
    whole = text.replace('<IMG_CONTEXT>', '<img>' + '<IMG_CONTEXT>' * 4 + '</img>')  # as transformers' processor
    assert encoder.tokenizer(whole)['input_ids'] == prompt
    ids = []  # LMDeploy tokenizes what stands between image tokens, and takes BOS off but for the first stretch
    for stretch in text.replace('<IMG_CONTEXT>', '<img><IMG_CONTEXT></img>').split('<IMG_CONTEXT>'):
        part = encoder.tokenizer(stretch)['input_ids']
        ids += [encoder.image_token_id] * 4 + part[part[0] == encoder.tokenizer.bos_token_id :] if ids else part
    assert ids == prompt


PICTURE, BEFORE, AFTER = {'type': 'image'}, {'type': 'text', 'text': 'Look:'}, {'type': 'text', 'text': 'What is it?'}


@pytest.mark.parametrize('parts', [[PICTURE], [BEFORE, PICTURE], [BEFORE, PICTURE, AFTER], [PICTURE, PICTURE, AFTER]])
def test_a_record_of_parts_trains_the_prompt_that_its_parts_are_served_as(parts):
    encoder = make('qwen2', 'Hermes-2')
    count = parts.count(PICTURE)
    asked = {'role': 'user', 'content': parts}
    record = parse_record(
        {'messages': [asked, {'role': 'assistant', 'content': 'A cat.'}], 'images': ['a.png'] * count}
    )
    trained = encoder(record.messages, [picture(20, 20)] * count)
    url = {'type': 'image_url', 'image_url': {'url': 'data:'}}
    messages, _ = from_parts([{'role': 'user', 'content': [url if part is PICTURE else part for part in parts]}])
    prompt = encoder.prompt(messages[0]['content'], [picture(20, 20)] * count).input_ids
    assert torch.equal(trained.input_ids[: len(prompt)], prompt)
    encoder.tokenizer.chat_template = encoder.chat_template()
    written = encoder.tokenizer.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
    written = written.replace('<IMG_CONTEXT>', '<img>' + '<IMG_CONTEXT>' * 4 + '</img>')
    assert encoder.tokenizer(written)['input_ids'] == prompt.tolist()


LLAVA = {'image_start': '', 'image_token': '<image>', 'image_end': '', 'images_first': True, 'add_tokens': True}


@pytest.mark.parametrize('text', ['What is it?\n<image>', 'A <image> or B <image>, which?  ', ' <image>', 'none: '])
@pytest.mark.parametrize('template', ['vicuna_v1', 'llava_llama_2', 'mistral'])
@pytest.mark.parametrize('tokenizer', ['llama_legacy', 'llama_nonlegacy'])
def test_pictures_before_the_text_also_in_the_exported_template(tokenizer, template, text):
    encoder = make(tokenizer, template, **LLAVA)
    count = text.count('<image>')
    messages = talk(text, 'Yes.', 'Sure?')
    sample = encoder(messages, [picture(20, 20)] * count, add_generation_prompt=True)
    bare = text.replace('<image>', '').strip() if count else text
    moved = '\n'.join(['<image>'] * count + [bare] * bool(bare))
    kept = make(tokenizer, template, **{**LLAVA, 'images_first': False})
    again = kept(talk(moved, 'Yes.', 'Sure?'), [picture(20, 20)] * count, add_generation_prompt=True)
    assert torch.equal(sample.input_ids, again.input_ids)
    parts = [{'type': 'text', 'text': piece} for piece in text.split('<image>')]
    for place in range(count):
        parts.insert(2 * place + 1, {'type': 'image'})
    encoder.tokenizer.chat_template = encoder.chat_template()
    for content in (parts, text):
        asked = [{'role': 'user', 'content': content}, *messages[1:]]
        written = encoder.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        ids = encoder.tokenizer(written.replace('<image>', '<image>' * 4))['input_ids']
        assert ids == sample.input_ids.tolist()


def test_a_caption_has_nothing_around_its_picture():
    around = {**LLAVA, 'image_start': '<im_start>', 'image_end': '<im_end>'}
    messages = talk('What is it? <image>', 'A cat.')
    texts = [
        ''.join(text for text, _ in encoder.describe(encoder(messages, [picture(20, 20)])))
        for encoder in (make('llama_legacy', 'plain', **around), make('llama_legacy', 'plain', **LLAVA))
    ]
    assert texts[0] == texts[1]
    assert 'im_start' not in texts[0]


def test_several_pictures_share_the_tiles():
    encoder = make()
    sizes = [(200, 20), (20, 200), (100, 100)]
    sample = encoder(talk('<image><image><image>', 'x'), [picture(*size) for size in sizes])
    tiler = DynamicTiler(max_tiles=2, tile_size=28)
    assert sample.num_tiles == [tiler.num_tiles(*size) for size in sizes]
    assert sample.image_sizes == sizes
    seven = encoder(talk('<image>' * 7, 'x'), [picture(200, 20)] * 7)
    assert seven.num_tiles == [1] * 7


def test_paths_and_open_pictures_give_the_same_sample(tmp_path):
    encoder = make()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 70, 3), dtype=np.uint8))
    noise.save(tmp_path / 'a.png')
    messages = talk('<image>', 'x')
    one, two = encoder(messages, [noise]), encoder(messages, [str(tmp_path / 'a.png')])
    assert torch.equal(one.pixel_values, two.pixel_values)
    assert one.pixel_values.dtype == torch.uint8
    assert torch.equal(one.input_ids, two.input_ids)


def test_pictures_that_cannot_be_opened_are_named(tmp_path):
    encoder = make()
    bad = tmp_path / 'bad.jpg'
    bad.write_text('not a picture')
    half = tmp_path / 'half.jpg'
    picture(400, 300).save(half)
    half.write_bytes(half.read_bytes()[:700])
    for path in (bad, half, tmp_path / 'missing.jpg'):
        with pytest.raises(DataError, match=path.name):
            encoder(talk('<image>', 'x'), [path])


def test_a_text_only_sample_has_no_tiles():
    sample = make(image_processor=None)(talk('Hi', 'Hello'))
    assert sample.pixel_values is None
    assert (sample.num_tiles, sample.image_sizes) == ([], [])


@pytest.mark.parametrize(
    ('texts', 'count', 'match'),
    [
        (('What?', 'x'), 1, '0 <image> in the questions, 1 picture'),
        (('<image>', 'x'), 0, '1 <image> in the questions, 0 pictures'),
        (('<image><image>', 'x'), 1, '2 <image> in the questions, 1 picture'),
        (('Hi', '<image>'), 1, '0 <image> in the questions, 1 picture'),
        (('Hi <IMG_CONTEXT>', 'x'), 0, "message 1 contains the text '<IMG_CONTEXT>'"),
        (('Hi', 'It is <IMG_CONTEXT>.'), 0, "message 2 contains the text '<IMG_CONTEXT>'"),
        (('Hi', ' '), 0, 'empty answer'),
        (('Hi', 'x', 'y'), 0, 'last message'),
    ],
)
def test_samples_that_do_not_fit_are_refused(texts, count, match):
    encoder = make()
    with pytest.raises(DataError, match=match):
        encoder(talk(*texts), [picture()] * count)
    with pytest.raises(DataError, match=match):
        encoder.num_tokens(talk(*texts), [(56, 28)] * count)


def test_the_placeholder_is_ordinary_text_in_an_answer():
    encoder = make('qwen2', 'Hermes-2')
    sample = encoder(talk('<image>\nWhich token?', 'The token <image>.'), [picture()])
    assert [text for text, flag in encoder.describe(sample) if flag] == ['The token <image>.<|im_end|>']
    assert int((sample.input_ids == encoder.image_token_id).sum()) == 4 * sum(sample.num_tiles)


def test_a_prompt_places_its_pictures():
    encoder = make()
    two = [picture(), picture(30, 30)]
    plain = encoder.prompt('Compare.', two)
    assert torch.equal(plain.input_ids, encoder.prompt('<image>\n<image>\nCompare.', two).input_ids)
    history = talk('<image>\nWhat?', 'A dog.')
    later = encoder.prompt('And here?', two, history)
    assert torch.equal(later.input_ids, encoder.prompt('<image>\nAnd here?', two, history).input_ids)
    assert torch.equal(
        encoder.prompt('Sure?', two[:1], history).input_ids,
        encoder([*history, *talk('Sure?')], two[:1], add_generation_prompt=True).input_ids,
    )
    with pytest.raises(DataError, match='placeholder per picture'):
        encoder.prompt('Sure?', [], history)


@pytest.mark.parametrize('images', ['a.jpg', b'x', Image.new('RGB', (4, 4)), None])
def test_pictures_come_in_a_list(images):
    encoder = make()
    for ask in (lambda: encoder.prompt('What?', images), lambda: encoder(talk('What?', 'A dog.'), images)):
        with pytest.raises(DataError, match=r'(?s)images is a .*list of pictures'):
            ask()


def test_a_picture_may_be_all_of_a_question():
    assert torch.equal(make().prompt('', [picture()]).input_ids, make().prompt('<image>\n', [picture()]).input_ids)


@pytest.mark.parametrize(
    ('question', 'images', 'history', 'match'),
    [
        ('What?', [None], [], 'NoneType as a picture'),
        (5, [], [], 'the question is int'),
        ('What?', [], [{'text': 'x'}], 'message 1'),
    ],
)
def test_what_is_no_question_is_told(question, images, history, match):
    with pytest.raises(DataError, match=match):
        make().prompt(question, images, history)


def test_too_long_is_an_error_that_names_the_numbers():
    encoder = make(max_length=150)
    with pytest.raises(DataError, match=r'(?s)\d+ tokens, 12 of them of pictures.*max_length=150.*max_tiles'):
        encoder(talk('<image>\nWhat?', 'A dog.'), [picture()])
    encoder.prompt('What?', [picture()])  # a prompt is not a training sample


def test_truncation_cuts_text_only():
    encoder = make(too_long='truncate')
    messages = talk('<image>\nWhat?', 'A long dog. ' * 20)
    whole = encoder(messages, [picture()])
    first = int((whole.labels != IGNORE_INDEX).nonzero()[0])
    encoder.max_length = first + 5
    cut = encoder(messages, [picture()])
    assert torch.equal(cut.input_ids, whole.input_ids[: first + 5])
    assert torch.equal(cut.labels, whole.labels[: first + 5])
    encoder.max_length = first
    with pytest.raises(DataError, match='nothing to learn'):
        encoder(messages, [picture()])
    last = int((whole.input_ids == encoder.image_token_id).nonzero()[-1])
    for length in (last, last + 1):  # in the picture, and between it and its end token
        encoder.max_length = length
        with pytest.raises(DataError, match='would cut a picture'):
            encoder(messages, [picture()])
    encoder.max_length = len(whole)
    assert len(encoder(messages, [picture()])) == len(whole)


def test_special_tokens_written_in_messages_do_not_move_the_mask():
    encoder = make('qwen2', 'Hermes-2')
    answer = 'Say <|im_end|> or <|im_start|>assistant\nto <|endoftext|> stop.'
    sample = encoder(talk('What is <|im_end|>?', answer))
    assert [text for text, flag in encoder.describe(sample) if flag] == [answer + '<|im_end|>']


def test_what_the_tokenizer_adds_at_the_end_is_not_trained():
    directory = TOKENIZERS / 'internlm2'
    tokenizer = load_tokenizer(directory)
    plain = ChatEncoder(tokenizer, 'internlm2-chat', None)(talk('Hi', 'Hello'))
    state = json.loads(tokenizer.backend_tokenizer.to_str())['post_processor']
    assert state['type'] == 'TemplateProcessing'
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single='<s> $A </s>', special_tokens=[('<s>', 1), ('</s>', 2)]
    )
    sample = ChatEncoder(tokenizer, 'internlm2-chat', None)(talk('Hi', 'Hello'))
    assert sample.input_ids.tolist() == [*plain.input_ids.tolist(), 2]
    assert sample.labels.tolist() == [*plain.labels.tolist(), IGNORE_INDEX]


def test_the_mask_is_shown():
    encoder = make('qwen2', 'Hermes-2')
    sample = encoder(talk('<image>\nWhat?', 'A dog.', 'Sure?', 'Yes.', system='Hi'), [picture(20, 20)])
    assert encoder.describe(sample) == [
        (
            '<|im_start|>system\nHi<|im_end|><|im_start|>user\n<img><IMG_CONTEXT>x4</img>\nWhat?<|im_end|>'
            '<|im_start|>assistant\n',
            False,
        ),
        ('A dog.<|im_end|>', True),
        ('<|im_start|>user\nSure?<|im_end|><|im_start|>assistant\n', False),
        ('Yes.<|im_end|>', True),
    ]
    assert '\033[32mA dog.<|im_end|>\033[0m' in encoder.render_mask(sample)


def test_answers_are_decoded_up_to_the_first_stop_token():
    encoder = make('qwen2', 'Hermes-2')
    ids = encoder.tokenizer(' A 🐕. <|im_end|>\nmore', add_special_tokens=False)['input_ids']
    assert encoder.decode(torch.tensor([ids])) == 'A 🐕.'
    assert encoder.decode(encoder.tokenizer('A <|endoftext|>B')['input_ids']) == 'A'
    assert encoder.decode([]) == ''


@pytest.mark.parametrize(('tokenizer', 'template'), [('internlm2', 'internlm2-chat'), ('phi3_rstrip', 'phi3-chat')])
def test_an_encoder_is_the_same_after_every_way_of_keeping_it(tokenizer, template, tmp_path):
    encoder = make(tokenizer, {'type': template, 'system_message': '你好'}, max_length=999, too_long='truncate')
    encoder.save_pretrained(tmp_path / 'model')
    torch.save({'encoder': encoder.to_dict()}, tmp_path / 'iter_1.pth')
    state = torch.load(tmp_path / 'iter_1.pth', weights_only=True)
    copies = [
        ChatEncoder.from_pretrained(tmp_path / 'model'),
        ChatEncoder.from_dict(state['encoder']),
        pickle.loads(pickle.dumps(encoder)),
    ]
    messages = talk('<image>\n  What 是 it?', ' 肠粉 🍜')
    expected = encoder(messages, [picture(90, 30)])
    for other in copies:
        sample = other(messages, [picture(90, 30)])
        assert torch.equal(sample.input_ids, expected.input_ids)
        assert torch.equal(sample.labels, expected.labels)
        assert torch.equal(sample.pixel_values, expected.pixel_values)
        assert (other.max_length, other.too_long, other.template) == (999, 'truncate', encoder.template)
        assert (other.stop_token_ids, other.pad_token_id) == (encoder.stop_token_ids, encoder.pad_token_id)
        assert other.chat_template() == encoder.chat_template()


def test_an_encoder_is_built_from_a_config():
    config = {
        'type': 'ChatEncoder',
        'tokenizer': str(TOKENIZERS / 'internlm2'),
        'template': 'internlm2-chat',
        'image_processor': TILER,
        'tokens_per_tile': 4,
        'max_length': 400,
    }
    encoder = ENCODERS.build(config)
    assert isinstance(encoder, ChatEncoder)
    assert len(encoder(talk('<image>', 'x'), [picture()])) < 400


def test_stop_and_pad_tokens():
    assert make().stop_token_ids == [621, 2]  # <|im_end|>, and the tokenizer's </s>
    assert make('qwen2', 'Hermes-2').stop_token_ids == [562, 560]
    assert make('llama_legacy', 'vicuna_v1.1').pad_token_id == 0
    encoder = make()
    encoder.tokenizer.pad_token = None
    assert encoder.pad_token_id == 2


def test_wrong_arguments_are_config_errors():
    with pytest.raises(ConfigError, match='too_long'):
        make(too_long='cut')
    with pytest.raises(ConfigError, match='at least 1'):
        make(tokens_per_tile=0)
    with pytest.raises(ConfigError, match='no token'):
        ChatEncoder(TOKENIZERS / 'mpt', 'Hermes-2', None)
    with pytest.raises(ConfigError, match='not a token of this tokenizer'):
        make('internlm2', 'phi3-chat')
    with pytest.raises(ConfigError, match='character offsets'):
        ChatEncoder(object(), 'internlm2-chat', None)
    with pytest.raises(ConfigError, match='without image_processor'):
        make(image_processor=None)(talk('<image>', 'x'), [picture()])


def test_a_processor_that_breaks_its_own_promise_is_found_out():
    class Wrong(DynamicTiler):
        def __call__(self, image, max_tiles=None):
            return super().__call__(image, max_tiles)[:1]

    with pytest.raises(ShapeError, match='into 1 tile'):
        make(image_processor=Wrong(tile_size=28))(talk('<image>', 'x'), [picture(90, 30)])


def test_other_things_are_not_taken_for_an_encoder(tmp_path):
    with pytest.raises(CheckpointError, match='no encoder'):
        ChatEncoder.from_dict({})
    with pytest.raises(CheckpointError, match=r'encoder\.json'):
        ChatEncoder.from_pretrained(tmp_path)
    make().save_pretrained(tmp_path)
    (tmp_path / 'encoder.json').write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match='format 1'):
        ChatEncoder.from_pretrained(tmp_path)
