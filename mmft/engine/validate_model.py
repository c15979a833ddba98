"""Whether a config's model can be built, tuned and filled with weights: on the meta device, in a second or two."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmft.checkpoint.layouts.parts import PARTS, WEIGHT_SUFFIXES
from mmft.checkpoint.load import build_meta
from mmft.engine.build import plain_dict, plain_pretrained, plain_value
from mmft.engine.checkpoint import find_last
from mmft.engine.init_from import find_source
from mmft.engine.memory import tune_on_meta
from mmft.errors import ConfigError, MMFTError
from mmft.models.tuning import check_tune
from mmft.models.vlm import VLM
from mmft.registry import IMAGE_PROCESSORS, LANGUAGE_MODELS

__all__ = ['model_problems', 'nearest', 'weight_problems']


def nearest(name: str, known: Any, cutoff: float = 0.5) -> str:
    """``; did you mean 'x'?`` for a name that is close to a known one."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f'; did you mean {near[0]!r}?' if near else ''


def model_problems(cfg: Config) -> list[str]:
    """All that keeps the parts of a config from being one model, tuned as it says."""
    problems = [*_language_model(cfg), *_tune(cfg)]
    if problems or not isinstance(cfg.get('model'), Mapping):
        return problems
    try:
        model = build_meta(plain_dict(cfg.model))
        problems += _pictures(cfg, model)
        tune_on_meta(model, plain_dict(cfg.get('tune') or {}))
    except MMFTError as error:
        problems.append(str(error))
    except (TypeError, ValueError, ZeroDivisionError, AssertionError, RuntimeError) as error:
        # What torch, transformers or timm say of sizes that do not fit.
        problems.append(f'model: it cannot be built: {type(error).__name__}: {error}')
    return problems


def _language_model(cfg: Config) -> Iterator[str]:
    llm = (cfg.get('model') or {}).get('llm')
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
        yield from re.sub(r'^\d+ problems in the config:\n|^\d+\. ', '', str(error), flags=re.M).split('\n')
    except (TypeError, ValueError) as error:
        yield f'tune = {cfg.get("tune")!r}: {error}'

    tune = cfg.get('tune')
    specs = tune.values() if isinstance(tune, Mapping) else ()
    kinds = {spec.get('type') if isinstance(spec, Mapping) else str(spec) for spec in specs}
    if 'qlora' in kinds and 'zero3' in str(cfg.get('deepspeed')):
        yield "tune: 'qlora' with ZeRO-3, which cannot shard 4-bit weights; use zero2, or 'lora'"


def _pictures(cfg: Config, model: VLM) -> Iterator[str]:
    """An image processor whose tiles the model does not take, or arranges otherwise."""
    settings = plain_dict(cfg.get('encoder') or {}).get('image_processor')
    if settings is None:
        return
    processor = IMAGE_PROCESSORS.build(settings)
    model.num_image_tokens(processor.tile_size)
    mode = getattr(processor, 'mode', 'flat')
    merge = 'flat' if model.merge is None else 'spatial_unpad' if model.merge.unpad else 'spatial'
    if (getattr(processor, 'arranges', False) and mode != merge) or (model.merge is not None and mode == 'flat'):
        yield (
            f'encoder.image_processor counts tokens of {type(processor).__name__}(mode={mode!r}), but the model puts '
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
            if not _is_there(Path(place)):
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


def _is_there(path: Path) -> bool:
    if path.suffix in WEIGHT_SUFFIXES:
        return path.is_file()
    # A projector's directory may hold its tensors only.
    return (path / 'config.json').is_file() or (path / 'mm_projector.bin').is_file()


def _to_fetch(part: str, place: str, repo: str | None) -> str:
    name = f'pretrained.{part}' if part else 'pretrained'
    what = 'holds no config.json' if Path(place).is_dir() else 'does not exist'
    how = f'download them with `hf download {repo} --local-dir {place}`' if repo else f'put them into {place}'
    return f'     {name} = {place!r} {what}\n     to do: {how}'
