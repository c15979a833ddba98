"""`make demo` and `make demo-llava`, step by step: draw, train a base, ask, fine-tune, convert, ask again, compare.

Training and conversion are the commands a user would type, run as they stand; what they print is shown.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo_food import report
from demo_food.exam import ask, grade, read_exam
from demo_food.food import Plan, prepare
from demo_food.stages import INTERNVL2, Family, Stage
from mmft.errors import CheckpointError, TrainingError

__all__ = ['Demo']

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Demo:
    """One run of the demo.

    Attributes:
        family: the kind of model, and the stages of its training.
        data: where the pictures go; the families share them.
        work_dir: where checkpoints, models and the report go; None: the family's own place.
        plan: which pictures are drawn.
        options: further ``--cfg-options`` of a stage, by its name.
        seconds: of each phase, filled while it runs.
    """

    family: Family = INTERNVL2
    data: Path = Path('data/demo_food')
    work_dir: Path | None = None
    plan: Plan = field(default_factory=Plan)
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work_dir = self.work_dir or self.family.work_dir

    def run(self) -> dict[str, Any]:
        """All phases in order.

        Returns:
            The results, as they are in ``report.json``.

        Raises:
            TrainingError: a command failed; its own message stands above.
        """
        data, work, family = self.data.resolve(), self.work_dir.resolve(), self.family
        base, tuned = work / 'base', work / 'food'
        # Nothing of an earlier run may pass for a result of this one. (Pictures carry a stamp of their own.)
        self.clear()
        with self.phase('draw', f'drawing food below {self.data}'):
            fresh = prepare(data, self.plan)
            self.say('done' if fresh else 'the pictures of an earlier run are the same: kept')
        exam = read_exam(data / 'heldout.jsonl')
        with self.phase(family.base.name, family.base.told):
            self.train(family.base)
            self.convert(family.base, base)
        with self.phase('ask before', f'asking the base {len(exam)} questions about dishes it has never seen'):
            before = ask(base, exam)
        for stage in family.stages:
            with self.phase(stage.name, stage.told):
                self.train(stage)
        with self.phase('convert', family.converting):
            self.convert(family.stages[-1], tuned)
        with self.phase('ask after', 'asking the exported model the same questions'):
            after = ask(tuned, exam)
        return self.conclude(grade(exam, before, after))

    def clear(self) -> None:
        """Remove what an earlier run left in the work_dir, and nothing else that may lie there."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        for name in ('base', 'food', *(stage.run for stage in (self.family.base, *self.family.stages))):
            if (self.work_dir / name).is_dir():
                shutil.rmtree(self.work_dir / name)
        for name in ('report.json', 'report.html'):
            (self.work_dir / name).unlink(missing_ok=True)

    def train(self, stage: Stage) -> None:
        """``tools/train.py`` on the stage's splits, from what the stages before it made."""
        data, work = self.data.resolve(), self.work_dir.resolve()
        loaders = {'train': stage.train} if stage.val is None else {'train': stage.train, 'val': stage.val}
        options = [
            f'{name}_dataloader.dataset.{key}={value}'
            for name, split in loaders.items()
            for key, value in (('ann_file', data / f'{split}.jsonl'), ('image_root', data))
        ]
        options += [f'{key}={work / made}' for key, made in stage.starts.items()]
        options += self.options.get(stage.name, ())
        config = f'configs/{stage.config}'
        self.command('tools/train.py', config, '--work-dir', str(work / stage.run), '--cfg-options', *options)

    def convert(self, stage: Stage, out: Path) -> None:
        """``tools/pth_to_hf.py`` on the last checkpoint of a run."""
        run = self.work_dir.resolve() / stage.run
        pointer = run / 'last_checkpoint'
        if not pointer.is_file():
            raise CheckpointError(f'{run} holds no checkpoint', expected='one, written at the end of training')
        checkpoint = run / pointer.read_text().strip()
        self.command('tools/pth_to_hf.py', str(checkpoint), str(out))

    def command(self, script: str, *args: str) -> None:
        """Run one of the project's scripts with this Python, and show what it prints."""
        self.say(f'$ python {script} {shlex.join(args)}'.replace(f'{ROOT}{os.sep}', ''))
        done = subprocess.run([sys.executable, str(ROOT / script), *args], cwd=ROOT, check=False)
        if done.returncode:
            raise TrainingError(f'{script} ended with status {done.returncode}', fix='see its message above')

    def conclude(self, results: dict[str, Any]) -> dict[str, Any]:
        """Print the table, write ``report.json`` and ``report.html``."""
        seconds = {name: round(value, 1) for name, value in self.seconds.items()}
        results = {**results, 'seconds': {**seconds, 'total': round(sum(self.seconds.values()), 1)}}
        work = self.work_dir.resolve()
        (work / 'report.json').write_text(json.dumps(results, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
        (work / 'report.html').write_text(report.page(results, seconds, self.family), encoding='utf-8')
        print(f'\n{report.table(results, color=sys.stdout.isatty())}\n')
        self.say(f'{self.work_dir}/report.html shows every picture; {self.work_dir}/food is the fine-tuned model')
        return results

    @contextmanager
    def phase(self, name: str, what: str) -> Iterator[None]:
        """Announce and time one phase."""
        number, phases = len(self.seconds) + 1, 5 + len(self.family.stages)
        bold, off = ('\033[1;36m', '\033[0m') if sys.stdout.isatty() else ('', '')
        print(f'\n{bold}[{number}/{phases}] {what}{off}', flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.say(f'{self.seconds[name]:.0f} s')

    @staticmethod
    def say(text: str) -> None:
        """A line below the current phase's."""
        print(f'      {text}', flush=True)
