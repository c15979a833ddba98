"""A server under load: many clients at a time, each with a picture of its own, and memory over the minutes.

    python benchmarks/serve.py work_dirs/demo/food --dataset data/demo_food/heldout.jsonl
    python benchmarks/serve.py --url http://127.0.0.1:8000 --clients 32 --seconds 120

With a directory `tools/serve.py` is started before and stopped after, and the memory of each of its processes is
measured, the gateway's apart from the backend's; further options go to it (`--serve-args "--replicas 2"`). Every
question is asked alone first: that answer is the right one. With a directory it is also compared with `model.chat` in
this process. Half of the answers are streamed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Question:
    """A text with its picture's file, encoded."""

    text: str
    image: bytes

    @property
    def messages(self) -> list[dict]:
        kind = 'png' if self.image.startswith(b'\x89PNG') else 'jpeg'
        url = f'data:image/{kind};base64,{base64.b64encode(self.image).decode()}'
        parts = [{'type': 'image_url', 'image_url': {'url': url}}, {'type': 'text', 'text': self.text}]
        return [{'role': 'user', 'content': parts}]


@dataclass
class Run:
    """What happened."""

    outcomes: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


def read_questions(dataset: Path | None, count: int) -> list[Question]:
    """The first questions of a dataset with a picture each, or drawn ones."""
    if dataset is None:
        return [drawn(seed) for seed in range(count)]
    found = []
    for line in dataset.read_text(encoding='utf-8').splitlines()[:count]:
        record = json.loads(line)
        text = record['conversations'][0]['value'].replace('<image>', '').strip()
        found.append(Question(text, (dataset.parent / record['image']).read_bytes()))
    return found


def drawn(seed: int) -> Question:
    """Rectangles of random colours."""
    from PIL import Image, ImageDraw

    dice = random.Random(seed)
    image = Image.new('RGB', (dice.randrange(90, 400), dice.randrange(90, 400)), colour(dice))
    for _ in range(4):
        x, y = dice.randrange(image.width - 20), dice.randrange(image.height - 20)
        ImageDraw.Draw(image).rectangle((x, y, x + 80, y + 60), colour(dice))
    stream = io.BytesIO()
    image.save(stream, 'PNG')
    return Question('What is in the picture?', stream.getvalue())


def colour(dice: random.Random) -> tuple[int, int, int]:
    return dice.randrange(256), dice.randrange(256), dice.randrange(256)


@contextmanager
def served(directory: str, options: list[str]) -> Iterator[tuple[str, int]]:
    """(URL, process id) of `tools/serve.py`."""
    command = [sys.executable, str(ROOT / 'tools/serve.py'), directory, '--port', '0', *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            print(line, end='', flush=True)
            if found := re.search(r'is served at (http://\S+)/v1', line):
                yield found[1], process.pid
                return
        raise SystemExit('the server did not start')
    finally:
        process.terminate()
        process.wait(60)


def resident(pid: int) -> dict[str, float]:
    """MiB of a process, mmft's gateway, and of each below it, by program and process id."""
    import psutil

    whole, found = psutil.Process(pid), {}
    for process in (whole, *whole.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # ended since it was listed
            name = 'gateway' if process == whole else program(process.cmdline())
            found[f'{name} ({process.pid})'] = process.memory_info().rss / 2**20
    return found


def program(command: list[str]) -> str:
    """What a process is called: the module or script that its Python runs, else its file.

    >>> program(['/usr/bin/python', '-m', 'lmdeploy', 'serve']), program(['python', 'tools/serve.py', 'x'])
    ('lmdeploy', 'serve.py')
    """
    words = command[1:] if command and Path(command[0]).name.startswith('python') else command
    if words[:1] == ['-m']:
        words = words[1:]
    plain = [Path(word).name for word in words if not word.startswith('-')]
    return plain[0] if plain else 'process'


async def load(url: str, pid: int | None, questions: list[Question], args: argparse.Namespace) -> tuple[Run, list[str]]:
    """Ask alone, then all at once."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f'{url}/v1', api_key=args.api_key, max_retries=0, timeout=600)
    model = (await client.models.list()).data[0].id

    async def ask(question: Question, stream: bool) -> str:
        options = {'model': model, 'messages': question.messages, 'max_tokens': args.max_tokens, 'temperature': 0}
        if not stream:
            return (await client.chat.completions.create(**options)).choices[0].message.content
        pieces = await client.chat.completions.create(stream=True, **options)
        return ''.join([chunk.choices[0].delta.content or '' async for chunk in pieces if chunk.choices])

    right = [await ask(question, stream=False) for question in questions]
    run, end = Run(), time.monotonic() + args.seconds

    async def one(number: int) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            index, started = dice.randrange(len(questions)), time.monotonic()
            try:
                answer = await ask(questions[index], dice.random() < 0.5)
                outcome = 'right' if answer == right[index] else 'wrong'
            except Exception as error:  # whatever it is, it is a failure of the server
                answer, outcome = f'{type(error).__name__}: {error}', 'failed'
            if outcome != 'right' and len(run.examples) < 5:
                run.examples.append(f'{outcome}: {answer!r}, alone {right[index]!r}')
            run.outcomes[outcome] += 1
            run.seconds.append(time.monotonic() - started)

    async def watch() -> None:
        while time.monotonic() < end:
            if pid is not None:
                run.memory.append(resident(pid))
            await asyncio.sleep(args.seconds / 12)

    await asyncio.gather(watch(), *(one(number) for number in range(args.clients)))
    if pid is not None:
        run.memory.append(resident(pid))
    return run, right


def same_as_chat(directory: str, questions: list[Question], right: list[str], max_tokens: int) -> int:
    """How many answers `model.chat` gives too. (Servers resize pictures a little differently.)"""
    import mmft
    from mmft.data import load_image

    model, encoder = mmft.load(directory)
    own = [
        model.chat(encoder, question.text, [load_image(question.image)], max_new_tokens=max_tokens)
        for question in questions
    ]
    return sum(a == b for a, b in zip(own, right, strict=True))


def report(run: Run, right: list[str], args: argparse.Namespace) -> int:
    """Print the table; the status is 1 unless there were answers, and every one was right."""
    times = sorted(run.seconds)
    slowest = f'{times[len(times) // 2]:.2f}, {times[-1]:.2f}' if times else 'none was answered'
    rows = [
        ('clients at a time', args.clients),
        ('seconds', f'{args.seconds:g}'),
        ('questions, different answers', f'{len(right)}, {len(set(right))}'),
        ('answers', len(times)),
        ('failed', run.outcomes['failed']),
        ('wrong', run.outcomes['wrong']),
        ('answers/s', f'{len(times) / args.seconds:.1f}'),
        ('seconds for one, median and slowest', slowest),
        *memory_rows(run.memory),
    ]
    print('\n| | |\n|---|---|')
    for name, value in rows:
        print(f'| {name} | {value} |')
    print(*run.examples, sep='\n')
    return int(not times or run.outcomes['right'] != len(times))


def memory_rows(looks: list[dict[str, float]]) -> list[tuple[str, str]]:
    """A row for each process, and one for all.

    >>> memory_rows([{'gateway (1)': 9.0}, {'gateway (1)': 10.0}, {'gateway (1)': 11.0, 'serve (2)': 5.0}])[0]
    ('MiB of gateway (1) at the start, in the middle, at the end', '10, 10, 11')
    """
    if not looks:
        return []
    # The first look is at a server that has just begun; the second at one that is busy.
    chosen = [looks[place] for place in (min(1, len(looks) - 1), len(looks) // 2, -1)]
    names = dict.fromkeys(name for look in chosen for name in look)
    rows = [(name, [look.get(name) for look in chosen]) for name in names]
    if len(rows) > 1:
        rows.append(('all processes', [sum(look.values()) for look in chosen]))
    return [
        (
            f'MiB of {name} at the start, in the middle, at the end',
            ', '.join('-' if size is None else f'{size:.0f}' for size in sizes),
        )
        for name, sizes in rows
    ]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('directory', nargs='?', help='what to serve')
    parser.add_argument('--url', help='a server that runs already')
    parser.add_argument('--api-key', default='none')
    parser.add_argument('--dataset', type=Path, help='a jsonl file whose pictures lie beside it')
    parser.add_argument('--questions', type=int, default=40)
    parser.add_argument('--clients', type=int, default=32)
    parser.add_argument('--seconds', type=float, default=120.0)
    parser.add_argument('--max-tokens', type=int, default=24)
    parser.add_argument('--serve-args', default='')
    args = parser.parse_args()
    if (args.directory is None) == (args.url is None):
        parser.error('name a directory or a --url')
    questions = read_questions(args.dataset, args.questions)
    if args.url is not None:
        run, right = asyncio.run(load(args.url.rstrip('/').removesuffix('/v1'), None, questions, args))
    else:
        with served(args.directory, shlex.split(args.serve_args)) as (url, pid):
            run, right = asyncio.run(load(url, pid, questions, args))
        same = same_as_chat(args.directory, questions, right, args.max_tokens)
        print(f'asked alone: {same} of {len(right)} answers are those of model.chat')
    return report(run, right, args)


if __name__ == '__main__':
    sys.exit(main())
