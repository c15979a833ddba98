"""Persistent buffers: what a model holds beside its parameters, and a checkpoint must hold too.

Running statistics of batch norms are the usual ones. Buffers that are not persistent (rope tables, pixel means) are
computed anew wherever a model is built.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ['is_buffer', 'moving_buffers', 'persistent_buffers', 'tensors_of']


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Name -> buffer of all that ``state_dict`` holds beside parameters."""
    return {
        f'{prefix}.{name}'.lstrip('.'): buffer
        for prefix, owner in module.named_modules()
        for name, buffer in _own(owner).items()
    }


def moving_buffers(module: nn.Module, prefix: str = '') -> dict[str, Tensor]:
    """Name -> persistent buffer of all modules that are in training mode while the model trains.

    ``VLM.train`` keeps modules in which nothing trains in eval mode, with all that is in them.
    """
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return {}
    found = {prefix + name: buffer for name, buffer in _own(module).items()}
    for name, child in module.named_children():
        found |= moving_buffers(child, f'{prefix}{name}.')
    return found


def tensors_of(module: nn.Module, remove_duplicate: bool = True) -> dict[str, Tensor]:
    """Name -> tensor of all that a directory holds of a model: parameters and persistent buffers.

    Args:
        remove_duplicate: name shared parameters once.
    """
    return dict(module.named_parameters(remove_duplicate=remove_duplicate)) | persistent_buffers(module)


def is_buffer(module: nn.Module, name: str) -> bool:
    """Whether ``name`` is that of a buffer inside ``module``."""
    owner, _, leaf = name.rpartition('.')
    return leaf in module.get_submodule(owner)._buffers


def _own(module: nn.Module) -> dict[str, Tensor]:
    passing = module._non_persistent_buffers_set
    return {name: buffer for name, buffer in module._buffers.items() if buffer is not None and name not in passing}
