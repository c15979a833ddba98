"""The demos as data: which configs train one after the other, on which pictures, and what each starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ['FAMILIES', 'INTERNVL2', 'LLAVA', 'Family', 'Stage']


@dataclass(frozen=True)
class Stage:
    """One training of a demo.

    Attributes:
        name: what its phase is called.
        config: file below ``configs/``.
        run: folder of the run, below the work_dir.
        train, val: splits of the picture set; val may be None.
        starts: options of the config that name what an earlier stage made: ``{'pretrained': 'base'}``.
        told: what is said of it on the screen.
    """

    name: str
    config: str
    run: str
    train: str
    told: str
    val: str | None = None
    starts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One kind of model: a base that is trained from nothing, and the stages by which it learns the ten dishes.

    Attributes:
        model: its name.
        base: the stage that makes the base.
        stages: from the base to the fine-tuned model, whose run is the last one's.
        converting: what is said of the export on the screen.
        between, between_zh: what happened between the two exams, for the page, in English and Chinese.
        work_dir: where models and report go unless told otherwise.
    """

    model: str
    base: Stage
    stages: tuple[Stage, ...]
    converting: str
    between: str
    between_zh: str
    work_dir: Path


INTERNVL2 = Family(
    model='InternVL2',
    base=Stage(
        name='base',
        config='internvl2_tiny_base.py',
        run='base_run',
        train='base',
        told='training the base: it sees tableware, colours, shapes and six other dishes',
    ),
    stages=(
        Stage(
            name='fine-tune',
            config='internvl2_tiny_food_lora.py',
            run='food_run',
            train='train',
            val='val',
            starts={'pretrained': 'base'},
            told='fine-tuning with LoRA on the ten dishes',
        ),
    ),
    converting='merging LoRA and writing safetensors',
    between='a LoRA fine-tune, export and reload',
    between_zh='LoRA 微调、导出、重新加载',
    work_dir=Path('work_dirs/demo'),
)

LLAVA = Family(
    model='LLaVA',
    base=Stage(
        name='base',
        config='llava_tiny_base.py',
        run='base_run',
        train='base',
        told='training the base: it sees tableware, colours, shapes and six other dishes',
    ),
    stages=(
        Stage(
            name='align',
            config='llava_tiny_food_align.py',
            run='align_run',
            train='train',
            starts={'pretrained': 'base'},
            told='stage one, alignment: captions of the ten dishes, the tower opened from its layer 2 on',
        ),
        Stage(
            name='fine-tune',
            config='llava_tiny_food_tune.py',
            run='food_run',
            train='train',
            val='val',
            starts={'pretrained': 'base', 'init_from': 'align_run'},
            told='stage two, instruction tuning: questions and answers, LoRA, from where stage one ended',
        ),
    ),
    converting='merging LoRA into what stage one left, and writing safetensors',
    between='alignment with part of the tower open, a LoRA fine-tune, export and reload',
    between_zh='开放部分视觉塔的对齐、LoRA 微调、导出、重新加载',
    work_dir=Path('work_dirs/demo_llava'),
)

FAMILIES = {'internvl2': INTERNVL2, 'llava': LLAVA}
