"""The directory that is served: the named one as it is, or an export of it; whether only mmft itself can serve it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mmft.serve.backends.directory_check import HF_NATIVE, ServedDirectory, served_as_it_is
from mmft.serve.settings import ServeSettings, gpus

__all__ = ['Servable', 'language_config', 'servable']

_ASKED = 'it was asked for'


class Servable(NamedTuple):
    """A directory to be served.

    Attributes:
        path: of the directory.
        only_mmft: why only mmft's own backend can serve it; empty where others can.
    """

    path: Path
    only_mmft: str = ''


def servable(settings: ServeSettings, log: Callable[[str], None]) -> Servable:
    """The directory that is served: as given, or an export of what is given.

    Raises:
        CheckpointError: what no backend serves as it is, and mmft cannot read either.
        ConfigError: a model that no other backend than mmft's serves, and another was asked for.
    """
    from mmft.checkpoint.load import open_pretrained
    from mmft.export.cache import UnservedError, cached_export
    from mmft.export.model_path import find_target
    from mmft.serve.backends.with_tags import with_tags

    ours, may_be_ours = settings.backend == 'mmft', settings.backend in ('auto', 'mmft')
    target: Any = (settings.config, settings.checkpoint)
    if settings.directory is not None:
        target = find_target(settings.directory, log)
    if isinstance(target, tuple):
        path = cached_export(*target, settings.cache, log, native=may_be_ours)
        held = ServedDirectory(path).architecture in HF_NATIVE
        return Servable(path, _ASKED if ours else '' if held else 'no layout of the others holds this model')
    path = Path(target)
    if not ours and served_as_it_is(path, settings.trust_remote_code and gpus(settings) > 0):
        return Servable(with_tags(path, settings.cache, log))
    open_pretrained(path, base=settings.base)  # says what is wrong with it, as every other command does
    if ours:
        return Servable(path, _ASKED)
    log(f'{path} is in a layout that is not served as it is: exporting it')
    try:
        return Servable(cached_export({'pretrained': str(path)}, None, settings.cache, log, base=settings.base))
    except UnservedError as error:
        if not may_be_ours:
            raise
        return Servable(path, f'no layout of the others holds this model ({error.why})')


def language_config(path: Path, base: str | Path | None = None) -> dict[str, Any]:
    """The language model's config, by transformers' names, of a directory in any layout; no weights are read."""
    from mmft.checkpoint.load import build_meta, open_pretrained

    llm = build_meta(open_pretrained(path, base=base).layout.model_config).llm
    config = getattr(getattr(llm, 'lm', None), 'config', None)
    return {} if config is None else config.to_dict()
