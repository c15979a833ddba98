"""What each family says of itself, against transformers and against its own tensors. An added family is tested unasked.

Its export and load in every layout that it names: ``tests/export/test_every_family.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import mmft.layouts
from mmft.data.text.templates import build_template
from mmft.errors import ConfigError
from mmft.layouts import LlavaHF
from mmft.layouts.language import family_of, family_of_keys, family_of_name, language_model, published_config
from mmft.models.language.family import AS_COMPUTED, families, held_by
from mmft.models.lora import linear_names
from mmft.registry import LANGUAGE_MODELS
from tests.export.tiny_llava import llava_config
from tests.models.family_table import DOCUMENT, write_table
from tests.models.parts import VOCABULARY, llm_config

FAMILIES = families()
each = pytest.mark.parametrize('kind', FAMILIES)


def small(kind, **changes):
    return LANGUAGE_MODELS.build(llm_config(kind, **changes)).eval()


def own_names(kind):
    """Names of its tensors, as its own directories have them."""
    patterns = [row.theirs for row in FAMILIES[kind].tensors]
    if FAMILIES[kind].tensors == AS_COMPUTED:
        return list(small(kind).lm.state_dict())
    return [name.replace('{n}', '0').replace('{k}', 'weight') for name in patterns]


def test_the_table_holds_every_registered_language_model():
    assert set(FAMILIES) == set(LANGUAGE_MODELS.names())


@each
def test_the_class_is_the_one_that_it_names_and_gives_the_same_logits(kind):
    llm, family = small(kind), FAMILIES[kind]
    assert (type(llm.lm).__name__, llm.lm.config.model_type) == (family.hf_architecture, family.hf_model_type)
    theirs = getattr(transformers, family.hf_architecture)(llm.lm.config).eval()
    theirs.load_state_dict(llm.lm.state_dict())
    ids = torch.randint(3, VOCABULARY, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(llm.head(llm.hidden(llm.embed(ids), None, None)), theirs(ids).logits)


@each
def test_lora_targets(kind):
    assert sorted(FAMILIES[kind].linear_layers) == linear_names(small(kind))


@each
def test_templates(kind):
    family = FAMILIES[kind]
    named = {family.template, *(name for pair in family.dialects.values() for name in pair)}
    if {'internvl_hf', 'internvl_official'} & set(family.layouts):
        named.add(family.internvl_template)
    assert all(build_template(name).end for name in named)


@each
def test_layouts_that_it_names(kind):
    assert set(FAMILIES[kind].layouts) <= {path.stem for path in Path(mmft.layouts.__file__).parent.glob('*.py')}


@each
def test_it_is_found_by_every_name(kind):
    family = FAMILIES[kind]
    assert family_of({'architectures': [family.architecture]}) == kind
    for name in (kind, family.model_type, *family.also):
        assert family_of_name(name) == family_of_name(name.upper()) == kind


@pytest.mark.parametrize('kind', [kind for kind, family in FAMILIES.items() if family.marks])
def test_it_is_found_by_its_tensors(kind):
    assert family_of_keys(own_names(kind)) == kind
    assert family_of_keys([f'language_model.{name}' for name in own_names(kind)]) == kind


def test_a_family_from_elsewhere(monkeypatch):
    """One that is registered by a user's package is read and held as ours are; a subclass without a family is not."""
    own = replace(FAMILIES['Llama'], architecture='MineForCausalLM', model_type='mine', layouts=('llava_hf',),
                  computed_by=('LlamaForCausalLM', 'llama'))  # fmt: skip
    mine = type('Mine', (LANGUAGE_MODELS.get('Llama'),), {'family': own})
    heir = type('Heir', (LANGUAGE_MODELS.get('Llama'),), {})
    for part in (mine, heir):
        monkeypatch.setitem(LANGUAGE_MODELS.module_dict, part.__name__, part)
    assert family_of({'architectures': ['MineForCausalLM']}) == 'Mine'
    assert family_of({'architectures': ['LlamaForCausalLM']}) == 'Llama'
    assert LlavaHF.from_model(llava_config('Llama', llm={'type': 'Mine'})).model_config['llm']['type'] == 'Mine'
    with pytest.raises(ConfigError, match=r'cannot hold the language model Heir: it has .*Llama'):
        LlavaHF.from_model(llava_config('Llama', llm={'type': 'Heir'}))


def test_tensors_of_no_family():
    assert family_of_keys(['bert.encoder.layer.0.output.dense.weight']) is None


@each
def test_its_own_tensors_are_those_of_the_class(kind):
    rows = FAMILIES[kind].tensors
    assert rows == AS_COMPUTED or any(FAMILIES[kind].head in row.theirs for row in rows)
    assert all((row.split is None) == (row.join is None) == isinstance(row.ours, str) for row in rows)


@pytest.mark.parametrize('kind', held_by('internvl_official'))
def test_its_own_config_there_and_back(kind):
    config = small(kind).lm.config
    written = published_config(kind, config)
    assert family_of(written) == kind
    read = language_model({**written, 'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2}, 'it', tie=False)
    assert read.pop('type') == kind
    again, unsaid = LANGUAGE_MODELS.get(kind).hf_config(read), {'architectures', 'dtype', 'tie_word_embeddings'}
    assert {k: v for k, v in again.to_dict().items() if k not in unsaid} == {
        k: v for k, v in config.to_dict().items() if k not in unsaid
    }


def test_the_document_lists_them():
    text = DOCUMENT.read_text(encoding='utf-8')
    assert write_table(text) == text, 'write it again: python -m tests.models.family_table'


# By names, not from the table: what a release exports, later ones do.
HELD_BY_0_1 = {
    'internvl_hf': {'InternLM2', 'Llama', 'Phi3', 'Qwen2'},
    'internvl_official': {'InternLM2', 'Llama', 'Phi3', 'Qwen2'},
    'llava_hf': {'Gemma', 'InternLM2', 'Llama', 'MiniCPM', 'Mistral', 'Phi', 'Phi3', 'Qwen2', 'StableLM'},
    'llava_official': {'Llama', 'Mistral'},
    'tinyllava': {'Gemma', 'Llama', 'Mistral', 'Phi', 'Qwen2', 'StableLM'},
}


@pytest.mark.parametrize('layout', HELD_BY_0_1)
def test_a_layout_loses_no_family(layout):
    assert set(held_by(layout)) >= HELD_BY_0_1[layout]
