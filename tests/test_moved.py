"""Module paths of 0.1: each still gives the names that it had there."""

import importlib
import subprocess
import sys

import pytest

from mmft.moved import MOVED

# The public names of each module in 0.1, but for a few that only mmft itself took.
NAMES = {
    'mmft.checkpoint.directory': 'ModelDirectory',
    'mmft.checkpoint.layouts': (
        'InternVLHF InternVLOfficial LAYOUTS LAYOUT_NAMES '
        'Layout LlavaHF LlavaNextHF LlavaOfficial '
        'Native Rule Step TinyLlava '
        'layout_for layout_of matches_any '
    ),
    'mmft.checkpoint.source': (
        'Joined TensorDirectory TensorFiles TensorSource WEIGHT_FILES fingerprint has_weights read_json '
    ),
    'mmft.data.annotations': 'AnnotationFile read_json',
    'mmft.data.anyres': 'AnyResTiler select_best_resolution',
    'mmft.data.collate': 'PackCollator PadCollator pictures',
    'mmft.data.dataset': 'ChatDataset',
    'mmft.data.formats': 'Record format_names parse_record register_format',
    'mmft.data.image_processor': 'ImageProcessor',
    'mmft.data.images': (
        'AnyResTiler CenterCrop DynamicTiler ImageProcessor MAX_PIXELS PadSquare Resize image_size load_image to_rgb '
    ),
    'mmft.data.loading': 'ImageSource MAX_PIXELS MAX_SIDE image_size load_image to_rgb',
    'mmft.data.mixture': 'SetSpec mix read_meta',
    'mmft.data.sampler': 'EpochBatchSampler',
    'mmft.data.splits': 'components linked_groups split_apart write_jsonl write_text',
    'mmft.data.templates': 'ChatTemplate build_template internvl llava register_template tinyllava',
    'mmft.data.text_encoder': 'TextEncoder',
    'mmft.data.tiling': 'Place columns_first cut_tiles native place_native place_pillow place_tiles resize',
    'mmft.data.tokenizers': (
        'INTERNVL_TOKENS LEADING_SPACE add_special_tokens give_pad_token '
        'has_tokenizer load_tokenizer save_tokenizer tokenizer_from_files '
        'tokenizer_to_files '
    ),
    'mmft.engine.checkpoint': (
        'POINTER candidates find_last get_rng '
        'initialised_state load_trained plain read_checkpoint '
        'set_rng trained_state write_atomic '
    ),
    'mmft.engine.memory': 'Load Memory Setting Sharding Weights estimate weigh',
    'mmft.engine.plan': 'Plan make_plan plan',
    'mmft.engine.validate': 'KNOWN_KEYS Problems find_problems validate_config',
    'mmft.models.language.families': 'Gemma InternLM2 Llama MiniCPM Mistral Phi Phi3 Qwen2 StableLM',
    'mmft.serve.answerer': 'Answerer Picture Target check_target is_url open_answerer',
    'mmft.serve.asking': 'Answers NOT_ASKED Question ask_all read_questions',
    'mmft.serve.backend': (
        'Choice WANTED choose_backend devices gpu_count installed lmdeploy_command proxy_command transformers_command '
    ),
    'mmft.serve.compare': 'CHANGES Comparison Row compare',
    'mmft.serve.compare_page': 'page verdict',
    'mmft.serve.dialects': 'LMDeployDialect TransformersDialect pictures_first',
    'mmft.serve.protocol': 'ApiError ChatRequest parse_request',
}


@pytest.fixture
def imported_anew(monkeypatch):
    """Modules of old paths that other tests have imported are imported again."""
    for path in MOVED:
        monkeypatch.delitem(sys.modules, path, raising=False)


@pytest.mark.parametrize('path', MOVED)
def test_an_old_path_gives_its_names_and_says_where_they_are(path, imported_anew):
    with pytest.warns(DeprecationWarning, match=r'the old path goes in 0\.3') as caught:
        module = importlib.import_module(path)
    assert any(f'{path} is now {MOVED[path][0]}' in str(warning.message) for warning in caught)
    places = [importlib.import_module(place) for place in MOVED[path]]
    for name in NAMES[path].split():
        assert getattr(module, name) in [getattr(place, name, None) for place in places]


def test_nothing_is_loaded_before_it_is_asked_for():
    code = 'import mmft, sys; assert "torch" not in sys.modules and "mmft.data" not in sys.modules'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_other_names_are_as_unknown_as_ever():
    with pytest.raises(ModuleNotFoundError, match='nosuch'):
        importlib.import_module('mmft.data.nosuch')


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_name_that_never_was_there_is_an_import_error(imported_anew):
    module = importlib.import_module('mmft.data.images')
    with pytest.raises(AttributeError, match='nosuch'):
        module.nosuch  # noqa: B018
