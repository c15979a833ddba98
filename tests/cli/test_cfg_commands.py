"""``mmft list-cfg`` and ``mmft copy-cfg``."""

from __future__ import annotations

import pytest

from mmft.cli.configs import load_config
from mmft.cli.list_cfg import summary
from mmft.cli.main import main


def test_list_names_and_describes_every_config(capsys):
    assert main(['list-cfg', 'internvl2_2b']) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(rows) >= {'internvl2_2b_food_full', 'internvl2_2b_food_lora', 'internvl2_2b_food_qlora'}
    assert rows['internvl2_2b_food_lora'].startswith('InternVL2-2B on food photos: LoRA')
    assert all('2b' in name for name in rows)


def test_list_without_a_match_fails(capsys):
    assert main(['list-cfg', 'nothing_like_this']) == 1
    said = capsys.readouterr()
    assert not said.out
    assert "no config matches 'nothing_like_this'" in said.err
    assert main(['list-cfg', 'internvl2_2b_fod_lora']) == 1
    assert 'did you mean internvl2_2b_food_lora' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['internvl2_2b_food_lora', 'internvl2_4b_food_full'])
def test_a_copy_stands_by_itself(name, tmp_path, capsys):
    assert main(['copy-cfg', name, str(tmp_path / 'own')]) == 0
    copied = tmp_path / 'own' / f'{name}.py'
    assert str(copied) in capsys.readouterr().out
    assert 'read_base' not in copied.read_text(encoding='utf-8')
    assert load_config(str(copied)).to_dict() == load_config(name).to_dict()
    assert summary(copied).startswith('InternVL2-')


def test_a_copy_replaces_nothing_unasked(tmp_path, capsys):
    target = tmp_path / 'mine.py'
    target.write_text('seed = 1\n', encoding='utf-8')
    assert main(['copy-cfg', 'internvl2_2b_food_lora', str(target)]) == 1
    assert '--force' in capsys.readouterr().err
    assert target.read_text(encoding='utf-8') == 'seed = 1\n'
    assert main(['copy-cfg', 'internvl2_2b_food_lora', str(target), '--force']) == 0
    assert 'optim_wrapper' in target.read_text(encoding='utf-8')


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, capsys):
    assert main(['copy-cfg', 'internvl2_2b_food_lroa', str(tmp_path)]) == 1
    assert 'internvl2_2b_food_lora' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'near'),
    [('tarin x', 'train'), ('pth-to-hf a b', 'pth_to_hf'), ('data fodler x', 'folder'), ('data FOLDER x', 'folder'),
     ('train x --launcher pytroch', 'pytorch')],
)  # fmt: skip
def test_a_misspelt_word_is_answered_with_the_nearest(words, near, capsys):
    with pytest.raises(SystemExit) as status:
        main(words.split())
    assert status.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(f'did you mean {near!r}?')


def test_a_copy_of_what_has_no_plain_text_reads_back(tmp_path, capsys):
    own = tmp_path / 'own.py'
    own.write_text('max_norm = dict(a=float("inf"), b=[-float("inf")], 甲="inf", c=float("nan"))\n')
    assert main(['copy-cfg', str(own), str(tmp_path / 'copy.py')]) == 0
    copy = load_config(str(tmp_path / 'copy.py'))
    assert copy.max_norm.a == float('inf')
    assert copy.max_norm.b == [-float('inf')]
    assert copy.max_norm['甲'] == 'inf'
    assert copy.max_norm.c != copy.max_norm.c
