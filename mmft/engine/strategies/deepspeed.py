"""DeepSpeed's ZeRO (arXiv:1910.02054) behind the same loop and checkpoints; the one file that imports deepspeed.

Checkpoints are those of any other run: rank 0 writes whole float32 weights and optimizer states under the parameters'
own names, so that a run can go on with another stage, another number of processes, or without DeepSpeed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from mmft.checks import is_whole
from mmft.engine.compat import link_optimizer_states, without_deepspeed_compilation
from mmft.engine.optim import OptimWrapper, build_optimizer, check_state
from mmft.engine.plain import plain_value
from mmft.engine.strategies.base import Sharding, Strategy
from mmft.engine.strategies.collectives import model_device, rank, world_size
from mmft.engine.strategies.deepspeed_config import (
    check_deepspeed,
    deepspeed_config,
    of_run,
    read_setting,
    sharding_of,
)
from mmft.errors import ConfigError
from mmft.registry import OPTIM_WRAPPERS, STRATEGIES

__all__ = ['DeepSpeedOptimWrapper', 'DeepSpeedStrategy', 'initialize', 'load_scaler_state', 'scaler_state']

MOMENTS = ('exp_avg', 'exp_avg_sq')


@STRATEGIES.register_module('deepspeed')
class DeepSpeedStrategy(Strategy):
    """Weights, gradients and optimizer states in shards, as ``deepspeed`` of a config says."""

    usual_gpus = 8

    def problems(self) -> Iterator[Any]:
        setting, optim, loader = (
            plain_value(self.cfg.get(key)) for key in ('deepspeed', 'optim_wrapper', 'train_dataloader')
        )
        optimizer = optim.get('optimizer') if isinstance(optim, Mapping) else None
        content = setting
        with suppress(ConfigError):  # which check_deepspeed reports
            content = read_setting(setting)
        zero = content.get('zero_optimization', {}) if isinstance(content, Mapping) else {}
        stage = zero.get('stage', 0) if isinstance(zero, Mapping) else None
        if stage is None or not is_whole(stage, least=0) or stage > 3:
            yield f'deepspeed.zero_optimization = {zero!r}; expected a dict with a stage from 0 to 3'
        with suppress(AttributeError, ConfigError, TypeError, ValueError):  # of a setting that is wrong itself
            if 'qlora' in self._tuned() and sharding_of(setting, 1).stage == 3:
                yield "tune: 'qlora' with ZeRO-3, which cannot shard 4-bit weights; use zero2, or 'lora'"
        try:
            run = of_run(optim or {}, loader.get('batch_size') if isinstance(loader, Mapping) else None)
        except (AttributeError, TypeError, ValueError):  # settings that are wrong themselves, and are reported as such
            run = {}
        try:
            check_deepspeed(setting, optimizer.get('type') if isinstance(optimizer, Mapping) else 'AdamW', run)
        except ConfigError as error:
            yield from error.problems

    def _tuned(self) -> list[str]:
        """How the parts are tuned, as far as the config says it rightly."""
        tune = self.cfg.get('tune')
        specs = tune.values() if isinstance(tune, Mapping) else ()
        return [spec.get('type') if isinstance(spec, Mapping) else str(spec) for spec in specs]

    def packages(self) -> Iterator[tuple[str, str, str]]:
        yield f'deepspeed = {plain_value(self.cfg.deepspeed)!r}', 'deepspeed', "'mmft[deepspeed]'"

    def sharding(self, gpus: int) -> Sharding:
        optimizer = (self.cfg.get('optim_wrapper') or {}).get('optimizer') or {}
        check_deepspeed(self.cfg.deepspeed, optimizer.get('type'))
        return sharding_of(self.cfg.deepspeed, gpus)

    @property
    def launcher(self) -> str:
        """A run without launcher is a group of one process, as ZeRO needs a group."""
        named = super().launcher
        return 'pytorch' if named == 'none' else named

    def join(self, timeout: float | None = None) -> None:
        if super().launcher == 'none':
            for name, value in (('RANK', 0), ('LOCAL_RANK', 0), ('WORLD_SIZE', 1), ('MASTER_ADDR', '127.0.0.1')):
                os.environ.setdefault(name, str(value))
        super().join(timeout)

    def prepare(self, model: nn.Module) -> tuple[nn.Module, OptimWrapper]:
        """DeepSpeed moves the model itself, after it has made 16-bit weights of float32 ones."""
        return initialize(model, self.cfg.deepspeed, self.cfg.optim_wrapper)


def initialize(
    model: nn.Module, setting: str | Mapping[str, Any], optim: Mapping[str, Any]
) -> tuple[nn.Module, DeepSpeedOptimWrapper]:
    """A DeepSpeed engine around ``model``, and its optimizer wrapper.

    Raises:
        ConfigError: deepspeed is not installed, or see ``deepspeed_config``.
    """
    config = deepspeed_config(setting, optim, getattr(getattr(model, 'llm', None), 'hidden_size', None))
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError('--deepspeed without deepspeed', fix="pip install 'deepspeed>=0.19,<0.20'") from error
    without_deepspeed_compilation()
    if config['fp16'].get('enabled') and not deepspeed.get_accelerator().is_fp16_supported():
        raise ConfigError(
            f"optim_wrapper.dtype = 'float16' with DeepSpeed, which does not compute it on {model_device(model).type}",
            expected='a GPU',
            fix="set optim_wrapper.dtype='bfloat16', or deepspeed=None",
        )
    optimizer = build_optimizer(model, optim)
    trained = [list(group['params']) for group in optimizer.param_groups]
    if not config['bf16'].get('enabled') and not config['fp16'].get('enabled'):
        model.float()
    # DeepSpeed casts buffers with the weights; rope tables and pixel means lose what they need in 16 bits.
    exact = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for name, buffer in engine.module.named_buffers():
        if name in exact:
            buffer.data = exact[name].to(buffer.device)
    link_optimizer_states(engine.optimizer)
    return engine, DeepSpeedOptimWrapper(engine, trained, optim.get('accumulative_counts', 1))


@OPTIM_WRAPPERS.register_module()
class DeepSpeedOptimWrapper(OptimWrapper):
    """The interface of ``OptimWrapper`` over a DeepSpeed engine, which casts, scales, clips and shards by itself.

    Args:
        engine: what ``deepspeed.initialize`` gave.
        trained: the model's own parameters of each group; in the engine's groups flat pieces stand in their place.
        accumulative_counts: micro-batches per step.
    """

    def __init__(self, engine: Any, trained: list[list[nn.Parameter]], accumulative_counts: int = 1) -> None:
        self.engine, self.trained = engine, trained
        self.device = engine.device
        super().__init__(engine.optimizer.optimizer, accumulative_counts)  # torch's, whose groups hold the rates

    def first_device(self) -> torch.device:
        """The engine's: pieces of the optimizer may lie elsewhere."""
        return self.device

    @property
    def checks_gradients(self) -> bool:
        """The float16 engine backs off by itself."""
        return not self.engine.fp16_enabled()

    def autocast(self) -> AbstractContextManager:
        """Does nothing: the engine's weights have the dtype of the computation."""
        return nullcontext()

    def micro_batch(self, model: nn.Module, last: bool) -> AbstractContextManager:
        """Tells the engine whether gradients are reduced now."""
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backward through the engine."""
        self.engine.backward(loss, **kwargs)
        self._inner_count += 1

    def update(self, check: Callable[[float], None]) -> float:
        """Clip, step and clear; the engine knows the norm only afterwards.

        Returns:
            The gradient norm before clipping; infinite where the float16 engine left the step out.
        """
        self.step()
        if not self.checks_gradients and not self.engine.was_step_applied():
            return float('inf')
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        if self.checks_gradients:
            check(norm)
        return norm

    def leave_out_vision(self) -> None:
        """Does nothing: the engine steps all that it shards, here with gradients of zero."""

    def step(self, **kwargs: Any) -> None:
        """The engine's step, which also clips and clears."""
        self.engine.step()

    def zero_grad(self, **kwargs: Any) -> None:
        """Does nothing: the engine's step did it."""

    # -- whole tensors of sharded ones; all of these are collective calls --------------------------------------------

    def read(self, parameter: nn.Parameter) -> Tensor:
        """The float32 master of a parameter, whole."""
        from deepspeed.utils import safe_get_full_fp32_param

        whole = safe_get_full_fp32_param(parameter)
        return (parameter if whole is None else whole).detach()

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set a parameter: its float32 master and the copy that the forward pass uses."""
        self._write(parameter, value)
        if hasattr(parameter, 'ds_tensor'):
            parameter.ds_tensor.data.copy_(_piece(parameter, value))
        else:
            parameter.data.copy_(value)

    def _write(self, parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
        from deepspeed import utils

        value = value.to(self.device, torch.float32)
        if hasattr(parameter, 'ds_tensor'):
            value = _piece(parameter, value)
            if key is None:
                utils.safe_set_local_fp32_param(parameter, value)
            else:
                utils.safe_set_local_optimizer_state(parameter, value, key)
        elif key is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, key)

    def state_dict(self) -> dict[str, Any]:
        """In the form of torch's optimizer, so that any other run reads it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state: dict[int, dict[str, Tensor]] = {}
        groups, steps = [], self._steps()
        for group, parameters in zip(self.optimizer.param_groups, self.trained, strict=True):
            numbers = list(range(len(state), len(state) + len(parameters)))
            for number, parameter in zip(numbers, parameters, strict=True):
                moments = {key: safe_get_full_optimizer_state(parameter, key).cpu() for key in MOMENTS} if steps else {}
                state[number] = {'step': torch.tensor(float(steps)), **moments}
            groups.append({**{key: value for key, value in group.items() if key != 'params'}, 'params': numbers})
        scaler = {} if self.checks_gradients else scaler_state(self.engine.optimizer.loss_scaler)
        return {'optimizer': {'state': state if steps else {}, 'param_groups': groups}, 'scaler': scaler}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """What ``state_dict`` gave, here or in a run without DeepSpeed; the settings of the groups stay this run's."""
        saved = state_dict['optimizer']
        check_state(self.optimizer, saved['state'])
        number = 0
        for parameters in self.trained:
            for parameter in parameters:
                for key in MOMENTS if number in saved['state'] else ():
                    self._write(parameter, saved['state'][number][key], key)
                number += 1
        if saved['state']:
            done = float(saved['state'][0]['step'])
            for state in self._inner_states():
                state['step'] = torch.full_like(torch.as_tensor(state['step']), done)
        if not self.checks_gradients and state_dict['scaler']:
            load_scaler_state(self.engine.optimizer.loss_scaler, state_dict['scaler'])

    def _inner_states(self) -> list[dict[str, Any]]:
        return [state for state in self.optimizer.state.values() if 'step' in state]

    def _steps(self) -> int:
        return max((int(state['step']) for state in self._inner_states()), default=0)  # float16 may have left all out


def scaler_state(scaler: Any) -> dict[str, Any]:
    """DeepSpeed's dynamic loss scale in the form of torch's ``GradScaler``, and what only DeepSpeed counts."""
    since = scaler.cur_iter - scaler.last_overflow_iter - 1
    return {
        'scale': float(scaler.cur_scale),
        'growth_factor': scaler.scale_factor,
        'backoff_factor': 1 / scaler.scale_factor,
        'growth_interval': scaler.scale_window,
        '_growth_tracker': since % scaler.scale_window,
        'since_overflow': since,
        'hysteresis': scaler.cur_hysteresis,
    }


def load_scaler_state(scaler: Any, state: Mapping[str, Any]) -> None:
    """What ``scaler_state`` gave, or torch's ``GradScaler``."""
    scaler.cur_scale = float(state['scale'])
    scaler.cur_iter = 0
    scaler.last_overflow_iter = -1 - int(state.get('since_overflow', state['_growth_tracker']))
    scaler.cur_hysteresis = int(state.get('hysteresis', scaler.cur_hysteresis))


def _piece(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """This rank's part of a value under ZeRO-3; the last one is filled up with zeros."""
    size = parameter.ds_tensor.ds_numel
    flat = nn.functional.pad(value.flatten(), (0, size * world_size() - value.numel()))
    return flat[size * rank() : size * (rank() + 1)]
