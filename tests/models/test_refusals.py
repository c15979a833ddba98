"""What a library says of a config that it cannot build becomes an error of ours, and only that."""

from __future__ import annotations

import pytest

from mmft.errors import ConfigError
from mmft.models.refusals import refused_by


@pytest.mark.parametrize('error', [AssertionError, ImportError, KeyError, TypeError, ValueError, ZeroDivisionError])
def test_a_refusal_is_a_config_error(error):
    words = r'(?s)Llama: transformers refuses this config: .*why.*expected: sizes'
    with pytest.raises(ConfigError, match=words) as found, refused_by('transformers', 'Llama', 'sizes'):
        raise error('why')
    assert isinstance(found.value.__cause__, error)


@pytest.mark.parametrize('error', [ConfigError('ours'), MemoryError(), RuntimeError('out of memory'), OSError()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as found, refused_by('transformers', 'Llama', 'sizes'):
        raise error
    assert found.value is error
