"""What a run starts from and may have to be fetched first: base weights, their tokenizer, an earlier run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmft.checkpoint.encoder import tokenizer_directory
from mmft.checkpoint.load import open_pretrained
from mmft.checkpoint.mismatches import mismatches
from mmft.checkpoint.parts import PARTS, WEIGHT_SUFFIXES, is_user_part
from mmft.data.text.tokenizers import has_tokenizer
from mmft.engine.build import plain_pretrained
from mmft.engine.init_from import InitFrom, find_source
from mmft.engine.judging.common import is_path
from mmft.engine.plain import plain_value
from mmft.engine.run_folder import find_last
from mmft.errors import ConfigError, MMFTError
from mmft.file_names import TOKENIZER_FILES
from mmft.files.directory import ADAPTER_CONFIG, ModelDirectory
from mmft.files.partial import has_folders, projector_file
from mmft.files.tensors import WEIGHT_FILES, fingerprint, has_weights, shards_of
from mmft.gguf_files import is_gguf
from mmft.missing import absent
from mmft.models.vlm import VLM
from mmft.words import did_you_mean

__all__ = ['check_base', 'missing_weights', 'opened_start', 'weight_problems']


def weight_problems(cfg: Config) -> Iterator[str]:
    """Unknown names in ``pretrained``, and a tokenizer that nothing names."""
    pretrained, encoder = plain_pretrained(cfg), plain_value(cfg.get('encoder')) or {}
    for part in pretrained if isinstance(pretrained, dict) else ():
        if part not in PARTS:
            yield f'pretrained names the part {part!r}{did_you_mean(part, PARTS)}; expected some of {PARTS}'
    needed = isinstance(pretrained, dict) or encoder
    if needed and not _named_tokenizer(encoder) and not tokenizer_directory(pretrained):
        given = 'names no llm whose tokenizer could be taken' if isinstance(pretrained, dict) else '= None has none'
        yield (
            f'encoder.tokenizer is missing: pretrained {given}\n'
            '  to do:    set pretrained to the base weights, or encoder.tokenizer to a directory with a tokenizer '
            '(--cfg-options +encoder.tokenizer=PATH)'
        )


def missing_weights(cfg: Config) -> Iterator[str]:
    """What is named and is not there: one entry for all base weights, the tokenizer, what ``init_from`` names."""
    yield from _missing_base(cfg)
    yield from _tokenizer(cfg, plain_pretrained(cfg))
    yield from _missing_start(cfg)


def _missing_start(cfg: Config) -> Iterator[str]:
    if cfg.get('init_from') and not _resumes(cfg):
        source = plain_value(cfg.init_from)
        try:
            find_source(source.get('path', '') if isinstance(source, dict) else source)
        except MMFTError as error:
            yield str(error)


def _missing_base(cfg: Config) -> Iterator[str]:
    pretrained, repos = plain_pretrained(cfg), plain_value(cfg.get('pretrained_repo'))
    named = pretrained if isinstance(pretrained, dict) else {'': pretrained} if pretrained else {}
    missing: list[str] = []
    model = plain_value(cfg.get('model'))
    for part, places in named.items():
        own = part in PARTS and isinstance(model.get(part), dict) and is_user_part(part, model[part])
        places = places if isinstance(places, list) else [places]
        repo = repos.get(part) if isinstance(repos, dict) else repos
        repo = repo if isinstance(repo, (list, tuple)) else [repo] * len(places)
        for place, source in zip(places, repo, strict=False):
            if problem := _missing_part(Path(place), part, own):
                name = f'pretrained.{part}' if part else 'pretrained'
                how = _how(cfg, place, source)
                missing.append(f'     {name} = {place!r} {problem}\n     to do: {how}')
    if missing:
        yield f'base weights (relative to {Path.cwd()}):\n' + '\n'.join(missing)


def check_base(cfg: Config, model: VLM) -> None:
    """The base weights, where they are there, are of the config's model.

    Raises:
        ConfigError: lists settings that differ, and tensors that are missing, left over or of other shapes.
        CheckpointError: weights that cannot be read.
    """
    pretrained = plain_pretrained(cfg)
    if not pretrained or any(_missing_base(cfg)):
        return
    opened = open_pretrained(pretrained, plain_value(cfg.model))
    problems = [*mismatches(model, opened.layout, opened.tensors)]
    if problems:
        more = f'\n  ... and {len(problems) - 8} more' if len(problems) > 8 else ''
        raise ConfigError(
            f'{opened.where} does not fit `model`:\n  ' + '\n  '.join(problems[:8]) + more,
            expected='the model that the weights are of',
            fix='correct the sizes in `model`, or name other weights in `pretrained`',
        )


def opened_start(cfg: Config) -> InitFrom | None:
    """``init_from``, for a model on the meta device; None where there is none, or files of it are not there yet.

    Raises:
        ConfigError: it names parts that no model has.
        CheckpointError: weights that cannot be read.
    """
    if not cfg.get('init_from') or _resumes(cfg) or any(_missing_start(cfg)):
        return None
    start = InitFrom(plain_value(cfg.init_from), plain_value(cfg.model), shapes_only=True)
    if (Path(start.path) / ADAPTER_CONFIG).is_file() and (pretrained := plain_pretrained(cfg)):
        if any(_missing_base(cfg)):
            return None
        try:
            opened = open_pretrained(pretrained, plain_value(cfg.model))
        except MMFTError:  # is reported of `pretrained`
            return None
        start.base = {'path': pretrained, 'fingerprint': fingerprint(opened.tensors)}
    return start


def _how(cfg: Config, place: str, repo: str | None) -> str:
    if repo:
        return f'download them with `hf download {repo} --local-dir {place}`'
    if command := _command(cfg):
        return f'{command} makes them; or put your own into {place}'
    fix = f'put them into {place}'
    return fix if os.path.exists(place) else absent(Path(place), fix)[1]


def _command(cfg: Config) -> str:
    """``pretrained_command`` in words; an installed package has no Makefile."""
    if not (command := cfg.get('pretrained_command')):
        return ''
    clone = command.startswith('make ') and not Path('Makefile').is_file()
    return f'`{command}`' + (' in a clone of mmft' if clone else '')


def _missing_part(path: Path, part: str, own: bool = False) -> str:
    """What keeps ``path`` from being read as the weights of ``part``; empty where nothing does.

    Args:
        own: it is a part of the user's own, whose directory needs no ``config.json``.
    """
    if path.suffix in WEIGHT_SUFFIXES or (part == 'llm' and is_gguf(path)):
        return '' if path.is_file() else 'does not exist'
    if part in ('', 'projector') and projector_file(path) is not None:
        return ''  # a projector's directory may hold its tensors only
    if not path.is_dir():
        return 'does not exist'
    adapter = ModelDirectory(path).is_adapter
    if not own and not (path / 'config.json').is_file():
        return _lacking_base(ModelDirectory(path)) if adapter else 'holds no config.json'
    if adapter or has_folders(path):
        return ''  # its weights lie elsewhere
    return _lacking_files(path) if has_weights(path) else f'holds no weights ({" or ".join(WEIGHT_FILES)})'


def _lacking_base(directory: ModelDirectory) -> str:
    """What an adapter's directory says of a base that is not there."""
    try:
        below = directory.base_directory
    except MMFTError as error:
        return f'cannot be read: {error}'
    return '' if below is None else _missing_part(below.path, '')


def _lacking_files(path: Path) -> str:
    """Shards that the index names and an interrupted download has not brought."""
    index = next((p for name in WEIGHT_FILES if (p := path / f'{name}.index.json').is_file()), None)
    if index is None:
        return ''
    try:
        shards = shards_of(index)
    except MMFTError as error:
        return f'cannot be read: {error}'
    lost = [name for name in shards if not (path / name).is_file()]
    return f'lacks {len(lost)} of {len(shards)} weight files: {", ".join(lost[:3])}' if lost else ''


def _named_tokenizer(encoder: Any) -> Any:
    named = encoder.get('tokenizer') if isinstance(encoder, dict) else None
    return named if is_path(named) else None


def _tokenizer(cfg: Config, pretrained: Any) -> Iterator[str]:
    encoder = plain_value(cfg.get('encoder'))
    place = _named_tokenizer(encoder) or tokenizer_directory(pretrained)
    if not encoder or not place or has_tokenizer(place):
        return
    if Path(place).is_dir():
        what = f'{place} holds no tokenizer'
        fix = 'download its tokenizer files too, or name another directory in encoder.tokenizer'
    elif _named_tokenizer(encoder):
        run = f', or run {command}' if (command := _command(cfg)) else ''
        why, fix = absent(Path(place), f'correct the path{run}')
        what = f'{place} does not exist (relative to {Path.cwd()}): {why}'
    else:
        return  # the base weights, which are to be fetched, bring it
    yield f'encoder.tokenizer: {what}\n  expected: one of {TOKENIZER_FILES}\n  to do:    {fix}'


def _resumes(cfg: Config) -> bool:
    """Whether a checkpoint is resumed, which holds what came from ``init_from``: the earlier run may be gone."""
    resume = cfg.get('resume', False)
    return bool(resume) and (isinstance(resume, str) or find_last(cfg.get('work_dir') or '.') is not None)
