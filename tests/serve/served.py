"""One tiny model for each kind of directory in ``mmft/serve/backends/support.py``: taught a few answers, and exported.

    python -m tests.serve.served          # writes the table of docs/serving.md

The answers have characters of several bytes, depend on the pictures and on their order, and end by themselves, so that
a server that mixes pictures up, cuts characters in two or stops at another token says something else.
"""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmft.backends import BACKENDS, Support
from mmft.data import ChatEncoder
from mmft.export import convert
from mmft.models import VLM
from mmft.models.tuning import apply_tune
from mmft.serve.backends.support import support_table
from mmft.structures import IGNORE_INDEX
from tests.export.tiny import make_encoder, model_config, random_model
from tests.export.tiny_llava import ANYRES, FAMILY, ONEVISION, ONEVISION_PARTS, PIXELS, llava_config, llava_encoder

__all__ = ['CASES', 'LESSONS', 'Case', 'Lesson', 'Made', 'make', 'table', 'write_table']

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'serving.md'
STAND_INS = Path(__file__).parent / 'internvl_remote'
FULL = dict.fromkeys(('vision', 'projector', 'llm'), 'full')
TOWERS = {'clip_vision_model': 'CLIP', 'siglip_vision_model': 'SigLIP', 'dinov2': 'DINOv2'}
ANY = {  # which language model stands for a row that takes any
    'LlavaForConditionalGeneration': ('Llama',),
    'LlavaNextForConditionalGeneration': ('Llama', 'Mistral'),
    'LlavaOnevisionForConditionalGeneration': ('Qwen2',),
    'LlavaLlamaForCausalLM': ('Llama',),
    'LlavaMistralForCausalLM': ('Mistral',),
    'TinyLlavaForConditionalGeneration': ('StableLM',),
    'MMFTForConditionalGeneration': ('Qwen2',),
}


@dataclass(frozen=True)
class Case:
    """A kind of directory with one of its language models and towers."""

    row: Support
    llm: str
    tower: str

    @property
    def name(self) -> str:
        """Without the words in a path by which LMDeploy takes a chat template of its own."""
        short = re.sub('For.*', '', self.row.architecture).replace('Llava', 'Pictured')
        return f'{short}-{self.llm}-{self.tower}'


def _cases() -> Iterable[Case]:
    for row in support_table():
        towers = [TOWERS[name] for name in row.towers] or ['InternViT' if 'InternVL' in row.architecture else 'CLIP']
        yield from (Case(row, llm, tower) for llm in row.llms or ANY[row.architecture] for tower in towers)


CASES = list(_cases())


@dataclass(frozen=True)
class Lesson:
    """A conversation: questions and answers in turn, the pictures of each question, the last answer to be given."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    pictures: tuple[tuple[Image.Image, ...], ...]

    @property
    def images(self) -> list[Image.Image]:
        return [image for images in self.pictures for image in images]

    @property
    def messages(self) -> list[dict[str, str]]:
        """mmft's messages, the last answer among them."""
        turns = zip(self.questions, self.answers, self.pictures, strict=True)
        return [
            {'role': role, 'content': content}
            for question, answer, images in turns
            for role, content in (('user', '<image>\n' * len(images) + question), ('assistant', answer))
        ]


# One colour each, so that no rule of resizing changes a pixel.
RED, BLUE = Image.new('RGB', (56, 56), (220, 40, 30)), Image.new('RGB', (56, 56), (30, 60, 220))
DISH, RICE, FISH = 'What dish is it? 这是什么菜？', 'Rice rolls 肠粉 🍚.', '鱼汤, fish soup.'

LESSONS = {
    'red': Lesson((DISH,), (RICE,), ((RED,),)),
    'blue': Lesson((DISH,), (FISH,), ((BLUE,),)),
    'red, blue': Lesson(('Which two?',), ('First red, then blue.',), ((RED, BLUE),)),
    'blue, red': Lesson(('Which two?',), ('First blue, then red.',), ((BLUE, RED),)),
    'a turn each': Lesson((DISH, 'And this?'), (RICE, FISH), ((RED,), (BLUE,))),
    'a turn without': Lesson((DISH, 'And in Chinese?'), (FISH, '鱼汤。'), ((BLUE,), ())),
    'text': Lesson(('Hello',), ('你好！ Hello!',), ((),)),
}


@dataclass(frozen=True)
class Made:
    """The model of a case, its encoder, and its export."""

    case: Case
    model: VLM
    encoder: ChatEncoder
    path: Path


def build(case: Case) -> tuple[dict[str, Any], ChatEncoder]:
    """Model dict and encoder. An output table of its own, as the teaching writes answers into it."""
    llm: dict[str, Any] = {'hidden_size': 128, 'tie_word_embeddings': False}
    if case.tower == 'InternViT':
        return model_config(case.llm, **llm), make_encoder(case.llm)
    if 'head_dim' in FAMILY.get(case.llm, {}):
        llm['head_dim'] = 32
    more: dict[str, Any] = {}
    processor: dict[str, Any] = {
        'type': 'PadSquare',
        'tile_size': 56,
        'mean': PIXELS[case.tower].get('pixel_mean', [0.485, 0.456, 0.406]),
    }
    if case.row.architecture.startswith('LlavaNext'):
        more['merge'], processor = {'type': 'AnyResMerge'}, ANYRES
    if case.row.architecture.startswith('LlavaOnevision'):
        more['merge'], processor = ONEVISION_PARTS['merge'], {**ONEVISION, 'mean': processor['mean']}
    return llava_config(case.llm, case.tower, llm=llm, **more), llava_encoder(case.llm, processor)


@torch.no_grad()
def teach(model: VLM, encoder: ChatEncoder) -> None:
    """Make the answers the likeliest: least squares for the output table, from what the rest, random, says of them."""
    model.image_token_id = encoder.image_token_id
    said, wanted = [], []
    for lesson in LESSONS.values():
        sample = encoder(lesson.messages, lesson.images)
        arranged = [torch.tensor(sample.image_sizes), torch.tensor(sample.image_grids)] if sample.image_grids else []
        embeds = model.fuse(sample.input_ids[None], sample.pixel_values, *arranged)
        hidden = model.llm.hidden(embeds, torch.ones(embeds.shape[:2], dtype=torch.long), None)[0]
        answered = sample.labels[1:] != IGNORE_INDEX
        said.append(hidden[:-1][answered])
        wanted.append(sample.labels[1:][answered])
    features, targets = torch.cat(said).double(), torch.cat(wanted)
    head = model.llm.lm.get_output_embeddings()
    scores = 10.0 * torch.nn.functional.one_hot(targets, len(head.weight)).double()
    square = features.T @ features
    square.diagonal().add_(1e-6 * square.diagonal().mean())
    head.weight.copy_(torch.linalg.solve(square, features.T @ scores).T)
    if head.bias is not None:
        head.bias.zero_()
    logits = features.float() @ head.weight.T
    others = logits.scatter(1, targets[:, None], float('-inf')).amax(1)
    assert (logits.gather(1, targets[:, None])[:, 0] - others).min() > 3, 'not learnt'


@functools.cache
def _taught(llm: str, tower: str, merged: str) -> tuple[dict[str, Any], VLM, ChatEncoder]:
    config, encoder = build(next(c for c in CASES if (c.llm, c.tower, _merged(c)) == (llm, tower, merged)))
    model = random_model(config)
    teach(model, encoder)
    return config, model, encoder


def _merged(case: Case) -> str:
    return next((kind for kind in ('LlavaNext', 'LlavaOnevision') if case.row.architecture.startswith(kind)), '')


def make(case: Case, root: Path) -> Made:
    """Export the case's model to ``root/<name>``."""
    config, model, encoder = _taught(case.llm, case.tower, _merged(case))
    tune = apply_tune(model, FULL)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / 'iter_1.pth'
        content = {
            'state_dict': {name: parameter.detach() for name, parameter in model.named_parameters()},
            'encoder': encoder.to_dict(),
            'meta': {
                'mmft_version': '0',
                'config': f'model = {config!r}',
                'base': None,
                'tune': tune,
                'initialised': [name for name, p in model.named_parameters() if not p.requires_grad],
            },
        }
        torch.save(content, checkpoint)
        cfg = {'model': config, 'tune': FULL, 'dtype': 'float32'}
        convert(cfg, checkpoint, root / case.name, case.row.layout, check='none')
    if case.row.remote_code:  # which a base of this layout brings along
        for file in STAND_INS.glob('*.py'):
            shutil.copy(file, root / case.name)
    return Made(case, model, encoder, root / case.name)


def table() -> str:
    """The table of who serves what, in Markdown."""
    lines = [
        '| `--layout` | class in `config.json` | language model | tower | ' + ' | '.join(BACKENDS.values()) + ' | |',
        '|---' * (5 + len(BACKENDS)) + '|',
    ]
    for row in support_table():
        reasons = dict.fromkeys(reason for name in BACKENDS if (reason := getattr(row, name)))
        cells = [
            f'`{row.layout}`',
            f'`{row.architecture}`',
            ', '.join(row.llms) or 'any',
            ', '.join(TOWERS[name] for name in row.towers)
            or ('InternViT' if 'InternVL' in row.architecture else 'any'),
            *('no' if getattr(row, name) else 'yes' for name in BACKENDS),
            '; '.join(reasons),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


BEGIN, END = '<!-- table of python -m tests.serve.served -->\n', '<!-- end of table -->'


def write_table(text: str) -> str:
    """The document with the table of today."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + '\n' + END + rest.split(END, 1)[1]


if __name__ == '__main__':
    DOCUMENT.write_text(write_table(DOCUMENT.read_text(encoding='utf-8')), encoding='utf-8')
