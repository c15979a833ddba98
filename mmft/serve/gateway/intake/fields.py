"""The fields of a request beside its messages: which are followed, which make no difference, which are refused.

A field that would change the answer is never ignored: it is followed, or refused by name. OpenAI's fields and those of
other servers (vLLM, LMDeploy, Ollama, transformers) are known here, so that the values under which they change nothing
pass, and the advice fits.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from mmft.serve.gateway.api_error import ApiError
from mmft.words import clipped, near_names, suggested

__all__ = ['LENGTHS', 'NUMBERS', 'Range', 'bias', 'check_names', 'flag', 'is_empty', 'number', 'response_format',
           'shown', 'stop_words', 'unknown']  # fmt: skip


class Range(NamedTuple):
    """The numbers that a field takes: ``low`` to ``high``, of type ``kind``; ``above``: not ``low`` itself."""

    kind: type
    low: float
    high: float
    above: bool = False


NUMBERS = {
    'temperature': Range(float, 0, 2),
    'top_p': Range(float, 0, 1, above=True),
    'min_p': Range(float, 0, 1),
    'top_k': Range(int, 0, 1e9),
    'repetition_penalty': Range(float, 0.01, 10),
    'seed': Range(int, -(2**63), 2**63 - 1),
}
"""What is followed by every backend."""

LENGTHS = ('max_completion_tokens', 'max_tokens')
_LEAST_TEMPERATURE = 1e-6  # below, scores divided by it overflow; 0 says the same

_FOLLOWED = ('model', 'messages', 'stream', 'stream_options', 'stop', 'response_format', 'logit_bias')
_HARMLESS = ('user', 'metadata', 'store', 'service_tier', 'safety_identifier', 'prompt_cache_key',
             'prompt_cache_retention', 'request_id', 'priority', 'cache_salt')  # fmt: skip
_REFUSED: dict[str, tuple[Any, ...]] = {
    # OpenAI
    'n': (1,), 'logprobs': (False,), 'top_logprobs': (0,), 'presence_penalty': (0,), 'frequency_penalty': (0,),
    'tools': (), 'tool_choice': ('auto', 'none'), 'parallel_tool_calls': (True, False),
    'functions': (), 'function_call': ('auto', 'none'), 'audio': (), 'modalities': (['text'],), 'prediction': (),
    'web_search_options': (), 'reasoning_effort': ('none',), 'verbosity': ('medium',),
    # vLLM, LMDeploy, transformers
    'best_of': (1,), 'use_beam_search': (False,), 'num_beams': (1,), 'length_penalty': (1,), 'early_stopping': (False,),
    'echo': (False,), 'add_generation_prompt': (True,), 'continue_final_message': (False,), 'chat_template': (),
    'chat_template_kwargs': (), 'documents': (), 'mm_processor_kwargs': (), 'media_io_kwargs': (),
    'enable_thinking': (False,), 'stop_token_ids': (), 'bad_words': (), 'ignore_eos': (False,), 'min_tokens': (0,),
    'min_new_tokens': (0,), 'include_stop_str_in_output': (False,), 'skip_special_tokens': (True, False),
    'spaces_between_special_tokens': (True,), 'repetition_ngram_size': (0,), 'repetition_ngram_threshold': (0,),
    'add_special_tokens': (False,), 'return_token_ids': (False,), 'return_logprob': (False,), 'session_id': (-1,),
}  # fmt: skip
"""Fields that no backend follows -> the values that change nothing, beside empty ones."""
_ADVICE = {
    'n': 'Ask several times.',
    'best_of': 'Ask several times.',
    'presence_penalty': 'Use repetition_penalty.',
    'frequency_penalty': 'Use repetition_penalty.',
    'chat_template': 'The model is asked with the template that it was trained with.',
    'chat_template_kwargs': 'The model is asked with the template that it was trained with.',
    'max_new_tokens': 'Use max_tokens.',
    'max_length': 'Use max_tokens.',
    'num_predict': 'Use max_tokens.',
    'do_sample': 'Use temperature; 0 is greedy.',
    'prompt': 'Use messages.',
    'options': "Ollama's options are fields of their own here: temperature, top_p, seed, stop, max_tokens.",
    'extra_body': 'Write what is in it as fields of the request itself.',
}
_PICTURES = 'Pictures are sent as parts of a message: {"type": "image_url", "image_url": {"url": ...}}.'
_MEDIA = ('image', 'picture', 'photo', 'video', 'audio', 'file', 'attachment', 'pixel', 'media')
_MOST_FIELDS, _LONGEST_NAME, _MOST_NAMED = 64, 64, 8
_MOST_STOPS, _LONGEST_STOP, _LONGEST_SCHEMA = 16, 200, 65_536


def check_names(body: Mapping[str, Any]) -> None:
    """Raise ``ApiError`` for fields that would have to be ignored."""
    if len(body) > _MOST_FIELDS:  # each unknown name costs a search for what it may mean
        raise ApiError(400, f'{len(body):,} fields; expected at most {_MOST_FIELDS}.', 'invalid_value')
    for name, harmless in _REFUSED.items():
        if name in body and not is_empty(body[name]) and not any(_same(body[name], value) for value in harmless):
            advice = f' {_ADVICE[name]}' if name in _ADVICE else ''
            message = f'{name}={_json(body[name])} is not supported by this server.{advice}'
            raise ApiError(400, message, 'unsupported', name)
    known = (*NUMBERS, *LENGTHS, *_REFUSED, *_FOLLOWED, *_HARMLESS)
    if names := [name for name, value in body.items() if name not in known and not is_empty(value)]:
        raise unknown(names, known)


def unknown(names: Collection[str], known: Collection[str], where: str = '') -> ApiError:
    """The error for fields that nothing follows.

    Args:
        known: what they may be misspellings of.
        where: the object that they stand in, such as ``messages[0]``; empty: the request.
    """
    named = []
    for name in list(names)[:_MOST_NAMED]:
        near = near_names(name, known, cutoff=0.85) if len(name) <= _LONGEST_NAME else []
        named.append(repr(clipped(name, 80)) + (f' ({suggested(near)})' if near else ''))
    more = f' and {len(names) - _MOST_NAMED:,} more' if len(names) > _MOST_NAMED else ''
    advice = dict.fromkeys(_ADVICE[name] for name in names if name in _ADVICE)
    if any(word in name.lower()[:_LONGEST_NAME] for name in names for word in _MEDIA):
        advice[_PICTURES] = None
    message = (
        f'Unknown field{"s" if len(names) > 1 else ""}{f" of {where}" if where else ""}: {", ".join(named)}{more}. '
    )
    message += ' '.join(advice) or 'Leave out what this server does not know: it is not ignored.'
    return ApiError(400, message, 'unknown_parameter', clipped(next(iter(names)), 80))


def is_empty(value: Any) -> bool:
    """Whether this value of a field means nothing: some clients send every field that they know."""
    return value is None or value in ('', [], {})


def shown(value: Any) -> str:
    """A value in a message."""
    return clipped(repr(value), 80)


def _json(value: Any) -> str:
    return clipped(json.dumps(value), 80)


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)  # True == 1


def flag(value: Any, name: str) -> bool:
    """A field that is true or false; false where nothing is given."""
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f'{name}={shown(value)}; expected true or false.', 'invalid_value', name)
    return bool(value)


def number(body: Mapping[str, Any], name: str, wanted: Range | None = None) -> Any:
    """A number of the request, of the type that backends want: ``2`` for a penalty becomes 2.0.

    Args:
        wanted: None: as in ``NUMBERS``.
    """
    kind, low, high, above = wanted or NUMBERS[name]
    value = body[name]
    fits = _is_number(value) and (kind is float or isinstance(value, int)) and low <= value <= high
    if name == 'temperature' and fits and 0 < value < _LEAST_TEMPERATURE:
        fits, low = False, _LEAST_TEMPERATURE
    if not fits or (above and value == low):
        start = f'more than {low:g} and at most' if above else f'from {low:g} to'
        zero = '0, or ' if name == 'temperature' and low else ''
        words = f'{zero}{"a whole number" if kind is int else "a number"} {start} {high:g}'
        raise ApiError(400, f'{name}={_json(value)}; expected {words}.', 'invalid_value', name)
    return kind(value)


def bias(value: Any, vocabulary: int | None) -> dict[str, float]:
    """``logit_bias``: token ids with what is added to their scores.

    Args:
        vocabulary: how many tokens there are; a backend fails on ids beyond. None: not known.
    """
    most = 10**9 if vocabulary is None else vocabulary - 1
    whole = isinstance(value, dict) and all(_is_id(key) and int(key) <= most for key in value)
    if not whole or not all(_is_number(score) and -100 <= score <= 100 for score in value.values()):
        message = f'logit_bias must be an object of token ids with numbers from -100 to 100; ids go up to {most:,}.'
        raise ApiError(400, message, 'invalid_value', 'logit_bias')
    return {key: float(score) for key, score in value.items()}


def _is_id(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) <= 10


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def stop_words(value: Any) -> tuple[str, ...]:
    """``stop`` as texts."""
    words = [value] if isinstance(value, str) else [] if value is None else value
    texts = isinstance(words, list) and all(isinstance(word, str) for word in words)
    if not texts or len(words) > _MOST_STOPS or any(len(word) > _LONGEST_STOP for word in words):
        message = f'stop must be a string or at most {_MOST_STOPS} strings, of up to {_LONGEST_STOP} characters each.'
        raise ApiError(400, message, 'invalid_value', 'stop')
    return tuple(word for word in words if word)


def response_format(value: Any) -> dict[str, Any] | None:
    """``response_format`` as LMDeploy takes it; None where it is that of any answer."""
    kind = value.get('type') if isinstance(value, dict) else None
    if kind == 'text':
        return None
    schema = value.get('json_schema') if kind == 'json_schema' else None
    good = kind == 'json_object' or (
        isinstance(schema, dict) and isinstance(schema.get('name'), str) and isinstance(schema.get('schema'), dict)
    )
    if not good:
        message = (
            f'response_format={_json(value)}; expected {{"type": "text"}}, {{"type": "json_object"}} or {{"type": '
            '"json_schema", "json_schema": {"name": ..., "schema": {...}}}.'
        )
        raise ApiError(400, message, 'invalid_value', 'response_format')
    if (size := len(json.dumps(value))) > _LONGEST_SCHEMA:  # backends compile it
        message = f'response_format has {size:,} characters; expected at most {_LONGEST_SCHEMA:,}.'
        raise ApiError(400, message, 'invalid_value', 'response_format')
    return value
