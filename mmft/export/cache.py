"""Exports made in order to be served: kept, and made again when anything they come from has changed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmft import __version__
from mmft.errors import ConfigError
from mmft.files.directory import ModelDirectory
from mmft.files.path_errors import not_a_model

__all__ = ['UnservedError', 'cached_export', 'default_cache']


class UnservedError(ConfigError):
    """A model that no layout of the other backends than mmft's own can hold.

    Args:
        why: what stands in the way.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f'no backend serves this model. {why}',
            expected='a model that the layouts of --layout hf can hold',
            fix='serve it with --backend mmft, or ask it with mmft chat, mmft webui or mmft compare: these run every '
            'model of mmft',
        )


def default_cache() -> Path:
    """Where exports go that belong to no work_dir: ``$XDG_CACHE_HOME/mmft/exports``, by default below ``~/.cache``."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmft' / 'exports'


def cached_export(
    config: str | os.PathLike | Mapping[str, Any],
    checkpoint: str | os.PathLike | None,
    cache: str | os.PathLike | None = None,
    log: Callable[[str], None] = print,
    native: bool = False,
    base: str | os.PathLike | None = None,
) -> Path:
    """A directory that backends serve, of a training or of a directory in another layout.

    Args:
        config: of the training: a dict or a file; ``{'pretrained': DIR}`` for a directory as it is.
        checkpoint: the ``.pth``; None: the base alone.
        cache: where it goes; None: ``exports/`` beside the checkpoint, or ``default_cache()``.
        log: called with a line when something is written.
        native: a model that no layout of the backends holds is written in mmft's own, which only ``mmft.load`` reads.
        base: of an adapter directory that ``pretrained`` names.

    Raises:
        CheckpointError, ConfigError: as ``mmft.export.convert``.
    """
    from mmengine.config import Config

    from mmft.user_code import resolve_code

    if isinstance(config, (str, os.PathLike)):
        if not Path(config).is_file():
            raise ConfigError(f'no config {config}', expected='a file', fix='name the copy in the work_dir')
        config = Config.fromfile(config, import_custom_modules=False)
    if isinstance(config, Config):
        config = resolve_code(copy.deepcopy(config))
    cfg = config.to_dict() if hasattr(config, 'to_dict') else dict(config)
    directories = _directories(cfg.get('pretrained'), base)
    sources = [*([Path(checkpoint)] if checkpoint is not None else []), *directories]
    if checkpoint is not None and not Path(checkpoint).exists():
        raise ConfigError(f'{checkpoint} does not exist', fix='check --checkpoint')
    folder = Path(cache) if cache is not None else _folder(checkpoint)
    out = folder / f'{sources[0].stem if sources else "model"}-{_mark(cfg, sources)}'
    own = out.with_name(f'{out.name}-native')  # which a server must not find in the place of the other
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f'.{out.name}.lock'):
        for made in (out, own) if native else (out,):
            if (made / 'config.json').is_file():
                log(f'exported before: {made}')
                return made
        return _convert(cfg, checkpoint, base, out, own if native else None, log)


def _convert(
    cfg: Mapping[str, Any],
    checkpoint: str | os.PathLike | None,
    base: str | os.PathLike | None,
    out: Path,
    own: Path | None,
    log: Callable[[str], None],
) -> Path:
    """Write ``out`` or, for a model that does not fit, ``own``, where that is allowed."""
    from mmft.export import convert

    try:
        convert(cfg, checkpoint, out, log=log, base=base)
    except ConfigError as error:
        if own is None:
            # It names another layout where this one cannot hold the model; a server has no use for that advice.
            raise UnservedError(error.what) if '--layout' in str(error) else error from None
        try:
            convert(cfg, checkpoint, own, 'native', log=log, base=base)
        except ConfigError:  # not the layout, then
            raise error from None
        return own
    return out


def _folder(checkpoint: str | os.PathLike | None) -> Path:
    if checkpoint is None:
        return default_cache()
    folder = Path(checkpoint).parent / 'exports'
    return folder if os.access(Path(checkpoint).parent, os.W_OK) else default_cache()


def _directories(pretrained: Any, base: str | os.PathLike | None) -> list[Path]:
    """Every directory that ``pretrained`` of a config names, and those that their weights build on."""
    parts = pretrained.values() if isinstance(pretrained, Mapping) else [pretrained]
    places = [place for part in parts for place in (part if isinstance(part, (list, tuple)) else [part])]
    found = [Path(place) for place in places if place]
    if missing := next((path for path in found if not path.exists()), None):
        raise not_a_model(missing)
    below = [ModelDirectory(path, base).base_directory for path in found if path.is_dir()]
    return [*found, *(directory.path for directory in below if directory is not None)]


def _mark(cfg: Mapping[str, Any], sources: list[Path]) -> str:
    """Tells exports apart: by the model and encoder of the config, and by name, size and time of every file read."""
    read = {name: cfg.get(name) for name in ('model', 'encoder', 'pretrained', 'dtype')}
    digest = hashlib.sha256(json.dumps([__version__, read], sort_keys=True, default=repr).encode())
    for source in sources:
        files = [source] if source.is_file() else sorted(file for file in source.rglob('*') if file.is_file())
        for file in files:
            status = file.stat()
            digest.update(f'{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n'.encode())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time; a second one waits and finds the export made."""
    try:
        import fcntl
    except ImportError:  # no such locks on this file system: the last one wins
        yield
        return
    with open(file, 'w') as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
