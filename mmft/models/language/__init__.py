"""Language models: thin wrappers over transformers' causal language models, one file per family.

No modeling code of ours and none from a hub. A file that lies here is found: a new family is one more.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from mmft.models.language.causal_lm import CausalLM

_FAMILIES = {
    name: part
    for file in iter_modules(__path__)
    for name, part in vars(import_module(f'{__name__}.{file.name}')).items()
    if isinstance(part, type) and 'family' in vars(part)
}
globals().update(_FAMILIES)

__all__ = ['CausalLM', *_FAMILIES]
