"""How the processes of a run share its work: one strategy a file, which the runner asks.

A new one is a file here with a class under ``STRATEGIES`` and a line in ``strategy_of``.
"""

from __future__ import annotations

from mmengine.config import Config

from mmft.engine.strategies.base import Sharding, Strategy
from mmft.engine.strategies.ddp import DDPStrategy
from mmft.engine.strategies.deepspeed import DeepSpeedStrategy
from mmft.engine.strategies.single import SingleStrategy
from mmft.registry import STRATEGIES

__all__ = ['DDPStrategy', 'DeepSpeedStrategy', 'Sharding', 'SingleStrategy', 'Strategy', 'strategy_of']


def strategy_of(cfg: Config) -> Strategy:
    """The strategy of a config: DeepSpeed where ``deepspeed`` is set, DDP under a launcher, else a single process."""
    launched = (cfg.get('launcher') or 'none') != 'none'
    kind = 'deepspeed' if cfg.get('deepspeed') else 'ddp' if launched else 'single'
    return STRATEGIES.build({'type': kind, 'cfg': cfg})
