"""Annotation files: offsets, lines and columns, for .jsonl and .json alike."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pickle
import shutil
from pathlib import Path

import pytest

from mmft.data.records.annotations import AnnotationFile, read_json
from mmft.errors import DataError

RECORDS = [{'id': 0, 'text': '肠粉 {"a": ['}, {'id': 1, 'nested': {'a': [1, 2, {'b': '\n'}]}}, {'id': 2, 'emoji': '🍜'}]


def _write(path, text, encoding='utf-8'):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize('newline', ['\n', '\r\n', '\n\n  \n'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_jsonl_records_and_lines(tmp_path, newline, encoding):
    path = _write(tmp_path / 'a.jsonl', newline.join(json.dumps(r, ensure_ascii=False) for r in RECORDS), encoding)
    file = AnnotationFile(path)
    assert [file[i] for i in range(len(file))] == RECORDS
    step = newline.count('\n')
    assert [file.line(i) for i in range(3)] == [1, 1 + step, 1 + 2 * step]


@pytest.mark.parametrize('indent', [None, 2])
@pytest.mark.parametrize('ascii', [True, False])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_json_array_equals_the_json_module(tmp_path, indent, ascii, encoding):
    text = json.dumps(RECORDS, indent=indent, ensure_ascii=ascii)
    file = AnnotationFile(_write(tmp_path / 'a.json', ' \n' + text + '\n\n', encoding))
    assert [file[i] for i in range(len(file))] == json.loads(text)
    lines = (' \n' + text).split('\n')
    for i in range(3):  # the line of a record is where its brace opens; its id follows there or on the next line
        assert f'"id": {i}' in ''.join(lines[file.line(i) - 1 : file.line(i) + 1])


def test_the_suffix_does_not_decide(tmp_path):
    array = AnnotationFile(_write(tmp_path / 'array.jsonl', json.dumps(RECORDS)))
    lines = AnnotationFile(_write(tmp_path / 'lines.json', '\n'.join(map(json.dumps, RECORDS))))
    assert [array[i] for i in range(3)] == [lines[i] for i in range(3)] == RECORDS


def test_survives_pickling(tmp_path):
    file = pickle.loads(pickle.dumps(AnnotationFile(_write(tmp_path / 'a.json', json.dumps(RECORDS)))))
    assert file[2] == RECORDS[2]


@pytest.mark.parametrize(
    ('text', 'line', 'column'),
    [
        ('{"a": 1}\n{"a": 1,, "b": 2}\n', 2, 9),
        ('{"a": 1}\n\n{"a": \n', 3, 7),
        ('{"a": 1}\n{"a": 1} {"b": 2}\n', 2, 10),
    ],
)
def test_invalid_jsonl_names_line_and_column(tmp_path, text, line, column):
    file = AnnotationFile(_write(tmp_path / 'a.jsonl', text))
    assert file[0] == {'a': 1}
    with pytest.raises(DataError, match=f'line {line} column {column}: ') as caught:
        file[1]
    assert (caught.value.file, caught.value.line) == (str(tmp_path / 'a.jsonl'), line)
    assert 'correct this line' in str(caught.value)


@pytest.mark.parametrize('on_bad', [None, list().append])
@pytest.mark.parametrize('bom', ['', '\ufeff'])
@pytest.mark.parametrize(
    ('text', 'fix'),
    [
        (json.dumps({'a': [1, 2]}, indent=1), 'wrap it in [ ]'),
        (json.dumps({'annotations': [{'a': 1}, {'a': 2}]}, indent=2), 'keep only that list'),
        ('\n{"a": 1,\n"b": 2}\n{"a": 1,\n"b": 3}\n', 'jq -c'),
    ],
)
def test_an_object_over_several_lines_is_one_error(tmp_path, text, fix, bom, on_bad):
    with pytest.raises(DataError, match='spans several lines') as caught:
        AnnotationFile(_write(tmp_path / 'a.json', bom + text), on_bad)
    assert fix in caught.value.fix


def test_a_first_line_that_is_broken_is_that_lines_error(tmp_path):
    file = AnnotationFile(_write(tmp_path / 'a.jsonl', '{"a": 1\n{"a": 2}\n'))
    assert file[1] == {'a': 2}
    with pytest.raises(DataError, match='line 1'):
        file[0]


@pytest.mark.parametrize('tail', ['{"a": }]', '{"a": 2}', '{"a": 2} {"b": 3}]', ']]', '{"a": 2}] x', ''])
def test_broken_array(tmp_path, tail):
    path = _write(tmp_path / 'a.json', '[{"a": 1},\n' + tail)
    with pytest.raises(DataError) as caught:
        AnnotationFile(path)
    with pytest.raises(json.JSONDecodeError) as peer:
        json.loads(path.read_text())
    assert f'line {peer.value.lineno} column {peer.value.colno}' in str(caught.value)
    bad = []
    file = AnnotationFile(path, on_bad=bad.append)
    assert file[0] == {'a': 1}
    assert len(bad) == 1
    assert bad[0].line == 2


def test_an_element_nested_too_deep_ends_the_array(tmp_path):
    path = _write(tmp_path / 'a.json', '[{"a": 1},\n{"a": ' + '[' * 100_000 + ']' * 100_000 + '}]')
    with pytest.raises(DataError, match=r'a\.json:2: JSON nested too deep'):
        AnnotationFile(path)
    bad = []
    assert len(AnnotationFile(path, on_bad=bad.append)) == len(bad) == 1


def test_not_utf8_names_the_line(tmp_path):
    (tmp_path / 'a.jsonl').write_bytes(b'{"a": 1}\n' + '{"a": "肠粉"}'.encode('gbk'))
    file = AnnotationFile(tmp_path / 'a.jsonl')
    with pytest.raises(DataError, match='not UTF-8') as caught:
        file[1]
    assert caught.value.line == 2
    (tmp_path / 'b.json').write_bytes(b'[{"a": 1},\n' + '{"a": "肠粉"}]'.encode('gbk'))
    with pytest.raises(DataError, match=r'b\.json:2: .*not UTF-8'):
        AnnotationFile(tmp_path / 'b.json')


@pytest.mark.parametrize(('text', 'words'), [('', 'no records'), ('[]', 'no records'), ('  \n', 'no records')])
def test_empty_files(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        AnnotationFile(_write(tmp_path / 'a.jsonl', text))


def test_missing_file_directory_and_other_values(tmp_path):
    with pytest.raises(DataError, match='no such annotation file'):
        AnnotationFile(tmp_path / 'nothing.jsonl')
    with pytest.raises(DataError, match='cannot read it'):
        AnnotationFile(tmp_path)
    with pytest.raises(DataError, match='a list where a record should be'):
        AnnotationFile(_write(tmp_path / 'a.jsonl', '{"a": 1}\n[1]'))[1]
    with pytest.raises(DataError, match='nested too deep'):
        AnnotationFile(_write(tmp_path / 'b.jsonl', '{"a": ' + '[' * 200000 + ']' * 200000 + '}'))[0]


def test_a_file_that_changes_is_noticed(tmp_path):
    path = _write(tmp_path / 'a.jsonl', '{"a": 1}\n{"a": 2}')
    file = AnnotationFile(path)
    _write(path, '{"b": 11}\n{"a": 2}')
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match='was changed'):
        file[1]


def test_read_json_refuses_a_key_that_stands_twice(tmp_path):
    with pytest.raises(DataError, match="'food' stands twice"):
        read_json(_write(tmp_path / 'meta.json', '{"food": {}, "food": {}}'))
    with pytest.raises(DataError, match='line 1 column 2'):
        read_json(_write(tmp_path / 'meta.json', '{food: 1}'))


def test_a_record_with_a_key_that_stands_twice(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('{"id": 1}\n{"id": 2, "image": "a.jpg", "image": "b.jpg"}\n')
    with pytest.raises(DataError, match=r"(?s)a.jsonl:2.*'image' stands twice"):
        AnnotationFile(path)[1]


def archive(folder, how):
    (folder / 'in').mkdir()
    (folder / 'in' / 'a.jsonl').write_text('{"id": 1}')
    return Path(shutil.make_archive(str(folder / 'packed'), how, folder / 'in')).read_bytes()


KINDS = {
    'zip': (lambda folder: archive(folder, 'zip'), 'a zip archive', 'unpack it'),
    'tar': (lambda folder: archive(folder, 'tar'), 'a tar archive', 'unpack it'),
    'tar.gz': (lambda folder: archive(folder, 'gztar'), 'compressed by gzip', 'gunzip'),
    'gzip': (lambda _: gzip.compress(b'{"id": 1}'), 'compressed by gzip', 'gunzip'),
    'bzip2': (lambda _: bz2.compress(b'{"id": 1}'), 'compressed by bzip2', 'bunzip2'),
    'xz': (lambda _: lzma.compress(b'{"id": 1}'), 'compressed by xz', 'unxz'),
    'utf-16': (lambda _: '{"id": 1}'.encode('utf-16'), 'text in UTF-16', 'iconv -f UTF-16'),
    'utf-16-le': (lambda _: '{"id": 1}'.encode('utf-16-le'), 'text in UTF-16', 'iconv'),
    'utf-32': (lambda _: '{"id": 1}'.encode('utf-32'), 'text in UTF-32', 'iconv -f UTF-32'),
    'numpy': (lambda _: b'\x93NUMPY\x01\x00', 'a NumPy array', 'as .jsonl'),
    'parquet': (lambda _: b'PAR1\x15\x04\x15\xe8', 'a Parquet table', "from_parquet('"),
    'lfs': (lambda _: b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'a Git LFS pointer', 'git lfs pull'),
    'html': (lambda _: b'<!DOCTYPE html>\n<html><title>Sign in</title>', 'a web page', 'fetch'),
    'picture': (lambda _: b'\xff\xd8\xff\xe0\x00\x10JFIF', 'a JPEG picture', 'annotation file'),
    **{f'pickle {n}': (lambda _, n=n: pickle.dumps([{'id': 1}], n), 'a Python pickle', 'mmft opens none')
       for n in (2, 3, 4, 5)},
}  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('read', [AnnotationFile, read_json])
def test_files_of_other_kinds_are_named(tmp_path, kind, read):
    make, what, todo = KINDS[kind]
    path = tmp_path / 'my train.jsonl'
    path.write_bytes(make(tmp_path))
    with pytest.raises(DataError) as caught:
        read(path)
    assert what in str(caught.value)
    assert todo in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('path', ['/dev/zero', 'a\0b.jsonl', 'x' * 5000, '\ud83d.jsonl'])
@pytest.mark.parametrize('read', [AnnotationFile, read_json])
def test_paths_that_are_no_files(path, read):
    with pytest.raises(DataError, match='cannot read it') as caught:
        read(path)
    str(caught.value).encode()


def test_numbers_and_nesting_that_python_refuses(tmp_path):
    path = tmp_path / 'a.json'
    for text in ('{"a": ' + '9' * 5000 + '}', '{"a": ' + '[' * 100_000 + ']' * 100_000 + '}'):
        path.write_text(text)
        for read in (read_json, lambda path: AnnotationFile(path)[0]):
            with pytest.raises(DataError, match=r'a number of too many digits|nested too deep'):
                read(path)
