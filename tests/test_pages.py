"""The frame of the HTML pages, and every template that fills it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from string import Template

import pytest

import mmft
from mmft import pages

TEMPLATES = sorted(path for path in Path(mmft.__file__).parent.rglob('*.html') if path.name != 'pages.html')


class Tags(HTMLParser):
    """The open elements, and every address a document names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ('src', 'href')]
        if tag not in ('meta', 'img', 'input', 'br', 'link'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize('template', TEMPLATES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_every_template_makes_one_whole_document(template):
    names = set(Template(template.read_text(encoding='utf-8')).get_identifiers()) - {'title'}
    made = pages.render(template, 'a < b', **{name: f'<i>{name}</i>' for name in names})
    tags = Tags()
    tags.feed(made)
    assert not tags.open
    assert not tags.addresses
    assert [tags.seen.count(tag) for tag in ('html', 'head', 'body', 'title', 'style', 'main')] == [1] * 6
    assert '<title>a &lt; b</title>' in made
    assert '$' not in made
    assert not re.search(r'url\(|@import|https?:', made)


def test_a_value_that_is_not_given(tmp_path):
    template = tmp_path / 'page.html'
    template.write_text('<style>p{margin:0}</style><p>$text costs 5 $$</p>')
    assert '<p>5 costs 5 $</p>' in pages.render(template, '', text=5)
    with pytest.raises(KeyError, match='text'):
        pages.render(template, '')


def test_a_picture_is_in_the_page():
    tag = pages.image_tag(b'\xff\xd8', '"tea" & cake', 'png')
    tags = Tags()
    tags.feed(tag)
    assert tags.addresses == ['data:image/png;base64,' + base64.b64encode(b'\xff\xd8').decode()]
    assert 'alt="&quot;tea&quot; &amp; cake"' in tag


def test_a_page_speaks_the_language_of_the_browser(tmp_path):
    template = tmp_path / 'page.html'
    template.write_text('<style>p{margin:0}</style><p>{{$n dishes|$n 道菜}}</p>$text', encoding='utf-8')
    made = pages.render(template, '', n=3, text='{{a|b}}')
    assert '<p><span class="t" lang="en">3 dishes</span><span class="t" lang="zh">3 道菜</span></p>' in made
    assert '{{a|b}}' in made  # text of others is no markup of ours


def test_no_script_but_the_frames_own_can_run(tmp_path):
    template = tmp_path / 'page.html'
    template.write_text('<style>p{margin:0}</style><p>$text</p>', encoding='utf-8')
    made = pages.render(template, '', text='x')
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', made)[1]
    script = re.search(r'<script>(.*?)</script>', made)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split('; ') == [
        "default-src 'none'", 'img-src data:', "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'",
    ]  # fmt: skip
