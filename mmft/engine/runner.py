"""mmft's Runner: mmengine's, with our loops, optimizer wrapper and checkpoints.

What mmengine's Runner gives stays: hooks, logger, visualizer backends, launchers. What is overridden says why.
"""

from __future__ import annotations

import copy
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mmft
from mmft.engine.build import build_dataloader, build_encoder, build_model
from mmft.engine.config_text import config_text
from mmft.engine.hooks.defaults import DEFAULT_HOOKS, build_hook, merged_hooks
from mmft.engine.init_from import InitFrom
from mmft.engine.lock import FolderLock
from mmft.engine.log import without_colours
from mmft.engine.loops import TrainLoop
from mmft.engine.plain import plain_value
from mmft.engine.resume import check_resumable, read_resumable
from mmft.engine.run_folder import candidates, new_run, write_atomic
from mmft.engine.schedule import advance, build_schedulers
from mmft.engine.strategies import strategy_of
from mmft.engine.strategies.collectives import (
    barrier,
    gather,
    is_main,
    main_decides,
    rank,
    unwrap,
    world_size,
)
from mmft.engine.training_state import (
    get_rng,
    initialised_state,
    load_trained,
    plain,
    regrouped,
    set_rng,
    trained_state,
)
from mmft.engine.validation import ValLoop
from mmft.errors import TrainingError, first_line
from mmft.plain_json import config_json
from mmft.user_code import code_of, resolve_code
from mmft.words import count_of

__all__ = ['DEFAULT_HOOKS', 'Runner']

DEFAULT_VISUALIZER = {'type': 'Visualizer', 'vis_backends': [{'type': 'TensorboardVisBackend'}]}


class Runner(mmengine.runner.Runner):
    """Trains the model of a config.

    Args:
        cfg: the whole config.
        model, encoder, train_dataloader, val_dataloader: built already; by default they are built from ``cfg``.

    Attributes:
        encoder: the ``ChatEncoder``, stored with every checkpoint.
        history: metrics of each validation: ``{'iter', 'epoch', 'loss', 'exact_match', ...}``.
        best: ``{'metric', 'value', 'loss', 'iter', 'run', 'data'}`` of the best checkpoint, or empty.
        run, continues: the names of this run (``run_folder.new_run``) and of the one whose checkpoint it resumed.
    """

    def __init__(
        self,
        cfg: Config,
        model: nn.Module | None = None,
        encoder: Any = None,
        train_dataloader: DataLoader | None = None,
        val_dataloader: DataLoader | None = None,
    ) -> None:
        cfg = resolve_code(copy.deepcopy(cfg))
        self.strategy = strategy_of(cfg)
        self.base: dict[str, Any] | None = None
        self.tune: dict[str, Any] = {}
        self.initialised: dict[str, Tensor] = {}
        self._resumable: tuple[Path, dict[str, Any]] | None = None
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.continues: str | None = None
        self._lock = FolderLock(cfg.work_dir)
        self.config_text, self.config_json = config_text(cfg), config_json(cfg.to_dict())
        stem = Path(cfg.filename).stem if cfg.filename else 'run'
        super().__init__(
            model=cfg.model if model is None else model,
            work_dir=cfg.work_dir,
            default_hooks=cfg.get('default_hooks'),
            custom_hooks=cfg.get('custom_hooks'),
            resume=bool(cfg.get('resume', False)),
            launcher=self.strategy.launcher,
            env_cfg=cfg.get('env_cfg', {}),
            log_level=cfg.get('log_level', 'INFO'),
            visualizer=cfg.get('visualizer') or copy.deepcopy(DEFAULT_VISUALIZER),  # mmengine adds keys to it
            default_scope='mmft',
            randomness={'seed': cfg.get('seed'), 'diff_rank_seed': True},
            # mmengine keeps loggers and message hubs by this name: two runs of one process must not share them.
            experiment_name=f'{stem}_{uuid.uuid4().hex[:8]}',
            cfg=cfg,
        )
        # mmengine's seed differs from rank to rank (dropout must); the order of the data has to be the same.
        self.data_seed = main_decides(self.seed)
        if self._resumable is not None and cfg.get('seed') is None:
            self.data_seed = self._resumable[1]['meta']['seed']
        if encoder is None and train_dataloader is None:
            encoder = build_encoder(cfg, self.model)
        self.encoder = encoder
        if train_dataloader is None:
            train_dataloader = build_dataloader(cfg.train_dataloader, self.encoder, self.data_seed)
            if cfg.get('val_dataloader'):
                val_dataloader = build_dataloader(cfg.val_dataloader, self.encoder, self.data_seed, training=False)
        self.model, self.optim_wrapper = self.strategy.prepare(self.model)
        self._train_loop = TrainLoop(self, train_dataloader, **_options(cfg.train_cfg))
        if val_dataloader is not None:
            self._val_loop = ValLoop(self, val_dataloader, **_options(cfg.get('val_cfg') or {}))
        self.order()  # takes the digests of the annotation files now, as they are read
        loop = self._train_loop
        self.param_schedulers = build_schedulers(
            cfg.get('param_scheduler'), self.optim_wrapper, loop.max_iters, loop.epoch_length, self.logger.warning
        )

    @classmethod
    def from_cfg(cls, cfg: Config) -> Runner:
        """The runner of a config."""
        return cls(cfg)

    # -- overrides of building --------------------------------------------------------------------------------------

    def setup_env(self, env_cfg: Mapping[str, Any]) -> None:
        """Also joins the process group, and sets ``tf32``."""
        if (tf32 := self.cfg.get('tf32')) is not None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        self.strategy.join(env_cfg.get('dist_cfg', {}).get('timeout'))
        super().setup_env(dict(env_cfg))
        self._lock_folder()
        self.run = main_decides(new_run(self.work_dir) if is_main() else '')

    def _lock_folder(self) -> None:
        """Before anything is written. Rank 0 takes the lock, and every rank learns whether it could."""
        refusal = None
        if is_main():
            try:
                self._lock.acquire()
            except TrainingError as error:
                refusal = error
        if refusal := main_decides(refusal):
            raise refusal

    def train(self) -> nn.Module:
        """Train, and release the folder.

        Raises:
            TrainingError: a data worker was killed, among others; torch's own error comes with a traceback of anything.
        """
        try:
            return super().train()
        except RuntimeError as error:
            if not str(error).startswith('DataLoader worker'):
                raise
            raise TrainingError(
                f'a process that loads data ended: {first_line(error)}',
                expected='data workers that live as long as the run',
                fix='if the system kills them for memory, lower num_workers or max_pixels of the data; num_workers=0 '
                'loads in the process of the run, and shows any other cause',
            ) from error
        finally:
            self._lock.release()

    def build_model(self, model: nn.Module | Mapping[str, Any]) -> nn.Module:
        """Also loads the base weights and freezes, opens and adapts the parts: mmengine knows neither."""
        self._resumable = self._find_resumable()
        resumed = initialised_state(self._resumable[1]) if self._resumable is not None else None
        if not isinstance(model, nn.Module):
            model, self.base, self.tune, self.initialised = build_model(self.cfg, resumed)
        elif self.cfg.get('init_from') and resumed is None:
            start = InitFrom(plain_value(self.cfg.init_from))
            start.before_tune(model)
            start.after_tune(model)
        return model

    def _find_resumable(self) -> tuple[Path, dict[str, Any]] | None:
        """The checkpoint to continue, where the config asks for it and there is one."""
        resume = self.cfg.get('resume', False)
        if not resume:
            return None
        found = read_resumable(self.work_dir, None if resume is True else resume, self.logger)
        if found is None:
            others = candidates(self.work_dir)
            whose = f' of this run ({count_of(len(others), "file")} of an earlier one)' if others else ''
            self.logger.info(f'no checkpoint{whose} in {self.work_dir} yet: starting from the beginning')
        return found

    def wrap_model(self, model_wrapper_cfg: Mapping[str, Any] | None, model: nn.Module) -> nn.Module:
        """Not yet: the strategy wraps it together with its optimizer."""
        return model

    def register_default_hooks(self, hooks: Mapping[str, Any] | None = None) -> None:
        """Ours in place of mmengine's table; a config's dict is merged into the default of the same name."""
        for hook in merged_hooks(hooks).values():
            self.register_hook(hook)

    def register_hook(self, hook: Hook | Mapping[str, Any], priority: Any = None) -> None:
        """Built by our registry, whose errors name the nearest known hook or argument."""
        hook, own = build_hook(hook)
        super().register_hook(hook, own if priority is None else priority)

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """Named mmft; it also receives what mmft's data reports through ``logging`` (samples left out)."""
        logger = super().build_logger(log_level, log_file, logger_name='mmft', **kwargs)
        without_colours(logger)
        logging.getLogger('mmft').handlers = list(logger.handlers)
        logging.getLogger('mmft').setLevel(log_level)  # else Python holds back all but warnings
        return logger

    def get_hooks_info(self) -> str:
        """One line instead of a page."""
        return ', '.join(type(hook).__name__ for hook in self.hooks)

    def _init_model_weights(self) -> None:
        """Does nothing: weights are set when the model is built; mmengine would initialise them again."""

    def _log_env(self, env_cfg: Mapping[str, Any]) -> None:
        """One line instead of two pages: the whole config is in the work_dir."""
        processes = count_of(self.world_size, 'process', 'processes')
        self.logger.info(
            f'mmft {mmft.__version__}, {processes} on {get_device()}, seed {self.seed}, work_dir {self.work_dir}'
        )

    def dump_config(self) -> None:
        """Whole or not at all, and by rank 0 only."""
        if is_main():
            name = Path(self.cfg.filename).name if self.cfg.filename else 'config.py'
            write_atomic(self.config_text, Path(self.work_dir) / name)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def state(self, done: int) -> dict[str, Any]:
        """Everything a checkpoint holds once ``done`` iterations are finished; a collective call."""
        loop, setup = self.train_loop, self.setup()
        content = {
            **setup,
            'state_dict': {**trained_state(unwrap(self.model), self.optim_wrapper), **self.initialised},
            'optimizer': self.optim_wrapper.state_dict(),
            'param_schedulers': [
                {key: getattr(s, key) for key in ('last_step', '_global_step')} for s in self.param_schedulers
            ],
            'rng': gather(get_rng()),
            'position': {**loop.position(done), **setup['position']},
            'meta': {
                **setup['meta'],
                'mmft_version': mmft.__version__,
                'time': time.strftime('%Y-%m-%d %H:%M:%S'),
                'code': code_of(self.cfg.get('model'), self.cfg.get('encoder')),
                'tune': self.tune,
                'initialised': sorted(self.initialised),
                'seed': self.data_seed,
                'world_size': world_size(),
                'iter': done,
                'epoch': loop.epoch,
                'history': self.history,
                'best': self.best,
                'run': self.run,
            },
        }
        return plain(content)

    def setup(self) -> dict[str, Any]:
        """What a checkpoint says of how this run is set up, at its places there; one to be resumed has to agree."""
        return {
            'param_names': [group['names'] for group in self.optim_wrapper.param_groups],
            'position': {'order': self.order()},
            'encoder': self.encoder.to_dict() if self.encoder is not None else None,
            'meta': {'config': self.config_json, 'base': self.base},
        }

    def order(self) -> dict[str, Any]:
        """What the order of the data depends on: a position means something only where this is the same."""
        loader = self.train_loop.dataloader
        return {
            'samples': len(loader.dataset),
            'batches': self.train_loop.epoch_batches,
            'accumulative_counts': self.train_loop.accumulative_counts,
            'seed': self.data_seed,
            'world_size': world_size(),
            **getattr(loader.batch_sampler, 'settings', {}),
            **getattr(loader.dataset, 'fingerprint', {}),
        }

    def save_checkpoint(self, out_dir: str | Path, filename: str, **_: Any) -> Path:
        """Write the state after the current iteration; mmengine's own file would need pickle to be read."""
        content = self.state(int(filename.split('_')[1].split('.')[0]) if filename.startswith('iter_') else self.iter)
        path = Path(out_dir) / filename
        if is_main():
            write_atomic(content, path)
        barrier()
        return path

    def load_or_resume(self) -> None:
        """Continue the checkpoint that ``resume`` asks for. ``init_from`` was handled when the model was built."""
        if self._has_loaded:
            return
        self._has_loaded = True
        if self._resumable is not None:
            self.resume(*self._resumable)
            self._resumable = None  # its tensors are in the model now

    def resume(self, path: Path, content: Mapping[str, Any]) -> None:
        """Continue from a checkpoint: the rest of the run is the one that was interrupted, bit by bit."""
        check_resumable(path, content, self.setup(), self.logger.warning)
        load_trained(unwrap(self.model), self.optim_wrapper, content, path)
        names = [group['names'] for group in self.optim_wrapper.param_groups]
        self.optim_wrapper.load_state_dict(regrouped(content['optimizer'], content['param_names'], names))
        advance(self.param_schedulers, content['position']['iter'])
        self.train_loop.start_from(content['position'])
        self.history, self.best = content['meta']['history'], content['meta']['best']
        self.continues = content['meta'].get('run')
        # Last, so that nothing draws from the generators between here and the next step. (The data loader has its own.)
        if len(content['rng']) == world_size():
            set_rng(content['rng'][rank()])
        self.logger.info(f'resumed {path}: {self.train_loop.iter} of {self.train_loop.max_iters} iterations are done')


def _options(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cfg.items() if key != 'type'}
