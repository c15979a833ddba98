"""Whether a config's model can be built, tuned and filled with weights: on the meta device, in a second or two."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config

from mmft.checkpoint.build import build_meta
from mmft.checks import is_whole, value_problem
from mmft.data.pictures.image_processor import ImageProcessor
from mmft.data.text.templates import build_template
from mmft.data.text.tokenizers import has_tokenizer
from mmft.engine.build import checked_encoder, encoder_settings, grown_tune, tune_on_meta
from mmft.engine.init_from import InitFrom
from mmft.engine.judging.common import attempt, is_path, part_problems
from mmft.engine.judging.weights import check_base, opened_start
from mmft.engine.plain import plain_dict, plain_value
from mmft.errors import ConfigError
from mmft.models.tuning import check_tune
from mmft.models.vlm import VLM
from mmft.registry import ENCODERS, IMAGE_PROCESSORS, LANGUAGE_MODELS, MERGES, PROJECTORS, VISION_TOWERS
from mmft.words import did_you_mean

__all__ = ['model_problems']


# In the order in which they are built, and what a part's dict need not say: the widths of its neighbours.
_PARTS = {'vision': VISION_TOWERS, 'llm': LANGUAGE_MODELS, 'projector': PROJECTORS, 'merge': MERGES}
_WIDTHS = {'projector': {'in_dim': 'vision', 'out_dim': 'llm'}, 'merge': {'dim': 'llm'}}


def model_problems(cfg: Config) -> list[str]:
    """All that keeps the parts of a config from being one model, tuned as it says."""
    tuning, encoding = [*_tune(cfg)], [*_encoder(cfg)]
    problems = [*_language_model(cfg), *encoding, *tuning]
    if not isinstance(cfg.get('model'), Mapping):
        return problems
    model = _model(plain_dict(cfg.model), problems)
    key, encoder = 'encoder.image_processor', plain_value(cfg.get('encoder'))
    pictures = encoder.get('image_processor') if isinstance(encoder, Mapping) else None
    processor = attempt(key, lambda: IMAGE_PROCESSORS.build(pictures), problems)
    if model is not None and processor is not None:
        problems += attempt(key, lambda: [*_pictures(processor, model)], problems) or []
    if model is None:
        return problems
    attempt('pretrained', lambda: check_base(cfg, model), problems)
    tune = None if encoding else _with_tokenizer(cfg, model, problems)
    # A table that the tokenizer makes longer has its length only where there is a tokenizer.
    start = None if cfg.get('resize_embeddings') and tune is None else _start(cfg, model, problems)
    if not tuning:
        tuned = attempt('tune', lambda: tune_on_meta(model, tune or plain_dict(cfg.get('tune') or {})), problems)
        if start is not None and tuned is not None:
            attempt('init_from', lambda: start.after_tune(model), problems)
    return problems


def _start(cfg: Config, model: VLM, problems: list[str]) -> InitFrom | None:
    """``init_from``, put into the model as far as shapes go; None where there is none, or it does not fit."""

    def put() -> InitFrom | None:
        if (start := opened_start(cfg)) is not None:
            start.before_tune(model)
        return start

    return attempt('init_from', put, problems)


def _with_tokenizer(cfg: Config, model: VLM, problems: list[str]) -> dict[str, Any] | None:
    """What only the tokenizer knows, where it is there: the tokens that the encoder asks for, and a row for each.

    Returns:
        ``tune`` as ``grown_tune`` gives it, of a model that has grown.
    """
    settings = plain_value(cfg.get('encoder'))
    if not settings or not has_tokenizer(encoder_settings(cfg)['tokenizer'] or ''):
        return None

    def build() -> dict[str, Any]:
        tune = grown_tune(cfg, model)
        checked_encoder(cfg, model)
        return tune

    return attempt('encoder', build, problems)


def _model(settings: Mapping[str, Any], problems: list[str]) -> VLM | None:
    """The model on the meta device. Each part is built by itself first, so that the problems of all are reported."""
    built: dict[str, Any] = {}
    before = len(problems)
    for key, registry in _PARTS.items():
        part = settings.get(key)
        if not isinstance(part, Mapping):
            continue  # it is missing, and the model says so, or it has none
        widths = {name: _width(built.get(of, settings.get(of))) for name, of in _WIDTHS.get(key, {}).items()}
        config = {**widths, **{name: value for name, value in part.items() if name not in _unknown_names(key, part)}}
        if all(config[name] is not None for name in widths):
            with torch.device('meta'):
                made = attempt(f'model.{key}', functools.partial(registry.build, config), problems)
            built |= {} if made is None else {key: made}
    return attempt('model', lambda: build_meta({**settings, **built}), problems) if len(problems) == before else None


def _width(part: Any) -> int | None:
    """``hidden_size`` of a part, or of the dict of one that could not be built, where that names a width."""
    width = part.get('hidden_size') if isinstance(part, Mapping) else getattr(part, 'hidden_size', None)
    return width if is_whole(width, least=1) else None


def _language_model(cfg: Config) -> Iterator[str]:
    model = cfg.get('model')
    llm = model.get('llm') if isinstance(model, Mapping) else None
    if not isinstance(llm, Mapping):
        return
    for key in _unknown_names('llm', llm):
        near = did_you_mean(key, LANGUAGE_MODELS.get(llm['type']).config_names())
        yield f'model.llm.{key}: {llm["type"]} has no such setting{near}'


def _unknown_names(part: str, settings: Mapping[str, Any]) -> list[str]:
    """Settings of a language model that transformers does not know: each is reported by its own name."""
    kind = LANGUAGE_MODELS.get(settings['type']) if part == 'llm' and isinstance(settings.get('type'), str) else None
    known = kind.config_names() if hasattr(kind, 'config_names') else settings
    return [name for name in settings if name not in known]


def _encoder(cfg: Config) -> Iterator[str]:
    """Its type, settings and template. Its tokens are checked with the tokenizer."""
    encoder = plain_value(cfg.get('encoder'))
    if encoder is None:
        return
    yield from part_problems('encoder', ENCODERS, encoder, given=('tokenizer', 'tokens_per_tile'))
    tokenizer = encoder.get('tokenizer') if isinstance(encoder, Mapping) else None
    yield from value_problem('encoder.tokenizer', tokenizer, tokenizer is None or is_path(tokenizer), 'a directory')
    if isinstance(encoder, Mapping) and encoder.get('template') is not None:
        problems: list[str] = []
        attempt('encoder.template', lambda: build_template(encoder['template']), problems)
        yield from problems


def _tune(cfg: Config) -> Iterator[str]:
    try:
        check_tune(cfg.get('tune') or {})
    except ConfigError as error:
        yield from error.problems
    except Exception as error:
        yield f'tune = {cfg.get("tune")!r}: {error}'


def _pictures(processor: ImageProcessor, model: VLM) -> Iterator[str]:
    """An image processor whose tiles the model does not take, or arranges differently."""
    model.num_image_tokens(processor.tile_size)
    mode = getattr(processor, 'mode', 'flat')
    merge = 'flat' if model.merge is None else model.merge.mode
    if (getattr(processor, 'arranges', False) and mode != merge) or (model.merge is not None and mode == 'flat'):
        yield (
            f'encoder.image_processor: {type(processor).__name__}(mode={mode!r}) counts the tokens, but the model puts '
            f'tiles together as {merge!r} (model.merge); the two must be alike'
        )
    elif model.merge is not None and (shrink_to := getattr(processor, 'shrink_to', None)) != model.merge.shrink_to:
        yield (
            f'encoder.image_processor: {type(processor).__name__} counts with shrink_to={shrink_to}, but model.merge '
            f'has shrink_to={model.merge.shrink_to}; the two must be alike (None with AnyResTiler)'
        )
