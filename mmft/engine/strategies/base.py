"""How the processes of a run share its work: what every strategy answers to the runner, the checks and the dry run."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from torch import nn

from mmft.engine.compat import init_distributed
from mmft.engine.optim import OptimWrapper
from mmft.engine.strategies.collectives import initialized

__all__ = ['LESS_FOR_WEIGHTS', 'Sharding', 'Strategy']

LESS_FOR_WEIGHTS = "take dtype='bfloat16' for frozen weights, 'qlora' in tune.llm, or --deepspeed zero3 on more GPUs"


@dataclass(frozen=True)
class Sharding:
    """ZeRO (arXiv:1910.02054): stage 0 none, 1 optimizer state, 2 and gradients, 3 and weights, over ``gpus``."""

    stage: int = 0
    gpus: int = 1
    offload: bool = False

    def share(self, from_stage: int) -> float:
        """The part of a quantity that stays on one GPU."""
        return 1 / self.gpus if self.stage >= from_stage else 1.0


class Strategy(abc.ABC):
    """How the processes of a run share its work. One file of this package is one strategy.

    ``problems``, ``packages`` and ``sharding`` are asked of a config before anything of it is known to be right;
    ``launcher``, ``join`` and ``prepare`` belong to a run. The step itself (autocast, backward, clip, step), and whole
    weights and optimizer states of sharded ones for a checkpoint, are those of the ``OptimWrapper`` that ``prepare``
    gives.

    Args:
        cfg: the whole config.
    """

    usual_gpus = 1
    """Processes that a dry run takes where nothing says how many there are."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def problems(self) -> Iterator[Any]:
        """What is wrong with the config's settings of this strategy: text, or errors."""
        return iter(())

    def packages(self) -> Iterator[tuple[str, str, str]]:
        """Optional packages: the setting that needs it, the module, and what to give pip."""
        return iter(())

    def sharding(self, gpus: int) -> Sharding:
        """What ``gpus`` processes keep only a part of each, for the memory plan."""
        return Sharding(gpus=gpus)

    @property
    def launcher(self) -> str:
        """Who started the processes, ``none`` for a single one."""
        return self.cfg.get('launcher') or 'none'

    def join(self, timeout: float | None = None) -> None:
        """Join the process group, where there is one and nobody has done it.

        Args:
            timeout: seconds until a collective gives up.
        """
        if self.launcher != 'none' and not initialized():
            init_distributed(self.launcher, timeout)

    @abc.abstractmethod
    def prepare(self, model: nn.Module) -> tuple[nn.Module, OptimWrapper]:
        """The model where it is to train, as all processes share it, and what steps it.

        Args:
            model: built and tuned, on the CPU.
        """
