"""The optimizer wrapper: autocast on any device, gradient scaling for float16, named parameter groups per part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.optim import OptimWrapper as MMEngineOptimWrapper
from torch import Tensor, nn

from mmft.errors import CheckpointError, ConfigError
from mmft.models.lora import is_lora_key
from mmft.models.tuning import part_of
from mmft.registry import OPTIM_WRAPPERS, OPTIMIZERS

__all__ = ['OptimWrapper', 'build_optim_wrapper', 'build_optimizer', 'check_state', 'group_of', 'param_groups',
           'part_options', 'trained_parameters']  # fmt: skip

_FUSED = ('Adam', 'AdamW')  # torch's: one pass over weights and moments instead of ten, on CPUs too


def part_options(part: str) -> tuple[str, ...]:
    """What ``paramwise_cfg.parts`` can set of a part."""
    return ('lr', 'lr_mult', 'weight_decay', *(['layer_decay'] if part == 'vision' else []))


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(MMEngineOptimWrapper):
    """One optimizer step: ``backward`` of each micro-batch, then ``update``.

    mmengine's AmpOptimWrapper asserts a GPU and its accumulation averages the means of micro-batches, so this one
    brings its own autocast and leaves accumulation to ``TrainLoop``, which weights every trained token alike.

    Args:
        optimizer: any torch optimizer.
        accumulative_counts: micro-batches per step (read by ``TrainLoop``).
        clip_grad: arguments of ``clip_grad_norm_`` such as ``dict(max_norm=1.0)``; None measures the norm only.
        dtype: autocast type, ``'bfloat16'`` or ``'float16'``; None computes in the weights' own types.
        loss_scale: first scale of float16 gradients.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        accumulative_counts: int = 1,
        clip_grad: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        loss_scale: float = 2.0**16,
    ) -> None:
        super().__init__(optimizer)
        # With several groups mmengine appends a made-up one, which no checkpoint would hold; ours are all real.
        self.base_param_settings = None
        self.accumulative_counts = accumulative_counts
        self.clip = {'max_norm': float('inf'), **(clip_grad or {})}
        self.dtype = None if dtype in (None, 'float32') else getattr(torch, dtype)
        self.device_type = self.first_device().type
        self.scaler = torch.amp.GradScaler(self.device_type, init_scale=loss_scale, enabled=self.dtype == torch.float16)

    def first_device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self._parameters())).device

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (p for group in self.optimizer.param_groups for p in group['params'])

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add the gradients of ``loss``, scaled in float16."""
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def micro_batch(self, model: nn.Module, last: bool) -> AbstractContextManager:
        """The context of a micro-batch: gradients are exchanged between ranks with the last one only."""
        return nullcontext() if last or not hasattr(model, 'no_sync') else model.no_sync()

    def update(self, check: Callable[[float], None]) -> float:
        """Clip, step and clear.

        Args:
            check: sees the gradient norm before the weights change, and raises if it is not finite. Not called in
                float16, whose scaler starts too high on purpose and leaves such steps out.

        Returns:
            The gradient norm before clipping.
        """
        reached = [p for p in self._parameters() if p.grad is not None]
        if not reached and self.scaler.is_enabled():
            return 0.0  # torch's scaler refuses a step in which nothing has a gradient
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(reached, **self.clip)
        if not self.scaler.is_enabled():
            check(float(norm))
        self.step()
        self.zero_grad()
        return float(norm)

    def leave_out_vision(self) -> None:
        """For a step in which no rank saw a picture: what only pictures reach stays as it is.

        Its gradients are none in one process and zeros under DDP, by which moments and decay would move it.
        """
        for group in self.optimizer.param_groups:
            if group['part'].split('.')[0] != 'llm':
                for parameter in group['params']:
                    parameter.grad = None

    def step(self, **kwargs: Any) -> None:
        """Step. In float16 the scaler leaves out a step whose gradients are not finite."""
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    def read(self, parameter: nn.Parameter) -> Tensor:
        """The whole value of a trained parameter."""
        return parameter.detach()

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set a trained parameter."""
        parameter.data.copy_(value)

    def get_lr(self) -> dict[str, list[float]]:
        """``lr/<part>``: of a part with layer-wise rates the highest."""
        groups = sorted(self.optimizer.param_groups, key=lambda group: group['lr'])
        return {f'lr/{group["part"]}': [group['lr']] for group in groups}

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and scaler."""
        return {'optimizer': self.optimizer.state_dict(), 'scaler': self.scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """What ``state_dict`` gave, but for the settings of the groups: rates, decay and betas stay this run's.

        Raises:
            CheckpointError: the state is that of another kind of optimizer.
        """
        saved = state_dict['optimizer']
        check_state(self.optimizer, saved['state'])
        settings = [{k: v for k, v in group.items() if k != 'params'} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved)
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            parameters = group['params']
            group.clear()
            group.update(own, params=parameters)
        if state_dict['scaler']:
            self.scaler.load_state_dict(state_dict['scaler'])


def check_state(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse the state of an optimizer that keeps other things of a parameter, such as SGD's for AdamW.

    Raises:
        CheckpointError: names what is missing; torch's own answer would be a ``KeyError`` at the first step.
    """
    saved = set(next((entry for entry in state.values() if entry), ()))
    if not saved or not type(optimizer).__module__.startswith('torch.optim'):  # others may not step on a CPU
        return
    probe = nn.Parameter(torch.zeros(1))
    probe.grad = torch.zeros(1)
    fresh = type(optimizer)([probe], lr=optimizer.defaults['lr'])
    fresh.param_groups[0].update(optimizer.defaults)
    fresh.step()
    if missing := set(fresh.state[probe]) - saved:
        raise CheckpointError(
            f'the optimizer of the checkpoint keeps {sorted(saved)} of each parameter, {type(optimizer).__name__} as '
            f'it is set now also {sorted(missing)}',
            expected='the optimizer that the checkpoint was written with; its rates, decay and betas may change',
            fix='put optim_wrapper.optimizer back, or start a new run with init_from',
        )


def group_of(name: str) -> str:
    """The part a parameter belongs to, adapters apart from what they adapt.

    >>> group_of('projector.mlp.1.weight'), group_of('llm.lm.layers.0.q_proj.lora_A.default.weight')
    ('projector', 'llm.lora')
    """
    part = part_of(name)
    return f'{part}.lora' if is_lora_key(name) else part


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that is trained, tied weights once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def param_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, parts: Mapping[str, Mapping[str, float]] | None = None
) -> list[dict[str, Any]]:
    """Trained parameters by part, each part in a group with and one without weight decay.

    Vectors (norms, biases, layer scale, class token) and embedding tables, of positions and of words, do not decay:
    pulling them to zero regularises nothing. All other matrices and kernels do, as under the originals' HF trainer.
    (That one decays tables, and vectors that it does not know for norms or biases, too.)

    Args:
        model: the model, its frozen parameters marked.
        lr: default learning rate.
        weight_decay: default decay.
        parts: per part (``vision``, ``projector``, ``llm``, ``lora`` for all adapters or ``llm.lora`` for those of one
            part) its own ``lr`` (or ``lr_mult``) and ``weight_decay``. An adapter without settings takes those of its
            part. ``vision`` may have a ``layer_decay``: see ``_layer_rates``.

    Raises:
        ConfigError: ``parts`` names a part that is not trained, or an unknown option.
    """
    parts = parts or {}
    trained = trained_parameters(model)
    if not trained:
        raise ConfigError(
            'nothing is trained: every parameter is frozen', fix="open a part in `tune`, such as projector='full'"
        )
    _check_parts(parts, {group_of(name) for name in trained})
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    scales = _layer_rates(model, (parts.get('vision') or {}).get('layer_decay', 1.0))
    groups: dict[tuple, dict[str, Any]] = {}
    for name, parameter in trained.items():
        part = group_of(name)
        options = _options(part, parts)
        decays = parameter.squeeze().ndim > 1 and id(parameter) not in tables and not _is_table(name)
        scale = scales.get(id(parameter), 1.0)
        group = groups.setdefault(
            (part, decays, scale),
            {
                'params': [],
                'names': [],
                'part': part,
                'lr': options.get('lr', lr * options.get('lr_mult', 1.0)) * scale,
                'weight_decay': options.get('weight_decay', weight_decay) if decays else 0.0,
            },
        )
        group['params'].append(parameter)
        group['names'].append(name)
    return list(groups.values())


def _is_table(name: str) -> bool:
    """Whether a parameter that no module holds as its weight is a table by its name, such as ``position_embedding``."""
    return 'embed' in name.removesuffix('.default').rpartition('.')[2]


def _layer_rates(model: nn.Module, decay: float) -> dict[int, float]:
    """The factor of each tower parameter's rate, by its id: ``decay ** (L - i)`` in block i of L, counted from 0.

    All else, the embeddings in front of the blocks, has ``decay ** (L + 1)``. Source: ``trainer_monkey_patch.py`` of
    OpenGVLab/InternVL (``VIT_LAYER_DECAY_RATE``).
    """
    if decay == 1.0:
        return {}
    layers = model.vision.layers
    scales = {id(p): decay ** (len(layers) + 1) for p in model.vision.parameters()}
    return scales | {id(p): decay ** (len(layers) - i) for i, layer in enumerate(layers) for p in layer.parameters()}


def _options(part: str, parts: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    base, _, adapter = part.partition('.')
    names = [part, 'lora', base] if adapter else [part]
    return next((parts[name] for name in names if name in parts), {})


def _check_parts(parts: Mapping[str, Mapping[str, float]], trained: set[str]) -> None:
    known = trained | {'lora' for part in trained if part.endswith('.lora')} | {part.split('.')[0] for part in trained}
    for part, options in parts.items():
        if part not in known:
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg.parts.{part}: no trained parameter belongs to {part!r}',
                expected=f'one of {sorted(known)}',
                fix='open the part in `tune`, or take its learning rate out',
            )
        if wrong := sorted(set(options) - set(part_options(part))):
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg.parts.{part}: unknown {wrong}', expected=f'some of {part_options(part)}'
            )


def build_optimizer(model: nn.Module, cfg: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of ``optim_wrapper`` in a config, over the trained parameters of ``model``."""
    optimizer = dict(cfg['optimizer'])
    paramwise = dict(cfg.get('paramwise_cfg') or {})
    parts = paramwise.pop('parts', {})
    if paramwise:
        raise ConfigError(
            f'optim_wrapper.paramwise_cfg: unknown {sorted(paramwise)}',
            expected='parts=dict(projector=dict(lr=..., weight_decay=...), ...)',
        )
    if 'betas' in optimizer:
        optimizer['betas'] = tuple(optimizer['betas'])
    groups = param_groups(model, optimizer['lr'], optimizer.get('weight_decay', 0.0), parts)
    if optimizer['type'] in _FUSED and all(p.device.type in ('cpu', 'cuda') for p in model.parameters()):
        optimizer.setdefault('fused', True)
    return OPTIMIZERS.build({**optimizer, 'params': groups})


def build_optim_wrapper(model: nn.Module, cfg: Mapping[str, Any]) -> OptimWrapper:
    """The wrapper of ``optim_wrapper`` in a config, over the trained parameters of ``model``."""
    options = {key: value for key, value in cfg.items() if key not in ('optimizer', 'paramwise_cfg')}
    return OPTIM_WRAPPERS.build({'type': 'OptimWrapper', **options, 'optimizer': build_optimizer(model, cfg)})
