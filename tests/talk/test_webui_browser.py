"""The page in a real browser, used as people use it: mouse, keyboard, files from a folder.

Needs a chromium on the machine (Debian: ``apt-get install chromium fonts-noto-cjk``). Where there is none these tests
are skipped, and the summary of the run says so: a browser is not a Python package, and who changes a config should not
have to install one. What the page's server does is tested without it, in test_webui.py. ``MMFT_REQUIRE_BROWSER=1``
makes a missing chromium a failure, for machines that are meant to have one.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
import time

import pytest
from PIL import Image

from mmft.ports import free_port
from mmft.talk.examples import Examples
from mmft.talk.open_answerer import open_answerer
from mmft.talk.webui import WebUI
from tests.export.tiny import make_base, make_encoder, model_config
from tests.talk.browser import Browser, find_chromium
from tests.talk.fakes import FakeServer, save_picture, save_records

pytestmark = pytest.mark.browser

RED, BLUE = (250, 0, 0), (0, 0, 250)
READY = 'document.querySelector("#box .submit-button")'
ANSWERED = 'document.querySelectorAll("#chat{} .bot").length == {}'
TEXT = '[...document.querySelectorAll("#chat{} .{}")].pop().innerText'


@pytest.fixture(scope='module')
def chromium():
    found = find_chromium()
    if found is None:
        message = 'NO CHROMIUM FOUND: the web page was NOT tried in a browser (apt-get install chromium fonts-noto-cjk)'
        if os.environ.get('MMFT_REQUIRE_BROWSER'):
            pytest.fail(message)
        pytest.skip(message)
    return found


class Served:
    """A page with a model in this process and one on a server."""

    def __init__(self, folder):
        self.say = lambda request: ['是**肠粉**。']
        self.server = FakeServer(lambda request: self.say(request)).__enter__()
        save_records(folder / 'set.jsonl', [(f'{n}.png', f'这是什么菜？ {n}', '肠粉') for n in range(4)])
        self.local = open_answerer(make_base(folder / 'tiny', model_config('Qwen2'), encoder=make_encoder('Qwen2')))
        self.ui = WebUI(
            [self.local, open_answerer(self.server.url)],
            ['before', 'after'],
            Examples(folder / 'set.jsonl'),
            {'max_new_tokens': 12},
        )
        self.url = self.ui.start(port=free_port())

    def pictures(self) -> list[tuple[int, int, int]]:
        """A pixel of each picture of the server's last request."""
        parts = [part for turn in self.server.requests[-1]['messages'] for part in turn['content']]
        urls = [part['image_url']['url'] for part in parts if isinstance(part, dict) and 'image_url' in part]
        return [Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))).getpixel((2, 2)) for url in urls]

    def close(self) -> None:
        self.ui.close()
        self.local.close()
        self.server.__exit__()


@pytest.fixture(scope='module')
def served(chromium, tmp_path_factory):
    made = Served(tmp_path_factory.mktemp('served'))
    yield made
    made.close()


@pytest.fixture(scope='module')
def window(chromium):
    with Browser(chromium) as browser:
        yield browser


@pytest.fixture
def browser(window, served):
    """The page as it is at first."""
    served.say = lambda request: ['是**肠粉**。']
    window.requests.clear()
    window.complaints.clear()
    window.open(served.url)
    window.wait(READY)
    window.wait('document.querySelectorAll("#gallery img").length == 4')
    return window


def type_question(browser: Browser, text: str) -> None:
    browser.click('#box textarea')
    browser.type(text)
    browser.wait(f'document.querySelector("#box textarea").value.endsWith({text!r})')


def attach(browser: Browser, *paths) -> None:
    before = browser.js('document.querySelectorAll("#box .thumbnail-item").length')
    browser.upload('#box input[type=file]', *paths)
    browser.wait(f'document.querySelectorAll("#box .thumbnail-item").length == {before + len(paths)}')


def test_a_picture_a_question_and_both_answers(browser, served, tmp_path):
    picture = save_picture(tmp_path / 'red.png', RED, (300, 200))
    attach(browser, picture)
    type_question(browser, '图中的菜叫什么？')
    browser.press('Enter', 13)
    for chat in (0, 1):
        browser.wait(ANSWERED.format(chat, 1))
    browser.wait(READY)
    browser.wait('document.querySelector("#verdict").innerText.includes("different answers")')
    assert browser.js(TEXT.format(1, 'bot')).strip() == '是肠粉。'
    assert browser.js(TEXT.format(0, 'bot')).strip()
    for chat in (0, 1):
        assert '图中的菜叫什么？' in browser.js(TEXT.format(chat, 'user'))
        assert browser.wait(f'document.querySelector("#chat{chat} .user img").naturalWidth') == 300
    assert served.pictures() == [RED]
    # The question is gone from the box, and one can type on.
    assert browser.js('document.querySelector("#box textarea").value') == ''
    browser.wait('document.activeElement === document.querySelector("#box textarea")')

    browser.click('#save')
    deadline, text = time.monotonic() + 30, ''
    while not text.rstrip().endswith('</html>'):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        files = list(browser.downloads.glob('comparison-*.html'))
        text = files[0].read_text(encoding='utf-8') if files else ''
    answer = served.local.answer([{'role': 'user', 'content': '图中的菜叫什么？'}], [picture], max_new_tokens=12)
    assert html.escape(answer) in text
    assert '是**肠粉**。' in text
    # Saved, it stands on its own.
    browser.open(files[0].as_uri())
    browser.wait('document.querySelectorAll("article").length == 2')
    assert browser.wait('document.querySelector("img").naturalWidth') == 300

    outside = [url for url in browser.requests if not url.startswith((served.url, 'data:', 'blob:', 'file:'))]
    assert outside == []
    assert browser.complaints == []


def test_an_example_is_picked_and_a_conversation_goes_on(browser, served, tmp_path):
    browser.click('#gallery .thumbnail-item')
    browser.wait('document.querySelector("#box textarea").value.startsWith("这是什么菜？")')
    browser.click(READY[len('document.querySelector("') : -len('")')])
    browser.wait('document.querySelector("#verdict").innerText.includes("the dataset says 肠粉")')
    browser.wait(READY)
    assert len(served.pictures()) == 1
    attach(browser, *(save_picture(tmp_path / f'{n}.png', BLUE) for n in range(2)))
    type_question(browser, 'And these two?')
    browser.press('Enter', 13)
    browser.wait(ANSWERED.format(0, 2))
    browser.wait(READY)
    assert served.pictures()[1:] == [BLUE, BLUE]
    assert 'dataset' not in browser.js('document.querySelector("#verdict").innerText')
    browser.click('#forget')
    browser.wait(ANSWERED.format(0, 0))
    assert browser.complaints == []


def test_what_is_no_picture(browser, served, tmp_path):
    asked = len(served.server.requests)
    (tmp_path / 'note.txt').write_text('this is no picture')
    (tmp_path / 'note.jpg').write_text('this is no picture')
    browser.drop('#box', tmp_path / 'note.txt')
    browser.wait('document.body.innerText.includes("rejected")')
    attach(browser, tmp_path / 'note.jpg')
    type_question(browser, 'What is it?')
    browser.press('Enter', 13)
    browser.wait('document.querySelector("#verdict").innerText.includes("note.jpg: not a picture")')
    # Nothing is lost: the wrong file can be taken out, and the question sent again.
    assert browser.js('document.querySelector("#box textarea").value') == 'What is it?'
    browser.wait(READY)
    browser.click('#box .delete-button')
    browser.drop('#box', save_picture(tmp_path / 'blue.png', BLUE))
    browser.wait('document.querySelectorAll("#box .thumbnail-item").length == 1')
    assert len(served.server.requests) == asked
    browser.click('#box textarea')
    browser.press('Enter', 13)
    browser.wait(ANSWERED.format(1, 1))
    browser.wait(READY)
    assert served.pictures() == [BLUE]


def test_one_model_fails_and_the_other_goes_on(browser, served):
    served.say = lambda request: (500, {'error': {'message': 'out of <memory>'}})
    type_question(browser, 'Hello?')
    browser.press('Enter', 13)
    browser.wait('document.querySelector("#verdict").innerText.includes("failed")')
    browser.wait(READY)
    assert 'out of <memory>' in browser.js(TEXT.format(1, 'bot'))
    assert browser.js(TEXT.format(0, 'bot')).strip()
    served.say = lambda request: ['here again']
    browser.click('#again')
    browser.wait('document.querySelector("#chat1").innerText.includes("here again")')
    browser.wait(READY)
    assert browser.js('document.querySelectorAll("#chat0 .bot").length') == 1


@pytest.mark.parametrize('how', ['stop', 'leave'])
def test_an_answer_is_stopped(browser, served, how):
    def endless(request):
        while not served.server.gone.wait(0.02):
            yield 'on '

    served.say = endless
    served.server.gone.clear()
    type_question(browser, 'Go')
    browser.press('Enter', 13)
    browser.wait('document.querySelector("#chat1").innerText.includes("on on")')
    if how == 'stop':
        browser.click('#box .stop-button')
        browser.wait('document.querySelector("#chat1").innerText.includes("stopped")')
        browser.wait(READY)
    else:
        browser.open('about:blank')
    assert served.server.gone.wait(20)


def test_narrow_and_dark(browser):
    try:
        browser.resize(390, 844)
        browser.dark()
        browser.call('Page.reload')
        browser.wait(READY)
        browser.wait('document.querySelectorAll("#gallery img").length == 4')
        assert browser.js('document.documentElement.scrollWidth') <= 390
        boxes = [browser.js(f'document.querySelector("#chat{chat}").getBoundingClientRect().width') for chat in (0, 1)]
        assert min(boxes) > 300
        red, green, blue = browser.js('getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)')[:3]
        assert max(red, green, blue) < 60
    finally:
        browser.dark(False)
        browser.resize(1280, 900)


def test_a_chinese_browser_reads_chinese(chromium, served):
    served.say = lambda request: ['肠粉']
    with Browser(chromium, language='zh-CN') as browser:
        browser.open(served.url)
        browser.wait(READY)
        browser.wait('document.querySelectorAll("#gallery img").length == 4')
        type_question(browser, '这是什么菜？')
        browser.press('Enter', 13)
        browser.wait('document.querySelector("#verdict").innerText.includes("回答不同")')
        text = browser.js('document.body.innerText')
    assert '并排对比' in text
    assert {'重新提问', '重新开始', '保存页面', '采样设置'} <= {line.strip() for line in text.splitlines()}
    assert not re.search(r'Ask again|Start over|Sampling|same answer|side by side', text)
