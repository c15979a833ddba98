"""The registries look names up and import nothing: a name may come from a stranger's file."""

from __future__ import annotations

import sys

import pytest
from mmengine.registry import DefaultScope

import mmft.registry
from mmft.errors import ConfigError
from mmft.registry import HOOKS, PARAM_SCHEDULERS, PROJECTORS, TEMPLATES, Registry

REGISTRIES = [value for value in vars(mmft.registry).values() if isinstance(value, Registry)]
UNIMPORTED = 'this'  # a module that prints a poem when it is imported

NAMES = ['subprocess.Popen', 'os.system', 'builtins.exec', 'mmengine.utils.get_object_from_string', 'mmdet.X',
         'mmft.MLP', UNIMPORTED, f'{UNIMPORTED}.s', f'{UNIMPORTED}:s', '', '.', 'Ml P', '__class__']  # fmt: skip


@pytest.mark.parametrize('registry', REGISTRIES, ids=lambda registry: registry.name)
@pytest.mark.parametrize('name', NAMES)
def test_a_name_that_is_not_registered_runs_and_imports_nothing(registry, name, tmp_path):
    canary = tmp_path / 'ran'
    registry.import_from_location()
    sys.modules.pop(UNIMPORTED, None)
    before = set(sys.modules)
    for cfg in ({'type': name}, {'type': name, 'args': ['touch', str(canary)]}, {'type': name, '_scope_': UNIMPORTED}):
        with pytest.raises(ConfigError, match='is named'):
            registry.build(cfg)
    assert registry.get(name) is None
    assert not canary.exists()
    assert set(sys.modules) - before <= {m for m in sys.modules if m.split('.')[0] in ('mmft', 'mmengine')}


@pytest.mark.parametrize('kind', [['MLP'], {'type': 'MLP'}, 3, True, b'MLP', print, dict])
def test_a_type_that_is_no_text(kind):
    with pytest.raises(ConfigError, match='projector is named'):
        PROJECTORS.build({'type': kind, 'in_dim': 4, 'out_dim': 4})


@pytest.mark.parametrize('scope', ['mmengine', 'mmft', UNIMPORTED, None])
def test_no_scopes(scope):
    sys.modules.pop(UNIMPORTED, None)
    with pytest.raises(ConfigError, match='_scope_'):
        PROJECTORS.build({'type': 'Linear', '_scope_': scope, 'in_dim': 4, 'out_dim': 4})
    assert UNIMPORTED not in sys.modules


@pytest.mark.parametrize('part', ['MLP', b'MLP', 5, True, 1.5, ['MLP'], ({'type': 'MLP'},)])
def test_what_is_no_part_is_not_taken_for_one_that_is_built_already(part):
    with pytest.raises(ConfigError, match='where a projector should be'):
        PROJECTORS.build(part)
    assert PROJECTORS.build(None) is None


def test_a_scope_set_elsewhere_changes_nothing():
    """mmengine's Runner sets a scope for the whole process."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        made = PROJECTORS.build({'type': 'Linear', 'in_dim': 4, 'out_dim': 4})
    assert type(made).__module__ == 'mmft.models.projectors.linear'


def test_parts_of_mmengine_are_found_by_their_names():
    assert HOOKS.get('EMAHook').__module__ == 'mmengine.hooks.ema_hook'
    assert PARAM_SCHEDULERS.get('CosineAnnealingLR').__name__ == 'CosineAnnealingLR'


def test_a_registered_name_may_have_a_dot():
    assert TEMPLATES.get('vicuna_v1.1') is not None
