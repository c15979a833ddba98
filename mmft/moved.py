"""Module paths of mmft 0.1, kept until 0.3 for configs and projects that import parts by them.

``from mmft.data.images import load_image`` finds the name where it is now and warns with a ``DeprecationWarning``.
``import mmft`` puts one finder behind Python's own, which is asked only where no module of that name exists.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

__all__ = ['MOVED']

# A module that was divided has several places; a name is taken from the first that has it.
MOVED: dict[str, tuple[str, ...]] = {
    'mmft.checkpoint.directory': ('mmft.files.directory',),
    'mmft.checkpoint.layouts': ('mmft.layouts',),
    'mmft.checkpoint.source': ('mmft.files.tensors', 'mmft.json_files'),
    'mmft.data.annotations': ('mmft.data.records.annotations',),
    'mmft.data.anyres': ('mmft.data.pictures.anyres',),
    'mmft.data.collate': ('mmft.data.batches.collate',),
    'mmft.data.dataset': ('mmft.data.records.dataset',),
    'mmft.data.formats': ('mmft.data.records.formats',),
    'mmft.data.image_processor': ('mmft.data.pictures.image_processor',),
    'mmft.data.images': ('mmft.data.pictures.tilers', 'mmft.data.pictures.loading'),
    'mmft.data.loading': ('mmft.data.pictures.loading',),
    'mmft.data.mixture': ('mmft.data.records.mixture',),
    'mmft.data.sampler': ('mmft.data.batches.sampler',),
    'mmft.data.splits': ('mmft.data.records.splits',),
    'mmft.data.templates': ('mmft.data.text.templates',),
    'mmft.data.text_encoder': ('mmft.data.text.text_encoder',),
    'mmft.data.tiling': ('mmft.data.pictures.tiling',),
    'mmft.data.tokenizers': ('mmft.data.text.tokenizers', 'mmft.data.text.special_tokens'),
    'mmft.engine.checkpoint': ('mmft.engine.training_state', 'mmft.engine.run_folder'),
    'mmft.engine.memory': ('mmft.engine.planning.memory',),
    'mmft.engine.plan': ('mmft.engine.planning.dry_run',),
    'mmft.engine.validate': ('mmft.engine.judging.config',),
    'mmft.models.language.families': ('mmft.models.language',),
    'mmft.serve.answerer': ('mmft.talk.answerer', 'mmft.talk.open_answerer'),
    'mmft.serve.asking': ('mmft.compare.questions',),
    'mmft.serve.backend': ('mmft.serve.backends.choose',),
    'mmft.serve.compare': ('mmft.compare.results',),
    'mmft.serve.compare_page': ('mmft.compare.page',),
    'mmft.serve.dialects': ('mmft.serve.gateway.dialects',),
    'mmft.serve.protocol': ('mmft.serve.gateway.intake.request',),
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for the modules of ``MOVED``, with a module that hands its names on."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        places = [importlib.import_module(name) for name in MOVED[module.__name__]]
        warnings.warn(
            f'{module.__name__} is now {" and ".join(MOVED[module.__name__])}; the old path goes in 0.3',
            DeprecationWarning,
            stacklevel=6,  # the import statement, behind importlib's own frames
        )

        def find(name: str) -> Any:
            for place in places:
                if hasattr(place, name):
                    return getattr(place, name)
            raise AttributeError(f'module {module.__name__!r} has no attribute {name!r}')

        module.__getattr__ = find


if not any(
    type(finder).__name__ == _Finder.__name__ and type(finder).__module__ == __name__ for finder in sys.meta_path
):
    sys.meta_path.append(_Finder())
