"""Whether a config's model can be built, tuned and filled with weights: on the meta device, in a second or two."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmft.checkpoint.layouts.parts import PARTS, WEIGHT_SUFFIXES
from mmft.checkpoint.load import build_meta
from mmft.checkpoint.stages import projector_file
from mmft.checks import is_whole
from mmft.data.image_processor import ImageProcessor
from mmft.engine.build import plain_dict, plain_pretrained, plain_value
from mmft.engine.checkpoint import find_last
from mmft.engine.init_from import find_source
from mmft.engine.memory import tune_on_meta
from mmft.errors import ConfigError, MMFTError
from mmft.models.tuning import check_tune
from mmft.models.vlm import VLM
from mmft.registry import IMAGE_PROCESSORS, LANGUAGE_MODELS, MERGES, PROJECTORS, VISION_TOWERS

__all__ = ['model_problems', 'nearest', 'weight_problems']


def nearest(name: str, known: Any, cutoff: float = 0.5) -> str:
    """``; did you mean 'x'?`` for a name that is close to a known one."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f'; did you mean {near[0]!r}?' if near else ''


# In the order in which they are built, and what a part's dict need not say: the widths of its neighbours.
_PARTS = {'vision': VISION_TOWERS, 'llm': LANGUAGE_MODELS, 'projector': PROJECTORS, 'merge': MERGES}
_WIDTHS = {'projector': {'in_dim': 'vision', 'out_dim': 'llm'}, 'merge': {'dim': 'llm'}}


def model_problems(cfg: Config) -> list[str]:
    """All that keeps the parts of a config from being one model, tuned as it says."""
    tuning = [*_tune(cfg)]
    problems = [*_language_model(cfg), *tuning]
    if not isinstance(cfg.get('model'), Mapping):
        return problems
    model = _model(plain_dict(cfg.model), problems)
    key, encoder = 'encoder.image_processor', cfg.get('encoder') or {}
    processor = _attempt(key, lambda: IMAGE_PROCESSORS.build(plain_dict(encoder).get('image_processor')), problems)
    if model is not None and processor is not None:
        problems += _attempt(key, lambda: [*_pictures(processor, model)], problems) or []
    if model is not None and not tuning:
        _attempt('tune', lambda: tune_on_meta(model, plain_dict(cfg.get('tune') or {})), problems)
    return problems


def _attempt(key: str, make: Callable[[], Any], problems: list[str]) -> Any:
    """What ``make`` gives; where it fails None, and what is wrong is added under the config's ``key``."""
    try:
        return make()
    except ConfigError as error:
        problems += [f'{key}: {problem}' for problem in error.problems]
    except MMFTError as error:
        problems.append(f'{key}: {error}')
    except Exception as error:  # what torch, transformers or timm raise of a bad value may be anything
        problems.append(f'{key}: it cannot be built: {type(error).__name__}: {error}')
    return None


def _model(settings: Mapping[str, Any], problems: list[str]) -> VLM | None:
    """The model on the meta device. Each part is built by itself first, so that the problems of all are told."""
    built: dict[str, Any] = {}
    before = len(problems)
    for key, registry in _PARTS.items():
        part = settings.get(key)
        if not isinstance(part, Mapping):
            continue  # it is missing, and the model says so, or it has none
        widths = {name: _width(built.get(of, settings.get(of))) for name, of in _WIDTHS.get(key, {}).items()}
        config = {**widths, **part}
        if all(config[name] is not None for name in widths):
            with torch.device('meta'):
                made = _attempt(f'model.{key}', functools.partial(registry.build, config), problems)
            built |= {} if made is None else {key: made}
    return _attempt('model', lambda: build_meta({**settings, **built}), problems) if len(problems) == before else None


def _width(part: Any) -> int | None:
    """``hidden_size`` of a part, or of the dict of one that could not be built, where that names a width."""
    width = part.get('hidden_size') if isinstance(part, Mapping) else getattr(part, 'hidden_size', None)
    return width if is_whole(width, least=1) else None


def _language_model(cfg: Config) -> Iterator[str]:
    model = cfg.get('model')
    llm = model.get('llm') if isinstance(model, Mapping) else None
    kind = LANGUAGE_MODELS.get(llm['type']) if isinstance(llm, Mapping) and isinstance(llm.get('type'), str) else None
    if kind is None or not hasattr(kind, 'config_names'):
        return
    known = kind.config_names()
    for key in llm:
        if key not in known:
            yield f'model.llm.{key}: {llm["type"]} has no such setting{nearest(key, known)}'


def _tune(cfg: Config) -> Iterator[str]:
    try:
        check_tune(cfg.get('tune') or {})
    except ConfigError as error:
        yield from error.problems
    except Exception as error:
        yield f'tune = {cfg.get("tune")!r}: {error}'

    tune = cfg.get('tune')
    specs = tune.values() if isinstance(tune, Mapping) else ()
    kinds = [spec.get('type') if isinstance(spec, Mapping) else str(spec) for spec in specs]
    if 'qlora' in kinds and 'zero3' in str(cfg.get('deepspeed')):
        yield "tune: 'qlora' with ZeRO-3, which cannot shard 4-bit weights; use zero2, or 'lora'"


def _pictures(processor: ImageProcessor, model: VLM) -> Iterator[str]:
    """An image processor whose tiles the model does not take, or arranges otherwise."""
    model.num_image_tokens(processor.tile_size)
    mode = getattr(processor, 'mode', 'flat')
    merge = 'flat' if model.merge is None else model.merge.mode
    if (getattr(processor, 'arranges', False) and mode != merge) or (model.merge is not None and mode == 'flat'):
        yield (
            f'encoder.image_processor: {type(processor).__name__}(mode={mode!r}) counts the tokens, but the model puts '
            f'tiles together as {merge!r} (model.merge); the two must be alike'
        )


def weight_problems(cfg: Config) -> list[str]:
    """Weights that are to be fetched: one entry for all of them."""
    pretrained, repos = plain_pretrained(cfg), plain_value(cfg.get('pretrained_repo'))
    named = pretrained if isinstance(pretrained, dict) else {'': pretrained} if pretrained else {}
    problems = [
        f'pretrained names the part {part!r}{nearest(part, PARTS)}; expected some of {PARTS}'
        for part in named
        if part and part not in PARTS
    ]
    missing: list[str] = []
    for part, places in named.items():
        places = places if isinstance(places, list) else [places]
        repo = repos.get(part) if isinstance(repos, dict) else repos
        repo = repo if isinstance(repo, (list, tuple)) else [repo] * len(places)
        for place, source in zip(places, repo, strict=False):
            if not _is_there(Path(place), part):
                missing.append(_to_fetch(part, place, source))
    if missing:
        problems.append(f'base weights (looked from {Path.cwd()}):\n' + '\n'.join(missing))
    if isinstance(pretrained, dict) and not pretrained.get('llm') and not (cfg.get('encoder') or {}).get('tokenizer'):
        problems.append('encoder.tokenizer is missing: pretrained names no llm whose tokenizer could be taken')
    if cfg.get('init_from') and not _resumes(cfg):
        source = plain_value(cfg.init_from)
        try:
            find_source(source.get('path', '') if isinstance(source, dict) else source)
        except MMFTError as error:
            problems.append(str(error))
    return problems


def _resumes(cfg: Config) -> bool:
    """Whether a checkpoint goes on, which holds what came from ``init_from``: the earlier run may be gone by then."""
    resume = cfg.get('resume', False)
    return bool(resume) and (isinstance(resume, str) or find_last(cfg.get('work_dir') or '.') is not None)


def _is_there(path: Path, part: str) -> bool:
    if path.suffix in WEIGHT_SUFFIXES:
        return path.is_file()
    # A projector's directory may hold its tensors only.
    return (path / 'config.json').is_file() or (part in ('', 'projector') and projector_file(path) is not None)


def _to_fetch(part: str, place: str, repo: str | None) -> str:
    name = f'pretrained.{part}' if part else 'pretrained'
    what = 'holds no config.json' if Path(place).is_dir() else 'does not exist'
    how = f'download them with `hf download {repo} --local-dir {place}`' if repo else f'put them into {place}'
    return f'     {name} = {place!r} {what}\n     to do: {how}'
