"""Several models in one conversation, without a page: replies, histories, examples, the saved comparison."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from datetime import datetime, timezone

import pytest
from PIL import Image

from mmft.errors import ConfigError, DataError, ServerError
from mmft.talk.answerer import Answerer
from mmft.talk.conversation_page import page
from mmft.talk.examples import Example, Examples
from mmft.talk.side_by_side import Conversation, Reply, Turn, check_pictures
from mmft.talk.webui_host import parse_auth
from mmft.talk.webui_text import distinguished, escaped_markdown, left_out_html, messages_of, sampling_of, verdict
from tests.talk.fakes import Said, save_picture, save_records


class Gated(Answerer):
    """Says a word, waits until it is let go, and says the rest."""

    def __init__(self, name: str = 'gated') -> None:
        self.name, self.go, self.closed = name, threading.Event(), threading.Event()

    def _pieces(self, messages, images, settings, stop):
        try:
            yield 'one '
            while not self.go.wait(0.01):
                yield '.'
            yield ' two'
        finally:
            self.closed.set()


def ask(talk: Conversation, *arguments, **more) -> Turn:
    """Ask, and wait for the replies."""
    *_, turn = talk.ask(*arguments, **more)
    return turn


def said(turn: Turn) -> list[str]:
    return [reply.text for reply in turn.replies]


def test_models_are_asked_at_the_same_time():
    meet = threading.Barrier(2, timeout=30)

    def after_meeting(text):
        return lambda messages, images: (meet.wait(), text)[1]

    turn = ask(Conversation([Said(after_meeting('yes')), Said(after_meeting('no'))]), 'Is it?')
    assert said(turn) == ['yes', 'no']
    assert [reply.state for reply in turn.replies] == ['done', 'done']


def test_replies_are_seen_while_they_grow():
    gated, quick = Gated(), Said('quick')
    seen = []
    for turn in Conversation([gated, quick]).ask('Well?'):
        seen.append((said(turn)[0], [reply.state for reply in turn.replies]))
        if turn.replies[0].text and turn.replies[1].over:
            gated.go.set()
    assert any(states == ['writing', 'done'] for _, states in seen)
    assert seen[-1][1] == ['done', 'done']
    assert seen[-1][0].startswith('one')
    assert seen[-1][0].endswith('two')


def test_each_model_has_its_own_history(tmp_path):
    first, second = (
        Said(lambda messages, images: f'a{len(messages)}'),
        Said(lambda messages, images: f'b{len(messages)}'),
    )
    talk, red, blue = Conversation([first, second], 'Be brief.'), save_picture(tmp_path / 'r.png'), tmp_path / 'b.png'
    save_picture(blue, (0, 0, 250))
    ask(talk, 'What?', [red])
    turn = ask(talk, 'And <image> here?', [blue], {'temperature': 0.5})
    assert said(turn) == ['a4', 'b4']
    messages, images, settings = second.asked[-1]
    assert [(turn['role'], turn['content']) for turn in messages] == [
        ('system', 'Be brief.'),
        ('user', '<image>\nWhat?'),
        ('assistant', 'b2'),
        ('user', 'And <image> here?'),
    ]
    assert images == [red, blue]
    assert settings['temperature'] == 0.5


def test_one_model_fails_and_the_other_goes_on(tmp_path):
    def gone(messages, images):
        if len(failing.asked) == 1:
            raise ServerError('http://x does not answer', fix='start it')
        return f'{len(images)} picture'

    failing, other, red = Said(gone, 'failing'), Said('fine'), save_picture(tmp_path / 'r.png')
    talk = Conversation([failing, other])
    turn = ask(talk, 'What?', [red])
    assert [reply.state for reply in turn.replies] == ['failed', 'done']
    assert 'start it' in turn.replies[0].error
    # What failed is not in its history; the picture is, or there would be nothing to look at.
    assert said(ask(talk, 'Which colour?')) == ['1 picture', 'fine']
    assert failing.asked[-1][0] == [{'role': 'user', 'content': '<image>\nWhich colour?'}]
    assert [turn['role'] for turn in other.asked[-1][0]] == ['user', 'assistant', 'user']


def test_an_unforeseen_error_stays_in_its_reply(caplog):
    turn = ask(Conversation([Said(lambda messages, images: 1 / 0), Said('fine')]), 'What?')
    assert turn.replies[0].error == 'ZeroDivisionError: division by zero'
    assert said(turn)[1] == 'fine'
    assert 'Traceback' in caplog.text


def test_sampling_out_of_range_is_said_where_the_answer_would_be():
    turn = ask(Conversation([Said('fine')]), 'What?', (), {'top_p': 2.0})
    assert 'top_p=2.0' in turn.replies[0].error


def test_stop_keeps_what_was_said_and_ends_the_answers():
    gated = Gated()
    talk = Conversation([gated, Said('quick')])
    for turn in talk.ask('Well?'):
        if turn.replies[0].text:
            talk.stop()
    assert turn.replies[0].state == 'stopped'
    assert turn.replies[0].text.startswith('one')
    assert gated.closed.wait(10)
    text = turn.replies[0].text
    gated.go.set()
    time.sleep(0.05)
    assert turn.replies[0].text == text


def test_stop_reaches_a_model_that_has_said_nothing_yet():
    class Waiting(Answerer):
        name = 'waiting'

        def _pieces(self, messages, images, settings, stop):
            self.stopped = stop.wait(20)
            yield from ()

    waiting = Waiting()
    talk = Conversation([waiting, Said('quick')])
    for turn in talk.ask('Well?'):
        if turn.replies[1].over:
            talk.stop()
    assert turn.replies[0].state == 'stopped'
    for thread in threading.enumerate():
        if thread.name == 'ask waiting':
            thread.join(20)
    assert waiting.stopped
    assert said(ask(talk, 'And?', alone=True))[1] == 'quick'


def test_a_listener_that_leaves_stops_the_answers():
    gated = Gated()
    turns = Conversation([gated]).ask('Well?')
    next(turns)
    turns.close()
    assert gated.closed.wait(10)


def test_one_question_at_a_time():
    gated = Gated()
    talk = Conversation([gated])
    turns = talk.ask('Well?')
    next(turns)
    with pytest.raises(DataError, match='still being answered'):
        next(talk.ask('And?'))
    with pytest.raises(DataError, match='no answered question'):
        talk.take_back()
    gated.go.set()
    assert said(list(turns)[-1])[0].endswith('two')


def test_what_cannot_be_asked_is_not_in_the_conversation(tmp_path):
    talk = Conversation([Said('fine')])
    for question, pictures in (('', ()), ('<image> and <image>', [save_picture(tmp_path / 'r.png')])):
        with pytest.raises(DataError):
            next(talk.ask(question, pictures))
    assert not talk.turns


def test_take_back_and_alone(tmp_path):
    model = Said('fine')
    talk = Conversation([model])
    with pytest.raises(DataError, match='no answered question'):
        talk.take_back()
    ask(talk, 'One?')
    ask(talk, 'Two?', alone=True)
    assert len(model.asked[-1][0]) == 1
    ask(talk, 'Three?')
    assert [turn['content'] for turn in model.asked[-1][0]] == ['Two?', 'fine', 'Three?']
    assert talk.take_back().question == 'Three?'
    assert len(talk.turns) == 2


def test_an_empty_answer_is_left_out_of_the_history():
    model = Said(lambda messages, images: '' if len(model.asked) == 1 else 'fine')
    talk = Conversation([model])
    assert ask(talk, 'One?').replies[0].state == 'done'
    ask(talk, 'Two?')
    assert [turn['content'] for turn in model.asked[-1][0]] == ['Two?']


# Pictures and examples.


def test_check_pictures_names_the_file_and_not_its_folder(tmp_path):
    (tmp_path / 'note.jpg').write_text('this is no picture')
    good = save_picture(tmp_path / 'good.png')
    assert check_pictures([str(good)]) == [good]
    with pytest.raises(DataError, match=r'note\.jpg: not a picture') as caught:
        check_pictures([good, tmp_path / 'note.jpg'])
    assert str(tmp_path) not in str(caught.value)


def test_examples_of_a_dataset(tmp_path):
    records = [(f'{n}.png', f'Which dish? {n}', f'dish {n}') for n in range(9)]
    save_records(tmp_path / 'set.jsonl', records)
    with (tmp_path / 'set.jsonl').open('a', encoding='utf-8') as file:
        file.write('{"conversations": [{"from": "human", "value": "No picture?"}, {"from": "gpt", "value": "no"}]}\n')
    (tmp_path / '3.png').write_text('broken since')
    examples = Examples(tmp_path / 'set.jsonl')
    assert (len(examples), examples.name, examples.left_out) == (10, 'set.jsonl', 0)
    with (tmp_path / 'set.jsonl').open('a', encoding='utf-8') as file:
        file.write('{"broken"\n{}\n')
    spoilt = Examples(tmp_path / 'set.jsonl')
    assert (len(spoilt), spoilt.left_out) == (10, 2)
    assert '2 records left out' in left_out_html(spoilt.left_out)
    examples = Examples(tmp_path / 'set.jsonl')
    assert examples[0] == Example('Which dish? 0', (tmp_path / '0.png',), 'dish 0')
    drawn = examples.draw(20, seed=0)
    assert sorted(example.answer for example, _ in drawn) == [f'dish {n}' for n in range(9) if n != 3]
    assert [example for example, _ in examples.draw(4, seed=1)] == [example for example, _ in examples.draw(4, seed=1)]
    assert len(examples.draw(4, seed=1)) == 4


def test_examples_with_several_pictures_and_from_arguments(tmp_path):
    for name in 'abc':
        save_picture(tmp_path / f'{name}.png', size=(900, 300))
    (tmp_path / 'set.json').write_text(
        '[{"image": ["a.png", "b.png"], "conversations": ['
        '{"from": "human", "value": "<image>\\n<image>\\nWhich?"}, {"from": "gpt", "value": "both"},'
        '{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "yes"}]},'
        '{"image": ["c.png"], "conversations": ['
        '{"from": "human", "value": "Is <image> one?"}, {"from": "gpt", "value": "no"}]}]'
    )
    examples = Examples({'ann_file': str(tmp_path / 'set.json')}, 'mine')
    assert examples[0] == Example('Which?', (tmp_path / 'a.png', tmp_path / 'b.png'), 'both')
    assert examples[1].question == 'Is <image> one?'
    assert examples[0].expects('Which?', examples[0].images) == 'both'
    assert examples[0].expects('Which one?', examples[0].images) == ''
    assert examples[0].expects('Which?', examples[1].images) == ''
    assert max(examples.draw(1, 0)[0][1].size) == 320


def test_examples_of_a_folder(tmp_path):
    save_picture(tmp_path / 'deep' / 'b.PNG')
    save_picture(tmp_path / 'a.jpg')
    (tmp_path / 'note.txt').write_text('x')
    examples = Examples(tmp_path)
    assert [examples[n].images[0].name for n in range(len(examples))] == ['a.jpg', 'b.PNG']
    assert examples[0].question == ''
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='holds no pictures'):
        Examples(tmp_path / 'empty')
    with pytest.raises(DataError, match='no such annotation file'):
        Examples(tmp_path / 'none.jsonl')


# What is shown.


def turn_of(question='Q', images=(), expected='', alone=False, **replies) -> Turn:
    return Turn(question, list(images), [Reply(**reply) for reply in replies.values()], {}, expected, alone)


DONE = {'text': '肠粉', 'state': 'done', 'seconds': 1.25}
FAILED = {'error': 'gone\n  to do:    start <it>', 'state': 'failed', 'seconds': 0.5}


def test_the_saved_page_carries_everything(tmp_path):
    picture = save_picture(tmp_path / 'big "one".png', (10, 200, 30), (2400, 1200))
    turns = [
        turn_of('这是什么菜？ <b>', [picture], '肠粉', a=DONE, b={**DONE, 'text': '$x </article><script>alert(1)'}),
        turn_of('And?', [tmp_path / 'gone.png'], a={'text': 'half', 'state': 'stopped'}, b=FAILED),
        turn_of('Else?', alone=True, a={'state': 'done'}, b=DONE),
    ]
    text = page(['before', 'a & b'], turns, datetime(2030, 1, 2, 3, 4, tzinfo=timezone.utc))
    assert '这是什么菜？ &lt;b&gt;' in text
    assert '$x &lt;/article&gt;&lt;script&gt;' in text
    assert 'a &amp; b' in text
    assert '2030-01-02 03:04' in text
    assert '3 questions' in text
    assert text.count('✓') == 1
    assert text.count('✗') == 1
    assert 'gone.png is gone' in text
    assert 'stopped' in text
    assert 'no text' in text
    assert 'start &lt;it&gt;' in text
    assert text.count('and then:') == 1
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count('<script') == 1  # the frame's own
    data = re.search(r'src="data:image/jpeg;base64,([^"]+)"', text)[1]
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (960, 480)
    assert shown.getpixel((5, 5))[1] > 150
    with pytest.raises(DataError, match='nothing has been asked'):
        page(['before'], [])


def test_chats(tmp_path):
    picture = tmp_path / 'a.png'
    turns = [turn_of('Is <b> this?', [picture], a=DONE, b=FAILED), turn_of('And?', alone=True, a={}, b={'text': 'x'})]
    asked, answered, again, waits = messages_of(turns, 0, lambda path: 'gradio_api/file=/x "y".jpg')
    assert '<img src="gradio_api/file=/x &quot;y&quot;.jpg" alt="a.png"></a>' in asked['content']
    assert 'Is &lt;b> this?' in asked['content']
    assert answered == {'role': 'assistant', 'content': '肠粉'}
    assert 'on its own' in again['content']
    assert '…' in waits['content']
    gone, failed, *_ = messages_of(turns, 1, lambda path: None)
    assert 'a.png is gone' in gone['content']
    assert 'start &lt;it&gt;' in failed['content']


def test_escaped_markdown_leaves_code_alone():
    text = 'a <box>1</box> `<b>` ![x](http://y)\n```\n<p>\n```\n<i>'
    assert escaped_markdown(text) == 'a &lt;box>1&lt;/box> `<b>` !\\[x](http://y)\n```\n<p>\n```\n&lt;i>'
    assert escaped_markdown('a & b &lt; `x') == 'a &amp; b &amp;lt; `x'
    unfinished = 'It is\n```html\n<p>'  # while it streams
    assert escaped_markdown(unfinished) == unfinished
    listed = '- one:\n  ```\n  <p>\n  ```\n- <b>'
    assert escaped_markdown(listed) == '- one:\n  ```\n  <p>\n  ```\n- &lt;b>'


@pytest.mark.parametrize(
    'text',
    [r'\`{}\`', 'a ``` {}', '``` `x` {}', '```\nx\n```\n{}', '```\nx\n``` y\n```\n{}', '`a` {} `b`', '`a\n`{}`',
     '- ```\n  x\n  ```\n{}', '> ```\n> x\n\n  ```\n{}', '    ```\n{}\n    ```', '```\nx\n```\r\n{}', '```\nx\n```\r{}',
     '```\nx\n```~\n{}', '~~~\n```\n~~~\n{}', '|a|b|\n|-|-|\n|`x|{}`|', '$$`$$ {} `'],
)  # fmt: skip
def test_what_only_looks_like_code_is_escaped(text):
    assert '<img' not in escaped_markdown(text.format('<img src=https://example.com/x.png>'))


def test_the_line_below_the_chats():
    assert verdict([], ['a']) == ''
    line = verdict([turn_of(expected='肠粉', a=DONE, b={**DONE, 'text': 'x'})], ['before', 'after'])
    assert (
        line.index('✓') < line.index('after') < line.index('✗') < line.index('different answers') < line.index('says')
    )
    assert 'the same answer' in verdict([turn_of(a=DONE, b=DONE)], ['a', 'b'])
    line = verdict([turn_of(expected='x', a={}, b=FAILED)], ['a', 'b'])
    assert 'waiting …' in line
    assert 'failed' in line
    assert 'answers' not in line
    assert '✗' not in line


def test_names_sampling_and_passwords(tmp_path):
    assert distinguished(['a', 'b']) == ['a', 'b']
    assert distinguished(['a', 'a']) == ['a (1)', 'a (2)']
    assert sampling_of(64, 0, 1, ' 7 ')['seed'] == 7
    assert sampling_of(64, 0.5, 1, None)['seed'] is None
    with pytest.raises(DataError, match='seed'):
        sampling_of(64, 0, 1, 'x')
    (tmp_path / 'users').write_text('ann:a\n\nbob:b:c\n')
    assert parse_auth([f'@{tmp_path / "users"}', 'eve:e']) == [('ann', 'a'), ('bob', 'b:c'), ('eve', 'e')]
    (tmp_path / 'nobody').write_text('\n')
    for wrong in (['ann'], ['ann:'], [':x'], ['@/nowhere'], ['a:1', 'a:2'], [f'@{tmp_path / "nobody"}']):
        with pytest.raises(ConfigError, match='--auth'):
            parse_auth(wrong)
