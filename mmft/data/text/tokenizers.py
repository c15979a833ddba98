"""Tokenizers: a fast one, with character offsets, from any tokenizer directory, whose Python code is never run.

OpenGVLab's directories name a class in a Python file of their own (``InternLM2Tokenizer`` in ``auto_map``). But
vocabulary, merges and added tokens are data, so the tokenizer is rebuilt from them with the `tokenizers` library; the
ids are those of the original slow classes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mmft.data.text.spm import read_spm, spm_pipeline
from mmft.disk import is_lfs_pointer
from mmft.errors import CheckpointError, ConfigError, DataError, first_line
from mmft.file_names import TOKENIZER_FILES
from mmft.gguf_files import check_gguf, is_gguf, unreadable_gguf
from mmft.json_files import read_json
from mmft.missing import missing
from mmft.words import clipped, printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    'LEADING_SPACE',
    'NAMED_TOKENS',
    'has_tokenizer',
    'load_tokenizer',
    'save_tokenizer',
    'tokenizer_from_files',
    'tokenizer_to_files',
]

LEADING_SPACE = 'leading_space'
"""Key of tokenizer_config.json: texts that begin with one of these strings want one space more in front."""

NAMED_TOKENS = ('bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token')
"""Tokens that a tokenizer has attributes for."""

_KEEP = (*NAMED_TOKENS, 'model_max_length', 'padding_side', 'truncation_side', 'chat_template', LEADING_SPACE)

# The pattern by which Qwen2 splits a text before merging (transformers, tokenization_qwen2.py, PRETOKENIZE_REGEX).
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def has_tokenizer(path: str | Path) -> bool:
    """Whether the directory, or the GGUF file, holds a tokenizer that ``load_tokenizer`` reads."""
    return (is_gguf(path) and os.path.isfile(path)) or any(
        os.path.isfile(os.path.join(path, name)) for name in TOKENIZER_FILES
    )


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer directory without running any code that lies in it.

    Reads ``tokenizer.json`` (a whole pipeline), ``tokenizer.model`` (sentencepiece: InternLM2, Llama, Phi-3, Gemma...)
    or ``vocab.json`` with ``merges.txt`` (byte-level BPE: Qwen2, GPT-2...). A GGUF file holds its tokenizer itself.

    Raises:
        CheckpointError: no such directory, or nothing in it that can be read as a tokenizer.
    """
    path = Path(path)
    if is_gguf(path):
        return _from_gguf(path)
    if not os.path.isdir(path):  # false, too, for names that no file can have
        if os.path.exists(path):
            fix = f'name the directory that it lies in: {printable(path.parent)}'
            raise CheckpointError(f'{printable(path)} is a file', expected='a directory with tokenizer files', fix=fix)
        raise missing(path, 'a directory with tokenizer files')
    config = _read_config(path)
    try:
        if (path / 'tokenizer.json').is_file():
            backend = Tokenizer.from_file(str(path / 'tokenizer.json'))
        elif (path / 'tokenizer.model').is_file():
            backend = _from_spm(path, config)
        elif (path / 'vocab.json').is_file():
            backend = _from_vocab(path, config)
        else:
            raise CheckpointError(
                f'{path} holds no tokenizer',
                expected=f'one of {TOKENIZER_FILES}',
                fix='download the tokenizer files too, or name another directory in encoder.tokenizer',
            )
        return _wrap(backend, config)
    except (CheckpointError, DataError):
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        if pointer := next((name for name in TOKENIZER_FILES if is_lfs_pointer(path / name)), None):
            raise CheckpointError(
                f'{path / pointer} is a git-lfs pointer, not the file itself',
                fix=f'run `git lfs pull` in {path}, or download the file again',
            ) from None
        raise CheckpointError(
            f'{path}: the tokenizer files cannot be read: {first_line(error)}', fix='download them again'
        ) from error


def _from_gguf(path: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    check_gguf(path)
    try:
        # Alone in a directory: the files beside it may be those of another model.
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(path.resolve(), os.path.join(folder, 'model.gguf'))
            read = AutoTokenizer.from_pretrained(folder, gguf_file='model.gguf', trust_remote_code=False)
        named = {key: value for key in NAMED_TOKENS if (value := getattr(read, key, None)) is not None}
        return _wrap(read.backend_tokenizer, {**named, 'chat_template': read.chat_template})
    except Exception as error:  # whatever damage makes of a file
        raise unreadable_gguf(path, error) from error


def _wrap(backend: Tokenizer, config: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    kwargs = {key: config[key] for key in _KEEP if config.get(key) is not None}
    extra = config.get('extra_special_tokens')
    if isinstance(extra, Mapping):
        kwargs['extra_special_tokens'] = {str(name): _text(token) for name, token in extra.items()}
    additional = config.get('additional_special_tokens') or (extra if isinstance(extra, Sequence) else None)
    if additional:
        kwargs['additional_special_tokens'] = [_text(token) for token in additional]
    named = {key: _text(kwargs.pop(key)) for key in NAMED_TOKENS if key in kwargs}
    kwargs |= {key: text for key, text in named.items() if text}  # an empty text is no token
    if not all(isinstance(text, str) for text in kwargs.get(LEADING_SPACE, ())):
        raise TypeError(f'{LEADING_SPACE} is {clipped(repr(kwargs[LEADING_SPACE]))}, not a list of texts')
    backend.no_padding()
    backend.no_truncation()
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **kwargs)


def _read_config(path: Path) -> dict[str, Any]:
    """tokenizer_config.json, completed from the older special_tokens_map.json and added_tokens.json.

    Raises:
        CheckpointError: one of them holds something else than it should.
    """
    names = ('special_tokens_map.json', 'tokenizer_config.json')
    config = {key: value for name in names for key, value in read_json(path / name, optional=True).items()}
    try:
        for key, kinds in (('additional_special_tokens', list), ('extra_special_tokens', (list, dict))):
            if (tokens := config.get(key)) is not None and not isinstance(tokens, kinds):
                raise TypeError(f'{key} is {clipped(repr(tokens))}')
            for token in tokens.values() if isinstance(tokens, dict) else tokens or ():
                _text(token)
        decoder = {int(index): token for index, token in (config.get('added_tokens_decoder') or {}).items()}
        special = {_text(config[key]) for key in NAMED_TOKENS if config.get(key) is not None}
        special |= {_text(token) for token in config.get('additional_special_tokens') or ()}
        known = {_text(token) for token in decoder.values()}
        for text, index in read_json(path / 'added_tokens.json', optional=True).items():
            if text not in known and int(index) not in decoder:
                decoder[int(index)] = {'content': text, 'special': text in special, 'normalized': text not in special}
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f'{path}: tokenizer_config.json, special_tokens_map.json or added_tokens.json: {first_line(error)}',
            expected='the files that were published with the tokenizer',
            fix='download them again',
        ) from error
    config['added_tokens_decoder'] = decoder
    return config


def _text(token: Any) -> str:
    """The text of a token, as tokenizer_config.json has it: as it is, or in a dict with more about it."""
    text = token.get('content') if isinstance(token, Mapping) else token
    if not isinstance(text, (str, AddedToken)):
        raise CheckpointError(
            f'the tokenizer files name a token {clipped(repr(token))}',
            expected="a text, or {'content': text, ...}",
            fix='download them again',
        )
    return str(text)


def _class(config: Mapping[str, Any]) -> str:
    return str(config.get('tokenizer_class') or '').removesuffix('Fast')


def _from_spm(path: Path, config: dict[str, Any]) -> Tokenizer:
    model = read_spm(path / 'tokenizer.model')
    added = {index: _text(token) for index, token in config['added_tokens_decoder'].items()}
    for key, index in (('unk_token', 0), ('bos_token', 1), ('eos_token', 2)):
        config.setdefault(key, model.pieces[index][0])
    if _class(config) in ('LlamaTokenizer', 'CodeLlamaTokenizer') and config.get('legacy') is False:
        prefix = 'first'
        config[LEADING_SPACE] = _leading(config)
    else:
        prefix = 'always' if model.dummy_prefix and _class(config) != 'GemmaTokenizer' else 'never'
    backend = spm_pipeline(model, added, prefix)
    _add_tokens(backend, config)
    _add_ends(backend, config, bos=True)
    return backend


def _leading(config: Mapping[str, Any]) -> list[str]:
    """Beginnings of a text before which the slow Llama tokenizer (``legacy=False``) puts a '▁' of its own.

    It writes one in front of every text, and takes it away again before a token that is listed as special. Phi-3's
    ``<|user|>`` and its like are added tokens but not listed, so conversations begin with a lone '▁'; InternVL2-4B was
    trained so. A fast tokenizer writes none there, nor before a text that begins with a space.
    """
    listed = {_text(config[key]) for key in NAMED_TOKENS if config.get(key) is not None}
    listed |= {_text(token) for token in config.get('additional_special_tokens') or ()}
    added = (_text(token) for token in config['added_tokens_decoder'].values())
    return [' ', *(text for text in added if text not in listed)]


def _from_vocab(path: Path, config: dict[str, Any]) -> Tokenizer:
    if not (path / 'merges.txt').is_file():
        raise CheckpointError(f'{path} has vocab.json but no merges.txt', fix='download merges.txt too')
    vocab, merges = models.BPE.read_file(str(path / 'vocab.json'), str(path / 'merges.txt'))
    vocab.update({_text(token): index for index, token in config['added_tokens_decoder'].items()})
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    space = bool(config.get('add_prefix_space', False))
    if _class(config) == 'Qwen2Tokenizer':
        backend.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior='isolated', invert=False)
        level = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    for key in ('unk_token', 'bos_token', 'eos_token'):
        if _class(config) in ('GPT2Tokenizer', 'CodeGenTokenizer') and '<|endoftext|>' in vocab:
            config.setdefault(key, '<|endoftext|>')
    _add_tokens(backend, config)
    _add_ends(backend, config, bos=False)
    return backend


def _add_tokens(backend: Tokenizer, config: Mapping[str, Any]) -> None:
    """Tell the pipeline which texts are tokens of their own. Their ids are in the vocabulary already."""
    decoder = config['added_tokens_decoder']
    names = ('lstrip', 'rstrip', 'single_word', 'normalized')
    for index in sorted(decoder):
        token = decoder[index] if isinstance(decoder[index], Mapping) else {'content': decoder[index]}
        special = bool(token.get('special', False))
        made = AddedToken(token['content'], special=special, **{key: bool(token.get(key, False)) for key in names})
        backend.add_special_tokens([made]) if special else backend.add_tokens([made])
    known = {_text(token) for token in decoder.values()}
    listed = [config.get(key) for key in NAMED_TOKENS] + list(config.get('additional_special_tokens') or ())
    missing = [_text(token) for token in listed if token is not None and _text(token) not in known]
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in dict.fromkeys(missing)])


def _add_ends(backend: Tokenizer, config: Mapping[str, Any], bos: bool) -> None:
    """BOS before and EOS after a text, as ``add_bos_token`` and ``add_eos_token`` say (default: ``bos``, no EOS)."""
    parts, ids = ['$A'], []
    for key, default in (('bos_token', bos), ('eos_token', False)):
        if config.get(key) is not None and config.get(f'add_{key}', default):
            text = _text(config[key])
            parts = [text, *parts] if key == 'bos_token' else [*parts, text]
            ids.append((text, backend.token_to_id(text)))
    if ids:
        pair = parts + [part.replace('$A', '$B') + ':1' for part in parts]
        backend.post_processor = processors.TemplateProcessing(single=parts, pair=pair, special_tokens=ids)


def tokenizer_to_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    """The tokenizer as ``tokenizer.json`` and ``tokenizer_config.json``, which transformers 4 and 5 and mmft read.

    Raises:
        ConfigError: a slow tokenizer, which has no such form.
    """
    backend = getattr(tokenizer, 'backend_tokenizer', None)
    if not isinstance(backend, Tokenizer):
        raise ConfigError(
            f'a {type(tokenizer).__name__}',
            expected='a fast tokenizer: labels need character offsets',
            fix='load it with mmft.data.load_tokenizer(directory)',
        )
    config = {key: value for key in _KEEP if (value := tokenizer.init_kwargs.get(key)) is not None}
    config.update({key: str(value) for key in NAMED_TOKENS if (value := getattr(tokenizer, key, None)) is not None})
    # A class of its own would make transformers 5 rebuild the pipeline by that class's rules instead of reading it.
    config.update(tokenizer_class='PreTrainedTokenizerFast', clean_up_tokenization_spaces=False)
    if tokenizer.chat_template is not None:
        config['chat_template'] = tokenizer.chat_template
    named = {config[key] for key in NAMED_TOKENS if key in config}
    config['additional_special_tokens'] = [text for text in tokenizer.all_special_tokens if text not in named]
    pretty = json.dumps(config, ensure_ascii=False, indent=2) + '\n'
    return {'tokenizer.json': backend.to_str(pretty=True).encode(), 'tokenizer_config.json': pretty.encode()}


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, path: str | Path, **config: Any) -> None:
    """Write ``tokenizer_to_files`` into a directory, which is made if needed.

    Args:
        config: further entries of tokenizer_config.json, such as ``chat_template`` and ``extra_special_tokens`` (the
            names by which a processor of transformers finds its image tokens).
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    files = tokenizer_to_files(tokenizer)
    settings = {**json.loads(files['tokenizer_config.json']), **config}
    (path / 'tokenizer.json').write_bytes(files['tokenizer.json'])
    text = json.dumps(settings, ensure_ascii=False, indent=2) + '\n'
    (path / 'tokenizer_config.json').write_text(text, encoding='utf-8')


def tokenizer_from_files(files: Mapping[str, bytes]) -> PreTrainedTokenizerFast:
    """The tokenizer that ``tokenizer_to_files`` wrote."""
    try:
        config = json.loads(files['tokenizer_config.json'])
        return _wrap(Tokenizer.from_buffer(files['tokenizer.json']), config)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(f'the stored tokenizer cannot be read: {error}', fix='use another checkpoint') from error
