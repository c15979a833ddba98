"""Two models on the same questions: scores, order, page, json, and what happens when a model fails."""

from __future__ import annotations

import json
import re
import signal
import threading
from pathlib import Path

import pytest

from mmft.cli.main import main
from mmft.compare import questions as asking
from mmft.compare.page import page, verdict
from mmft.compare.questions import ask_all, read_questions
from mmft.compare.results import compare
from mmft.errors import DataError, ServerError
from mmft.evaluation.bootstrap import interval
from mmft.talk.open_answerer import open_answerer
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config
from tests.talk.fakes import FakeServer, Said, save_picture, save_records

RECORDS = [
    ('a.jpg', 'What is it?', 'egg tarts'),
    ('b.jpg', 'And <this>?', 'mooncakes'),
    ('c.jpg', 'Which dish?', 'congee'),
    ('d.jpg', 'Name it.', 'dumplings'),
    ('a.jpg', 'How many?', '3'),
]
BEFORE = ['cookies', 'mooncakes', 'soup', 'dumplings', '3']
AFTER = ['Egg tarts.', '<script>&', 'stew', 'dumplings', '3']


@pytest.fixture
def records(tmp_path):
    return save_records(tmp_path / 'data' / 'val.jsonl', RECORDS)


def answers(*texts, name='said'):
    """An answerer that has these answers to ``RECORDS``; an exception is raised."""

    def say(messages, images):
        question = messages[-1]['content'].removeprefix('<image>\n')
        text = texts[[q for _, q, _ in RECORDS].index(question)]
        if isinstance(text, BaseException):
            raise text
        return text

    return Said(say, name)


def both(records, before=BEFORE, after=AFTER, **options):
    openers = (lambda: answers(*before, name='base'), lambda: answers(*after, name='tuned'))
    return compare(openers, read_questions({'ann_file': records}), bar=False, **options)


def test_scores_changes_and_order(records):
    found = both(records)
    assert found.names == ('base', 'tuned')
    assert [(row.question.key, row.change) for row in found.rows] == [
        (0, 'better'), (1, 'worse'), (2, 'other'), (3, 'same'), (4, 'same'),
    ]  # fmt: skip
    assert [row.scores for row in found.rows] == [(0, 1), (1, 0), (0, 0), (1, 1), (1, 1)]
    # Questions 0 and 4 are about one picture: they are drawn together.
    groups = ['a', 'b', 'c', 'd', 'a']
    assert found.scores == (interval([0, 1, 0, 1, 1], groups), interval([1, 0, 0, 1, 1], groups))
    assert found.difference == interval([1, -1, 0, 0, 0], groups)
    assert found.difference.low < 0 < found.difference.high
    assert verdict(found).startswith('no difference that these questions can show: +0.0 points')
    assert both(records).to_json() == found.to_json()
    assert both(records, seed=1).scores[0].value == found.scores[0].value


def test_a_difference_beyond_chance_is_said(records):
    found = both(records, ['x'] * 5, [answer for _, _, answer in RECORDS])
    assert verdict(found) == 'tuned is better: +100.0 points, 95% interval +100.0 to +100.0'
    assert verdict(both(records, [a for _, _, a in RECORDS], ['x'] * 5)).startswith('tuned is worse: -100.0')
    assert verdict(both(records, BEFORE, BEFORE)) == 'the same score on every question'


def test_the_json_holds_everything(records, tmp_path):
    told = both(records, dataset='val.jsonl', settings={'max_new_tokens': 5}).to_json()
    assert json.loads(json.dumps(told)) == told
    assert (told['a'], told['b'], told['dataset'], told['metric']) == ('base', 'tuned', 'val.jsonl', 'exact_match')
    assert (told['questions'], told['asked'], told['failed']) == (5, 5, 0)
    assert told['score']['a']['value'] == 0.6
    assert told['changes'] == {'better': 1, 'worse': 1, 'other': 1, 'same': 2}
    row = told['rows'][0]
    assert (row['id'], row['a'], row['b'], row['score_a'], row['score_b']) == ('q0', 'cookies', 'Egg tarts.', 0.0, 1.0)
    assert row['references'] == ['egg tarts']
    assert row['images'] == [str(tmp_path / 'data' / 'a.jpg')]
    assert 'error_a' not in row


def test_the_page_is_whole_and_safe(records):
    text = page(both(records, dataset='val <1>.jsonl'))
    assert text.count('<figure class="card') == text.count('src="data:image/jpeg;base64,') == 5
    assert [*re.findall(r'class="card (\w+)"', text)] == ['better', 'worse', 'other', 'same', 'same']
    assert text.count('<script') == 1  # the frame's own
    assert '&lt;script&gt;&amp;' in text
    assert 'And &lt;this&gt;?' in text
    assert '&lt;image&gt;' not in text
    assert 'val &lt;1&gt;.jsonl' in text
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing is fetched
    assert '60.0%' in text
    assert '$' not in text
    assert text.count('<figure class="card') > page(both(records), most=2).count('<figure class="card') == 2
    assert '3 more in the JSON file' in page(both(records), most=2)


def test_answers_of_the_record_are_the_references(tmp_path):
    path = save_records(tmp_path / 'vqa.jsonl', RECORDS[:1], answers=['race', 'race', {'answer': 'ride'}, 'fun'])
    (question,) = read_questions({'ann_file': path})
    assert question.references == ['race', 'race', 'ride', 'fun']
    found = both(path, ['race'], ['a ride!'], metric='vqa')
    assert [score.value for score in found.scores] == [pytest.approx((2 * 1 / 3 + 2 * 2 / 3) / 4), pytest.approx(0.25)]
    assert 'race ×2 · ride · fun' in page(found)


def test_the_last_question_is_asked_after_the_turns_before(tmp_path):
    for name in ('a.jpg', 'b.jpg'):
        save_picture(tmp_path / name)
    turns = [('human', '<image>\nOne?'), ('gpt', 'First.'), ('human', '<image>\nTwo?'), ('gpt', 'Second.')]
    talk = [{'from': role, 'value': text} for role, text in turns]
    (tmp_path / 'talk.jsonl').write_text(json.dumps({'image': ['a.jpg', 'b.jpg'], 'conversations': talk}))
    said = Said('Second.')
    questions = read_questions({'ann_file': tmp_path / 'talk.jsonl'})
    found = compare((lambda: said, lambda: said), questions, bar=False)
    messages, images, _ = said.asked[0]
    assert [turn['content'] for turn in messages] == ['<image>\nOne?', 'First.', '<image>\nTwo?']
    assert len(images) == 2
    assert found.scores[0].value == 1.0
    assert found.names == ('said (A)', 'said (B)')
    assert '2 turns before' in page(found)


def test_the_limit_is_a_seeded_choice(records):
    def chosen(seed):
        return [question.id for question in read_questions({'ann_file': records}, 3, seed)]

    assert len(chosen(0)) == 3
    assert chosen(0) == chosen(0)
    assert len({tuple(chosen(seed)) for seed in range(6)}) > 1


def test_an_answer_that_fails_counts_as_wrong_and_is_shown(records):
    broken = DataError('a conversation of 900 tokens', expected='fewer than 512')
    found = both(records, after=[*AFTER[:4], broken])
    row = next(row for row in found.rows if row.question.key == 4)
    assert (row.answers, row.scores, row.change) == (('3', None), (1.0, 0.0), 'worse')
    assert found.failed == 1
    assert found.to_json()['rows'][-1]['key'] != 4
    text = page(found)
    assert 'a conversation of 900 tokens (expected: fewer than 512)' in text
    assert 'One answer failed and counts as wrong.' in text


def test_a_model_that_never_answers_is_an_error(records):
    with pytest.raises(ServerError, match='gone'):
        both(records, before=[ServerError('gone')] * 5)


def test_a_second_model_that_cannot_be_opened_is_told_of_before_the_first_is_asked(records):
    first = answers(*BEFORE)

    def no_such():
        raise DataError('no such directory')

    with pytest.raises(DataError, match='no such directory'):
        compare((lambda: first, no_such), read_questions({'ann_file': records}), bar=False)
    assert first.asked == []


def test_each_model_is_made_once_where_the_second_can_be_checked(records):
    made = []

    def opener(name):
        return lambda: made.append(name) or Said('yes', name)

    compare(
        (opener('a'), opener('b')), read_questions({'ann_file': records}), check=lambda: made.append('?'), bar=False
    )
    assert made == ['?', 'a', 'b']


def test_a_server_that_dies_leaves_what_both_have_answered(tmp_path):
    count = 30
    path = save_records(tmp_path / 'many.jsonl', [('a.jpg', f'Question {n}?', 'yes') for n in range(count)])

    def dying(messages, images):
        if len(second.asked) > 8:
            raise ServerError('the server is gone')
        return 'yes'

    second = Said(dying, 'tuned')
    found = compare((lambda: Said('yes', 'base'), lambda: second), read_questions({'ann_file': path}), bar=False)
    assert isinstance(found.ended, ServerError)
    assert (len(found.rows), found.failed, found.asked) == (18, 10, 30)  # ten failures in a row are enough
    assert 'Stopped after 18 of 30 questions: the server is gone.' in page(found)


def test_ctrl_c_in_the_second_model_leaves_what_both_have_answered(records):
    def interrupted(messages, images):
        if len(second.asked) == 3:
            signal.raise_signal(signal.SIGINT)
            threading.Event().wait(0.2)
        return 'x'

    second = Said(interrupted, 'tuned')
    found = compare((lambda: answers(*BEFORE), lambda: second), read_questions({'ann_file': records}), bar=False)
    assert isinstance(found.ended, KeyboardInterrupt)
    assert 2 <= len(found.rows) < 5
    assert 'Ctrl-C' in page(found)
    second.asked.clear()
    second.say = lambda messages, images: signal.raise_signal(signal.SIGINT) or threading.Event().wait(0.2) or 'x'
    with pytest.raises(KeyboardInterrupt):
        compare((lambda: second, lambda: answers(*AFTER)), read_questions({'ann_file': records}), bar=False)


def test_servers_are_asked_several_questions_at_a_time(records):
    together = threading.Barrier(3, timeout=20)

    def say(request):
        together.wait()
        return ['yes']

    questions = read_questions({'ann_file': records}) * 3
    with FakeServer(say) as server:
        got = ask_all(open_answerer(server.url), questions, {}, workers=3, bar=False)
    assert got.texts == ['yes'] * 15


def test_a_server_that_hangs_is_not_waited_for_after_ctrl_c(records, monkeypatch):
    monkeypatch.setattr(asking, '_PATIENCE', 0.05)
    hanging, let_go = threading.Event(), threading.Event()

    def say(request):
        hanging.set()
        let_go.wait(60)
        return ['late']

    def press():
        hanging.wait(20)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with FakeServer(say) as server, open_answerer(server.url) as answerer:
        threading.Thread(target=press, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            ask_all(answerer, read_questions({'ann_file': records}), {}, workers=2, bar=False)
        under_way = [thread for thread in threading.enumerate() if thread.name == 'ask']
        assert under_way
        assert all(thread.daemon for thread in under_way)  # nor does the end of the process wait for them
        let_go.set()
        for thread in under_way:
            thread.join(20)


def test_an_unforeseen_error_is_not_swallowed(records):
    with pytest.raises(ZeroDivisionError):
        ask_all(Said(lambda messages, images: 1 / 0), read_questions({'ann_file': records}), {}, bar=False)


def test_nothing_to_ask_is_an_error():
    with pytest.raises(DataError, match='without questions'):
        compare((lambda: Said('x'), lambda: Said('y')), [], bar=False)


# On the command line.


@pytest.fixture
def servers():
    def say(request):
        return ['egg ', 'tarts']

    with FakeServer(say, models=['base']) as a, FakeServer(lambda request: ['3'], models=['tuned']) as b:
        yield a, b


def test_command_line(servers, records, tmp_path, capsys):
    a, b = servers
    out = tmp_path / 'pages' / 'result.html'
    arguments = ['compare', a.url, b.url, str(records), '--out', str(out), '--max-new-tokens', '9', '--limit', '5']
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert re.search(r'base @ 127.0.0.1:\d+: exact_match 20.0% \(', said)
    assert '1 better, 1 worse, 3 other, 0 same' in said
    told = json.loads(out.with_suffix('.json').read_text(encoding='utf-8'))
    assert told['settings'] == {'max_new_tokens': 9, 'temperature': 0.0, 'top_p': 1.0, 'seed': None}
    assert {request['max_tokens'] for request in a.requests} == {9}
    assert out.read_text(encoding='utf-8').count('<figure') == 5
    assert main(arguments) == 1
    assert f'{out} exists' in capsys.readouterr().err
    assert main([*arguments, '--force', '--names', 'old', 'new', '--metric', 'anls']) == 0
    assert 'old: anls' in capsys.readouterr().out


def test_each_server_gets_its_own_key(records, tmp_path):
    with FakeServer(key='one') as a, FakeServer(key='two') as b:
        arguments = ['compare', a.url, b.url, str(records), '--out', str(tmp_path / 'r.html'), '--limit', '1']
        assert main([arguments[0], '--api-keys', 'one', 'two', *arguments[1:]]) == 0
        assert main([*arguments, '--force', '--api-key', 'one']) == 1


def test_the_key_of_this_machine_is_not_sent_to_others(records, tmp_path, monkeypatch):
    monkeypatch.setenv('MMFT_API_KEY', 'own')
    with FakeServer(key='own') as a, FakeServer(key='own') as b:
        arguments = ['compare', a.url, b.url, str(records), '--out', str(tmp_path / 'r.html'), '--limit', '1']
        assert main(arguments) == 0
        assert main([*arguments, '--force', '--api-keys', '-', 'own']) == 1


def test_a_training_is_compared_with_its_base(records, tmp_path, monkeypatch, capsys):
    encoder, config = make_encoder('Qwen2'), model_config('Qwen2')
    base = make_base(tmp_path / 'base', config, encoder=encoder)
    cfg = {'model': config, 'pretrained': str(base), 'tune': LORA}
    (tmp_path / 'run').mkdir()
    _, trained = make_checkpoint(tmp_path / 'run' / 'iter_9.pth', cfg, encoder)
    (tmp_path / 'run' / 'own.py').write_text('\n'.join(f'{name} = {value!r}' for name, value in cfg.items()))
    monkeypatch.chdir(tmp_path)
    arguments = ['compare', 'base', '--limit', '2', 'run/iter_9.pth', '--max-new-tokens', '6', str(records)]
    assert main(arguments) == 0
    told = json.loads((tmp_path / 'work_dirs' / 'compare' / 'base_iter_9_val.json').read_text(encoding='utf-8'))
    assert (told['a'], told['b']) == ('base', 'run/iter_9.pth')
    row = told['rows'][0]
    assert row['b'] == trained.chat(encoder, row['messages'][0]['content'], row['images'], max_new_tokens=6).strip()
    # A training's folder stands for its last checkpoint; a config that is named comes before the one stored there.
    assert main([*arguments[:4], 'run', *arguments[5:], '--force']) == 0
    assert 'taking iter_9.pth, the last checkpoint' in capsys.readouterr().err
    assert main([*arguments, '--force', '--config', 'run/own.py']) == 0
    assert main([*arguments[:4], 'run/own.py', *arguments[4:], '--force']) == 0


def test_failed_answers_give_status_1(servers, records, tmp_path, capsys):
    a, b = servers
    b.say = lambda request: (400, {'error': {'message': 'too long'}}) if len(b.requests) == 2 else ['3']
    arguments = ['compare', a.url, b.url, str(records), '--out', str(tmp_path / 'r.html'), '--workers', '1']
    assert main(arguments) == 1
    assert 'error: 1 answer failed' in capsys.readouterr().err
    assert (tmp_path / 'r.html').exists()


def test_the_val_set_of_a_config(servers, records, tmp_path, monkeypatch, capsys):
    a, b = servers
    config = tmp_path / 'own.py'
    config.write_text(f'val_dataloader = dict(dataset=dict(type="ChatDataset", ann_file={str(records)!r}))\n')
    monkeypatch.chdir(tmp_path)
    assert main(['compare', a.url, b.url, str(config)]) == 0
    made = list((tmp_path / 'work_dirs' / 'compare').iterdir())
    assert len(made) == 2
    assert 'left out' not in capsys.readouterr().out
    with records.open('a') as file:
        file.write('{"broken"\n')
    text = config.read_text()
    config.write_text(text.replace('ann_file', 'on_error="skip", ann_file'))
    assert main(['compare', a.url, b.url, str(config), '--out', 'skip.html']) == 0
    assert '1 record of the dataset left out' in capsys.readouterr().out
    assert '1 record of the dataset left out' in Path('skip.html').read_text()
    assert json.loads(Path('skip.json').read_text())['left_out'] == 1
    config.write_text('val_dataloader = None\n')
    assert main(['compare', a.url, b.url, str(config), '--force']) == 1
    assert 'has no val set' in capsys.readouterr().err


def test_a_bad_record_is_answered_with_the_option_of_the_command(servers, records, tmp_path, capsys):
    a, b = servers
    with records.open('a') as file:
        file.write('{"broken"\n[1]\n')
    arguments = ['compare', a.url, b.url, str(records), '--out', str(tmp_path / 'r.html')]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert 'or --on-error skip to leave such records out, counted' in said
    assert 'on_error=' not in said
    assert main([*arguments, '--on-error', 'skip']) == 0
    assert '2 records of the dataset left out' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'what'),
    [(['--metric', 'bleu'], "no metric is named 'bleu'"), (['--out', 'page.txt'], 'ends with .html'),
     (['--workers', '0'], '--workers 0'), (['--image-root', 'nowhere'], 'the image root is not a folder')],
)  # fmt: skip
def test_wrong_arguments_end_with_1_before_anything_is_asked(arguments, what, servers, records, tmp_path, capsys):
    a, b = servers
    out = ['--out', str(tmp_path / 'r.html')]
    assert main(['compare', a.url, b.url, str(records), *out, *arguments]) == 1
    assert what in capsys.readouterr().err
    assert a.requests == []
