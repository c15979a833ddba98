"""Tokenizers from directories: the originals' ids, sentencepiece's own, and no code run."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import sentencepiece
from transformers import AutoTokenizer, GPT2Tokenizer, Qwen2Tokenizer

from mmft.data.text.special_tokens import INTERNVL_TOKENS, add_special_tokens, give_pad_token
from mmft.data.text.tokenizers import (
    has_tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_files,
    tokenizer_to_files,
)
from mmft.errors import CheckpointError, ConfigError, DataError
from tests.helpers import GOLDEN

DIRECTORY = GOLDEN / 'tokenizers'
NAMES = sorted(path.name for path in DIRECTORY.iterdir() if path.is_dir())
LETTERS = (
    list("abcdefghij ABC  \n\n\t!?.,'0123456789") + list('肠粉叉烧是什么，。！🍜é́ñ▁') + ['the ', ' picture', " isn't"]
)


def texts(count=60, seed=0):
    rng = random.Random(seed)
    return [''.join(rng.choices(LETTERS, k=rng.randint(1, 40))) for _ in range(count)]


def copy_of(name, tmp_path):
    target = tmp_path / name
    shutil.copytree(DIRECTORY / name, target)
    return target


def edit(path, **changes):
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.mark.parametrize('name', NAMES)
def test_text_survives_encoding_and_decoding(name):
    tokenizer = load_tokenizer(DIRECTORY / name)
    assert has_tokenizer(DIRECTORY / name)
    for text in ('The red cat.', '肠粉 or 叉烧? 🍜\n\nYes'):
        assert tokenizer.decode(tokenizer(text)['input_ids'], skip_special_tokens=True) == text


@pytest.mark.parametrize('name', ['internlm2', 'gemma', 'llama_legacy'])
def test_sentencepiece_gives_the_same_ids(name):
    tokenizer = load_tokenizer(DIRECTORY / name)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(DIRECTORY / name / 'tokenizer.model'))
    for text in texts():
        assert tokenizer(text)['input_ids'] == [tokenizer.bos_token_id, *reference.encode(text)], repr(text)


@pytest.mark.parametrize(
    ('name', 'kind'), [('qwen2', Qwen2Tokenizer), ('qwen2_instruct', Qwen2Tokenizer), ('stablelm', GPT2Tokenizer)]
)
def test_byte_level_tokenizers_agree_with_transformers_own(name, kind):
    tokenizer, reference = load_tokenizer(DIRECTORY / name), kind.from_pretrained(DIRECTORY / name)
    for text in [*texts(), '<|im_start|>user\nHi<|im_end|>', '<|endoftext|>']:
        assert tokenizer(text)['input_ids'] == reference(text)['input_ids'], repr(text)
    assert tokenizer.eos_token_id == reference.eos_token_id


def test_a_directory_with_code_in_it_is_read_and_the_code_is_not_run(tmp_path):
    path = copy_of('internlm2', tmp_path)
    auto_map = {'AutoTokenizer': ['tokenization_internlm2.InternLM2Tokenizer', None]}
    edit(path / 'tokenizer_config.json', auto_map=auto_map)
    trap = tmp_path / 'run'
    (path / 'tokenization_internlm2.py').write_text(f'open({str(trap)!r}, "w").close()\nraise SystemExit\n')
    tokenizer = load_tokenizer(path)
    plain = load_tokenizer(DIRECTORY / 'internlm2')
    assert tokenizer('<|im_start|>你好')['input_ids'] == plain('<|im_start|>你好')['input_ids']
    assert not trap.exists()


def test_added_tokens_may_lie_on_unused_pieces(tmp_path):
    """InternLM2 keeps <|im_end|> on the id of a piece of its sentencepiece model."""
    path = copy_of('internlm2', tmp_path)
    config = json.loads((path / 'tokenizer_config.json').read_text())
    decoder = config['added_tokens_decoder']
    decoder['619'] = decoder.pop('621')  # <|im_end|> now replaces the last piece
    edit(path / 'tokenizer_config.json', added_tokens_decoder=decoder)
    (path / 'added_tokens.json').unlink()
    tokenizer = load_tokenizer(path)
    assert tokenizer('<|im_end|>')['input_ids'] == [1, 619]
    assert tokenizer('<|im_start|><box>')['input_ids'] == [1, 620, 631]


@pytest.mark.parametrize('name', ['internlm2', 'qwen2', 'phi3_rstrip_additional'])
def test_older_directories_without_added_tokens_decoder(name, tmp_path):
    path = copy_of(name, tmp_path)
    edit(path / 'tokenizer_config.json', added_tokens_decoder=None)
    tokenizer, plain = load_tokenizer(path), load_tokenizer(DIRECTORY / name)
    for text in ['<img><IMG_CONTEXT></img>\nHi</s>', *texts(10)]:
        assert tokenizer(text)['input_ids'] == plain(text)['input_ids']


@pytest.mark.parametrize('name', NAMES)
def test_saved_tokenizers_are_read_back_by_mmft_and_by_transformers(name, tmp_path):
    tokenizer = load_tokenizer(DIRECTORY / name)
    path = tmp_path / 'model'
    save_tokenizer(tokenizer, path, chat_template='{{ messages }}')
    (path / 'config.json').write_text(json.dumps({'model_type': 'internvl'}))
    read = [
        load_tokenizer(path),
        AutoTokenizer.from_pretrained(path),
        tokenizer_from_files(tokenizer_to_files(tokenizer)),
    ]
    for text in [*texts(10), '<s><|im_start|>user\n<img>x</img><|end|> <|endoftext|>']:
        for other in read:
            assert other(text)['input_ids'] == tokenizer(text)['input_ids']
    for other in read:
        assert (other.bos_token_id, other.eos_token_id, other.pad_token_id) == (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )
        assert len(other) == len(tokenizer)
        assert set(other.all_special_tokens) == set(tokenizer.all_special_tokens)
    assert read[1].chat_template == '{{ messages }}'


def test_missing_special_tokens_are_added_once():
    tokenizer = load_tokenizer(DIRECTORY / 'llama_nonlegacy')  # has <img>, </img> and <IMG_CONTEXT>
    size = len(tokenizer)
    assert add_special_tokens(tokenizer) == 6
    assert add_special_tokens(tokenizer) == 0
    assert tokenizer.convert_tokens_to_ids(list(INTERNVL_TOKENS[3:])) == list(range(size, size + 6))
    assert tokenizer('<img><quad>')['input_ids'] == [1, 600, size]


def special(path, **tokens):
    file = path / 'tokenizer_config.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **tokens}))


def test_a_path_without_a_tokenizer_s_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r'a model on a hub[\s\S]*hf download Qwen/Qwen2-0\.5B --local-dir'):
        load_tokenizer('Qwen/Qwen2-0.5B')
    path = copy_of('internlm2', tmp_path)
    with pytest.raises(CheckpointError, match=r'did you mean .*internlm2\?'):
        load_tokenizer(path.with_name('internlm'))
    with pytest.raises(CheckpointError, match=r'tokenizer\.model is a file[\s\S]*the directory that it lies in'):
        load_tokenizer(path / 'tokenizer.model')


@pytest.mark.parametrize(
    ('spoil', 'match'),
    [
        (lambda path: shutil.rmtree(path), 'not a directory'),
        (lambda path: (path / 'tokenizer.model').unlink(), 'holds no tokenizer'),
        (lambda path: (path / 'tokenizer_config.json').write_text('{'), 'not valid JSON'),
        (lambda path: (path / 'tokenizer_config.json').write_text('[]'), 'expected: a JSON object'),
        (lambda path: special(path, extra_special_tokens=5), 'extra_special_tokens is 5'),
        (lambda path: special(path, extra_special_tokens='<a>'), "extra_special_tokens is '<a>'"),
        (lambda path: special(path, extra_special_tokens=['<a>', 5]), r'internlm2: tokenizer_config.*a token 5'),
        (lambda path: special(path, extra_special_tokens={'a': None}), r'internlm2: tokenizer_config.*a token None'),
        (lambda path: special(path, additional_special_tokens='<a>'), "additional_special_tokens is '<a>'"),
        (lambda path: (path / 'tokenizer.model').write_text('version https://git-lfs.github.com/spec/v1'), 'git-lfs'),
        (lambda path: (path / 'tokenizer.model').write_bytes(b''), 'not a SentencePiece model'),
        (lambda path: (path / 'tokenizer.json').write_text('{}'), 'cannot be read'),
    ],
)
def test_damaged_directories_are_errors_that_say_what_is_wrong(spoil, match, tmp_path):
    path = copy_of('internlm2', tmp_path)
    spoil(path)
    with pytest.raises((CheckpointError, DataError), match=match):
        load_tokenizer(path)


def test_a_truncated_model_file_is_an_error(tmp_path):
    path = copy_of('internlm2', tmp_path)
    data = (path / 'tokenizer.model').read_bytes()
    (path / 'tokenizer.model').write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match='breaks off'):
        load_tokenizer(path)


def test_vocab_without_merges_is_an_error(tmp_path):
    path = copy_of('qwen2', tmp_path)
    (path / 'merges.txt').unlink()
    with pytest.raises(CheckpointError, match=r'merges\.txt'):
        load_tokenizer(path)


def test_slow_tokenizers_cannot_be_stored():
    with pytest.raises(ConfigError, match='character offsets'):
        tokenizer_to_files(object())


@pytest.mark.parametrize('spare', ['<|reserved_special_token_0|>', '<|finetune_right_pad_id|>'])
def test_llama_3_pads_with_a_token_that_its_table_has_a_row_for(spare):
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / 'qwen2')
    tokenizer.unk_token = None
    tokenizer.pad_token = tokenizer.eos_token
    add_special_tokens(tokenizer, [spare])
    size = len(tokenizer)
    assert give_pad_token(tokenizer) == spare
    assert len(tokenizer) == size
