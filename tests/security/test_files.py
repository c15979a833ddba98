"""Names of programs, planted in every file that mmft reads, at every depth: none runs, and nothing is imported."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import pytest
import torch
from PIL import Image

import mmft
from mmft.data import ChatDataset, ChatEncoder
from mmft.data.pictures.loading import load_image
from mmft.errors import DataError, MMFTError
from mmft.serve.backends.directory_check import check_directory
from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.intake.prompt_count import ProcessorCounter
from mmft.serve.gateway.intake.request import parse_request
from tests.engine.tiny import write_tiny
from tests.security.planted import ELSEWHERE, MODELS_OF, MODULE, NAMES, plants, watched, write_layouts, write_module

FILES = [
    *(('native', name) for name in ('config.json', 'encoder.json', 'generation_config.json', 'tokenizer_config.json')),
    *((name, 'config.json') for name in (*MODELS_OF, 'official', 'llava15', 'tinyllava_model')),
    *(('hf', name) for name in ('config.json', 'encoder.json', 'generation_config.json', 'tokenizer_config.json',
                                'processor_config.json', 'preprocessor_config.json')),
]  # fmt: skip
SERVED = ['config.json', 'generation_config.json', 'processor_config.json', 'preprocessor_config.json',
          'tokenizer_config.json']  # fmt: skip
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch /tmp/zzplanted-has-run') }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('zzplanted') }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x('touch /tmp/zzplanted-has-run') }}{% endfor %}",
    "{{ messages.__class__.__init__.__globals__['sys'].modules['os'].system('true') }}",
    "{{ messages.append('x') }}{% set _ = messages.clear() %}",
    "{% include '/etc/passwd' %}",
]


@pytest.fixture(scope='module')
def directories(tmp_path_factory):
    """A directory of every layout, and a module beside them."""
    root = tmp_path_factory.mktemp('planted')
    write_module(root)
    sys.path.insert(0, str(root))
    yield write_layouts(root)
    sys.path.remove(str(root))


@pytest.fixture
def spoilt(directories):
    """Changes a file of a directory for the time of the test."""
    with contextlib.ExitStack() as stack:

        def change(name, file, text):
            path = directories[name] / file
            old = path.read_text() if path.is_file() else None
            stack.callback(path.unlink if old is None else lambda: path.write_text(old))
            path.write_text(text)
            return directories[name]

        yield change


@pytest.mark.parametrize('name', [*MODELS_OF, 'hf', 'official'])
def test_what_is_planted_in_can_be_read(name, directories):
    model, encoder = mmft.load(directories[name])
    assert encoder is not None
    assert not model.training


@pytest.mark.parametrize(('name', 'file'), dict.fromkeys(FILES))
def test_no_name_in_a_directory_runs(name, file, directories):
    path = directories[name] / file
    text = path.read_text()
    parts = refused = 0
    try:
        for place, kind, changed in plants(json.loads(text)):
            path.write_text(json.dumps(changed))
            is_part = kind == 'type' and place[:1] in [('model',), ('image_processor',), ('template',)]
            is_part = is_part and 'rope_scaling' not in place and file in ('config.json', 'encoder.json')
            parts += is_part
            with watched():
                try:
                    mmft.load(directories[name])
                except MMFTError:
                    refused += is_part
                except TypeError:  # of transformers, for special tokens that are none
                    assert file == 'tokenizer_config.json'
    finally:
        path.write_text(text)
    assert refused == parts
    assert parts or name not in MODELS_OF or file not in ('config.json', 'encoder.json')


@pytest.mark.parametrize('file', SERVED)
def test_no_name_in_a_served_directory_runs(file, directories):
    """What ``mmft serve`` does with it in its own process."""
    path = directories['hf'] / file
    text = path.read_text()
    try:
        for _, kind, changed in plants(json.loads(text)):
            if kind == 'elsewhere':
                path.write_text(json.dumps(changed))
                with watched(), contextlib.suppress(MMFTError):
                    check_directory(directories['hf'])
                    ProcessorCounter(directories['hf'])
    finally:
        path.write_text(text)


@pytest.mark.parametrize('template', ESCAPES)
def test_chat_templates_stay_in_their_sandbox(template, spoilt):
    folder = spoilt('hf', 'chat_template.jinja', template)
    config = json.loads((folder / 'tokenizer_config.json').read_text())
    spoilt('hf', 'tokenizer_config.json', json.dumps({**config, 'chat_template': template}))
    (folder / 'encoder.json').rename(folder / 'encoder.kept')
    try:
        with watched():
            for work in (lambda: mmft.load(folder), lambda: check_directory(folder), lambda: _count(folder)):
                with contextlib.suppress(MMFTError, ApiError):
                    work()
    finally:
        (folder / 'encoder.kept').rename(folder / 'encoder.json')


def _count(folder):
    ProcessorCounter(folder).count([{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}], [], None)


def test_no_name_in_the_encoder_of_a_checkpoint_runs(directories):
    state = ChatEncoder.from_pretrained(directories['native']).to_dict()
    tokenizer = state.pop('tokenizer')
    for place, _, changed in plants(state):
        with watched(), pytest.raises((MMFTError, TypeError)) if place != () else contextlib.suppress(MMFTError):
            ChatEncoder.from_dict({**changed, 'tokenizer': tokenizer})


@pytest.mark.parametrize('kind', [torch.nn.Parameter, torch.Size, torch._utils._rebuild_tensor_v2])
def test_a_type_that_a_pickle_may_hold_is_not_called(kind, directories, tmp_path):
    """``weights_only`` lets some functions and classes through, as values too."""
    state = ChatEncoder.from_pretrained(directories['native']).to_dict()
    state['image_processor']['type'] = kind
    torch.save(state, tmp_path / 'state.pth')
    read = torch.load(tmp_path / 'state.pth', weights_only=True)
    assert read['image_processor']['type'] is kind
    with pytest.raises(MMFTError, match='image processor is named'):
        ChatEncoder.from_dict(read)


@pytest.mark.parametrize('file', ['meta.json', 'train.jsonl'])
def test_no_name_in_data_runs(file, tmp_path):
    write_tiny(tmp_path)
    data = tmp_path / 'data'
    meta = {'food': {'root': str(data), 'annotation': str(data / 'train.jsonl'), 'repeat_time': 1}}
    content = meta if file == 'meta.json' else json.loads((data / 'train.jsonl').read_text().splitlines()[0])
    for _, _, changed in plants(content):
        (data / file).write_text(json.dumps(changed))
        source = {'meta_file': data / file} if file == 'meta.json' else {'ann_file': data / file}
        with watched(), contextlib.suppress(MMFTError):
            dataset = ChatDataset(**source)
            [dataset.record(i) for i in range(len(dataset))]


def test_no_name_in_a_request_runs():
    picture = {'type': 'image_url', 'image_url': {'url': 'data:image/png;base64,AAAA'}}
    messages = [{'role': 'user', 'content': [{'type': 'text', 'text': 'What?'}, picture]}]
    body = {'model': 'food', 'messages': messages, 'response_format': {'type': 'text'}, 'stream_options': {}}
    for _, _, changed in plants(body):
        with watched(), contextlib.suppress(ApiError):
            parse_request(changed, ('food',), ('response_format', 'logit_bias'))


def test_a_picture_that_is_a_program():
    """Pillow runs Ghostscript on PostScript, whatever the file is called and whatever it is wrapped in."""
    script = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n'

    def field(kind, data):
        return b'\x1c' + bytes(kind) + len(data).to_bytes(2, 'big') + data

    head = {(3, 20): b'\0\x28', (3, 30): b'\0\x28', (3, 60): b'\1\0', (3, 120): b'\5'}  # 40 x 40, grey, "jpeg"
    wrapped = b''.join(field(kind, data) for kind, data in head.items()) + field((8, 10), script)
    with Image.open(io.BytesIO(wrapped)) as image:
        assert image.format == 'IPTC'
    for data in (script, wrapped):
        with watched(), pytest.raises(DataError, match='program'):
            load_image(data)


def test_the_watch_sees():
    with pytest.raises(AssertionError), watched():
        __import__('subprocess').run(['true'], check=True)
    assert MODULE in str(ELSEWHERE)
    assert 'subprocess.Popen' in NAMES
