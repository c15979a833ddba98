"""The frame of the HTML pages, and every template that fills it."""

from __future__ import annotations

import base64
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
