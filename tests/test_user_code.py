"""Parts that users wrote themselves: named in a config in any way, kept by name, and never imported unasked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file

import mmft
from mmft.cli.configs import load_config
from mmft.cli.main import main
from mmft.data.check import KINDS
from mmft.errors import CheckpointError, ConfigError
from mmft.registry import IMAGE_PROCESSORS, MODELS, PROJECTORS, USER_CODE, VISION_TOWERS
from mmft.user_code import allow_code, code_of, require_code, resolve_code
from tests.engine.tiny import write_tiny

PARTS = """
import torch
from torch import nn
from mmengine.hooks import Hook
from mmengine.optim import LinearLR
from mmengine.visualization import LocalVisBackend
from mmft.data import ChatDataset, ChatEncoder
from mmft.data.batches.collate import PadCollator
from mmft.data.batches.sampler import EpochBatchSampler
from mmft.data.pictures.tilers import DynamicTiler
from mmft.models.projectors.linear import Linear
from mmft.registry import IMAGE_PROCESSORS, PROJECTORS
from subprocess import Popen
RATE = 0.002

{decorator}
class {prefix}Linear(Linear):
    pass

{tiler_decorator}
class {prefix}Tiler(DynamicTiler):
    pass

def make(**settings):
    return Linear(**settings)

class MyHook(Hook):
    pass

class MyOptimizer(torch.optim.AdamW):
    pass

class MyRate(LinearLR):
    pass

class MyBackend(LocalVisBackend):
    pass

class MyData(ChatDataset):
    pass

class MySampler(EpochBatchSampler):
    pass

class MyCollator(PadCollator):
    pass

class MyEncoder(ChatEncoder):
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package of one's own; a new one each time, since Python keeps what was imported."""

    def make(name, decorated=True):
        folder = tmp_path / 'own' / name
        folder.mkdir(parents=True)
        (folder / '__init__.py').write_text('')
        decorators = ('@PROJECTORS.register_module()', '@IMAGE_PROCESSORS.register_module()') if decorated else ('', '')
        text = PARTS.format(decorator=decorators[0], tiler_decorator=decorators[1], prefix=name.title())
        (folder / 'parts.py').write_text(text)
        monkeypatch.syspath_prepend(tmp_path / 'own')
        return f'{name}.parts'

    yield make
    for table in (
        PROJECTORS.module_dict,
        IMAGE_PROCESSORS.module_dict,
        USER_CODE.named,
        USER_CODE.modules,
        sys.modules,
    ):
        for name in [name for name in table if name.lower().startswith('zz')]:
            del table[name]


def forget(module):
    """As in a new process."""
    for table in (
        PROJECTORS.module_dict,
        IMAGE_PROCESSORS.module_dict,
        USER_CODE.named,
        USER_CODE.modules,
        sys.modules,
    ):
        for name in [name for name in table if name.lower().startswith(module.partition('.')[0])]:
            del table[name]


def config(folder: Path, head: str, kind: str, rest: str = '') -> Path:
    path = write_tiny(folder)
    text = path.read_text().replace('model = dict(', f'{head}\nmodel = dict(', 1)
    text = text.replace("dict(type='PixelShuffleMLP', scale=0.5, version='v2')", f'dict(type={kind})')
    path.write_text(text + rest)
    return path


# How a config may name it: the lines, the type of the projector, and whether the class has a decorator.
WAYS = {
    'custom_imports': ("custom_imports = dict(imports=['{module}'])", "'{prefix}Linear'", True),
    'custom_imports, one text': ("custom_imports = dict(imports='{module}')", "'{prefix}Linear'", True),
    'bare import': ('import {module}', "'{prefix}Linear'", True),
    'import as': ('import {module} as parts', 'parts.{prefix}Linear', True),
    'import from': ('from {module} import {prefix}Linear as Mine', 'Mine', True),
    'import from, not registered': ('from {module} import {prefix}Linear', '{prefix}Linear', False),
    'import of a module': ('from {package} import parts', 'parts.{prefix}Linear', False),
    'attribute': ('import {module}', '{module}.{prefix}Linear', False),
    'dotted': ('', "'{module}.{prefix}Linear'", False),
    'dotted, registered': ('', "'{module}.{prefix}Linear'", True),
    'function': ('from {module} import make', 'make', False),
}


@pytest.mark.parametrize('way', WAYS)
def test_every_way_of_naming_it_works_in_a_config_with_read_base(way, package, tmp_path):
    head, kind, decorated = WAYS[way]
    name = f'zz{list(WAYS).index(way)}way'
    module = package(name, decorated)
    words = {'module': module, 'package': name, 'prefix': name.title()}
    cfg = load_config(str(config(tmp_path / 'c', head.format(**words), kind.format(**words))))
    made = PROJECTORS.build({**cfg.model.projector, 'in_dim': 4, 'out_dim': 6})
    assert made(torch.zeros(1, 2, 4)).shape == (1, 2, 6)
    assert isinstance(cfg.to_dict()['model']['projector']['type'], str)
    assert module in cfg.custom_imports['imports']

    # The copy that the work_dir keeps has no imports, and says the same.
    copy = tmp_path / 'copy.py'
    copy.write_text(cfg.pretty_text)
    forget(name)
    again = load_config(str(copy))
    assert type(PROJECTORS.build({**again.model.projector, 'in_dim': 4, 'out_dim': 6})).__name__ in (
        f'{name.title()}Linear', 'Linear')  # fmt: skip
    assert again.pretty_text == cfg.pretty_text


def test_every_kind_of_part(package, tmp_path):
    module = package('zzkinds', decorated=False)
    names = [f'My{kind}' for kind in ('Hook', 'Optimizer', 'Rate', 'Backend', 'Data', 'Sampler', 'Collator', 'Encoder')]
    rest = """
custom_hooks = [dict(type=MyHook)]
optim_wrapper.update(optimizer=dict(type=MyOptimizer, lr=1e-3))
param_scheduler = [dict(type=MyRate, begin=0, end=1)]
visualizer = dict(type='Visualizer', vis_backends=[dict(type=MyBackend)])
train_dataloader['dataset'].update(type=MyData)
train_dataloader.update(sampler=dict(type=MySampler), collate=dict(type=MyCollator))
encoder.update(type=MyEncoder)
train_cfg = dict(max_iters=1)
val_dataloader = val_cfg = None
"""
    path = config(tmp_path / 'c', f'from {module} import {", ".join(names)}', "'Linear'", rest)
    assert main(['train', str(path), '--work-dir', str(tmp_path / 'w')]) == 0
    kept = (tmp_path / 'w' / 'tiny.py').read_text()
    assert all(f"type='{module}.{name}'" in kept for name in names)
    content = torch.load(tmp_path / 'w' / 'iter_1.pth', weights_only=True)
    assert (content['encoder']['type'], content['encoder']['code']) == (f'{module}.MyEncoder', [module])


@pytest.mark.parametrize('line', ["custom_imports = dict(imports=['{}'])", 'import {}'])
def test_what_a_base_imports(line, package, tmp_path):
    name = f'zzbase{len(line)}'
    module = package(name)
    path = config(tmp_path / 'c', '', f"'{name.title()}Linear'")
    base = path.with_name('runtime.py')
    base.write_text(f'{line.format(module)}\n{base.read_text()}')
    assert load_config(str(path)).custom_imports['imports'] == [module]
    assert PROJECTORS.get(f'{name.title()}Linear').__module__ == module


@pytest.mark.parametrize('decorated', [True, False])
def test_from_a_config_to_a_directory_and_back(decorated, package, tmp_path, capfd):
    name = f'zzwhole{int(decorated)}'
    module, prefix = package(name, decorated), name.title()
    head = f'from {module} import {prefix}Linear, {prefix}Tiler'
    path = config(tmp_path / 'c', head, f'{prefix}Linear')
    path.write_text(path.read_text().replace("dict(type='DynamicTiler'", f'dict(type={prefix}Tiler'))
    work, out = tmp_path / 'work', tmp_path / 'out'
    short = ['--cfg-options', 'train_cfg.max_epochs=1', 'val_dataloader=None', 'train_dataloader.num_workers=1']
    assert main(['train', str(path), '--dry-run']) == 0
    assert main(['check-data', str(path), '--workers', '2', '--allow', *KINDS]) == 0
    assert main(['train', str(path), '--work-dir', str(work), *short]) == 0
    (checkpoint,) = work.glob('iter_*.pth')
    assert torch.load(checkpoint, weights_only=True)['encoder']['code'] == [module]

    # Each command in a new process, as far as Python knows: the kept config names the code.
    forget(name)
    assert main(['pth_to_hf', str(work / 'tiny.py'), str(checkpoint), str(out), '--layout', 'native']) == 0
    said = json.loads((out / 'config.json').read_text())
    kind = f'{prefix}Linear' if decorated else f'{module}.{prefix}Linear'
    assert (said['code'], said['model']['projector']['type']) == ([module], kind)
    assert json.loads((out / 'encoder.json').read_text())['code'] == [module]

    forget(name)
    capfd.readouterr()
    assert main(['chat', str(out)]) == 1
    assert f'--allow-code {module}' in capfd.readouterr().err
    with pytest.raises(CheckpointError, match=rf"allow_code=\['{module}'\]"):
        mmft.load(out)
    assert module not in sys.modules
    model, encoder = mmft.load(out, allow_code=module)
    assert type(model.projector).__name__ == f'{prefix}Linear'
    assert type(encoder.image_processor).__name__ == f'{prefix}Tiler'

    forget(name)
    with pytest.raises(CheckpointError, match='allow-code'):
        mmft.data.ChatEncoder.from_dict(torch.load(checkpoint, weights_only=True)['encoder'])
    assert module not in sys.modules


def test_an_allowed_module_gives_its_own_classes_and_nothing_that_it_imports(package):
    module = package('zzgives', decorated=False)
    allow_code([module])
    assert PROJECTORS.get(f'{module}.ZzgivesLinear').__name__ == 'ZzgivesLinear'
    for name in ('Popen', 'nn', 'make', 'Linear', 'RATE', '__name__', 'PROJECTORS'):
        assert PROJECTORS.get(f'{module}.{name}') is None


@pytest.mark.parametrize('named', [['zzabsent.towers'], 'zzabsent.towers', ['this']])
def test_a_file_that_names_code_imports_nothing(named):
    sys.modules.pop('this', None)
    with pytest.raises(CheckpointError) as caught:
        require_code(named, 'somewhere')
    assert 'this' not in sys.modules
    assert 'allow-code zzabsent.towers' in str(caught.value) or 'this' in named


@pytest.mark.parametrize('named', [3, {'a': 1}, [3], ['a b'], ['a;b'], [''], ['.'], ['a..b'], ['../x'], ['a:b'],
                                   [['a']], ['subprocess'], ['os.path'], ['mmft.cli.main'], ['a\x1b[2J']])  # fmt: skip
def test_code_that_is_no_module_of_ones_own(named):
    with pytest.raises(CheckpointError, match='code ='):
        require_code(named, 'somewhere')
    with pytest.raises(ConfigError):
        allow_code(named if isinstance(named, list) else [named])
    require_code(None, 'somewhere')
    require_code([], 'somewhere')


WRONG = {
    'a module that is not there': ("custom_imports = dict(imports=['zzabsent'])", 'PYTHONPATH'),
    'one of the list': ("custom_imports = dict(imports=['json', 'zzabsent.x'])", 'zzabsent.x'),
    'a bare import': ('import zzabsent.x', 'zzabsent'),
    'an import of a name': ('from json import zzabsent', 'ImportError: Failed to import zzabsent'),
    'no list': ('custom_imports = dict(imports=5)', 'custom_imports ='),
    'no dict': ("custom_imports = ['json']", 'custom_imports ='),
    'another key': ("custom_imports = dict(import_=['json'])", 'custom_imports ='),
    'no name': ("custom_imports = dict(imports=['a-b'])", 'custom_imports ='),
    'code that fails': (
        "custom_imports = dict(imports=['zzbroken'])",
        'zzbroken cannot be imported: ZeroDivisionError',
    ),
    'code that ends Python': ("custom_imports = dict(imports=['zzexit'])", 'zzexit cannot be imported: SystemExit'),
}


@pytest.mark.parametrize('case', WRONG)
def test_code_that_cannot_be_imported_is_an_error_of_ours(case, tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'zzbroken.py').write_text('1 / 0')
    (tmp_path / 'zzexit.py').write_text('import sys\nsys.exit(3)')
    head, expected = WRONG[case]
    path = config(tmp_path / 'c', head, "'Linear'")
    assert main(['train', str(path), '--dry-run']) == 1
    assert expected in capfd.readouterr().err


def test_failed_imports_may_be_allowed(tmp_path, capfd):
    head = "custom_imports = dict(imports=['zzabsent'], allow_failed_imports=True)"
    cfg = load_config(str(config(tmp_path, head, "'Linear'")))
    assert cfg.custom_imports == {'imports': ['zzabsent'], 'allow_failed_imports': True}


@pytest.mark.parametrize(('kind', 'said'), [
    ("'zzabsent.towers.Mine'", "model.projector.type: zzabsent.towers cannot be imported"),
    ("'json.Mine'", "json has no 'Mine'"),
    ('lambda **_: 0', 'which no module holds'),
])  # fmt: skip
def test_a_class_that_is_not_there(kind, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        load_config(str(config(tmp_path, '', kind)))


def test_names_of_registries_stay_as_they_are(tmp_path):
    rest = "encoder.update(template=dict(type='vicuna_v1.1'))\ncustom_hooks = [dict(type='mmengine.EMAHook')]"
    cfg = load_config(str(config(tmp_path, '', "'mmft.Linear'", rest)))
    assert (cfg.model.projector.type, cfg.encoder.template.type) == ('Linear', 'vicuna_v1.1')
    assert cfg.custom_hooks[0].type == 'EMAHook'
    assert cfg.get('custom_imports') is None


def test_classes_of_libraries(tmp_path):
    head = 'from torch.optim import AdamW\nfrom mmft.models import InternViT\nfrom mmengine.hooks import EMAHook'
    path = config(tmp_path, head, "'Linear'", '\ncustom_hooks = [dict(type=EMAHook, momentum=0.1)]\n')
    text = path.read_text().replace("type='AdamW'", 'type=AdamW').replace("type='InternViT'", 'type=InternViT')
    path.write_text(text)
    cfg = load_config(str(path))
    types = (cfg.optim_wrapper.optimizer.type, cfg.model.vision.type, cfg.custom_hooks[0].type)
    assert types == ('AdamW', 'InternViT', 'EMAHook')
    assert cfg.get('custom_imports') is None


def test_constants_of_ones_own(package, tmp_path):
    module = package('zzconstants')
    rest = "\noptim_wrapper.update(optimizer=dict(type='AdamW', lr=RATE))\n"
    path = config(tmp_path / 'c', f'from {module} import RATE', "'Linear'", rest)
    assert load_config(str(path)).to_dict()['optim_wrapper']['optimizer']['lr'] == 0.002


def test_code_of_finds_parts_at_every_depth(package):
    module = package('zzdeep')
    allow_code(module)
    assert code_of({'a': [{'b': ({'type': 'ZzdeepLinear'},)}]}) == [module]
    assert code_of({'a': [{'type': 'Linear'}, {'type': 'cosine'}, {'type': 3}]}) == []


BASE = 'with read_base():\n    from .base import *\n'


@pytest.mark.parametrize('head', ['', f'from mmengine.config import read_base\n\n{BASE}'])
@pytest.mark.parametrize(
    ('body', 'keys'),
    [
        ('def f(x):\n    return x\n\n\ntrain_cfg = dict(by=f)\n', ['train_cfg.by']),
        ('hooks = [dict(a=1), dict(a=lambda x: x)]\nlr = object()\n', ['hooks.1.a', 'lr']),
        ('data = dict(rows=iter([1]))\n', ['data.rows']),
        ('class A:\n    pass\n\n\nparts = (A,)\n', ['parts.0']),
    ],
)
def test_values_that_no_copy_of_the_config_can_hold(body, keys, head, tmp_path):
    (tmp_path / 'base.py').write_text('tf32 = True\n')
    (tmp_path / 'config.py').write_text(head + body)
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / 'config.py'))
    assert len(caught.value.problems) == len(keys)
    for key in keys:
        assert f'{key} = <' in str(caught.value)


def test_helpers_and_paths_in_a_config(tmp_path):
    (tmp_path / 'base.py').write_text('tf32 = True\n')
    text = f'from mmengine.config import read_base\n\n{BASE}\n\ndef twice(x):\n    return 2 * x\n\n\nlr = twice(2)\n'
    (tmp_path / 'config.py').write_text(text)
    assert load_config(str(tmp_path / 'config.py')).pretty_text.split() == ['lr', '=', '4', 'tf32', '=', 'True']
    cfg = resolve_code(Config({'work_dir': tmp_path}))
    assert cfg.work_dir == str(tmp_path)
    (tmp_path / 'config.py').write_text("from pathlib import Path\n\nwork_dir = Path('/data')\n")
    with pytest.raises(ConfigError, match=r'config.py:3: .*a call of something that the config imports'):
        load_config(str(tmp_path / 'config.py'))


TOWER = """
import torch
from torch import nn
from mmft.models import CLIP, VisionTower
from mmft.registry import VISION_TOWERS

@VISION_TOWERS.register_module()
class {prefix}Tower(VisionTower):
    def __init__(self, hidden_size=8, image_size=28):
        super().__init__()
        self.hidden_size, self.image_size = hidden_size, image_size
        self.patches, self.norm = nn.Conv2d(3, hidden_size, 7, 7), nn.BatchNorm2d(hidden_size)

    def num_patches(self, image_size):
        return (image_size // 7) ** 2

    def forward(self, pixel_values):
        return self.norm(self.patches(pixel_values)).flatten(2).transpose(1, 2)

    @property
    def layers(self):
        return nn.ModuleList([self.patches])

@VISION_TOWERS.register_module()
class {prefix}Clip(CLIP):
    pass
"""


@pytest.fixture
def tower(tmp_path, monkeypatch):
    """A tower of one's own, with weights; its module, its name and its class."""
    name = f'zz{tmp_path.name.rstrip("0123456789").replace("_", "")[:40]}'
    (tmp_path / f'{name}.py').write_text(TOWER.format(prefix=name.title()))
    monkeypatch.syspath_prepend(tmp_path)
    VISION_TOWERS.import_from_location()
    allow_code(name)
    kind = VISION_TOWERS.get(f'{name.title()}Tower')
    torch.manual_seed(0)
    built = kind()
    built.norm.running_mean.normal_()
    yield name, f'{name.title()}Tower', built
    for table in (VISION_TOWERS.module_dict, USER_CODE.named, USER_CODE.modules, sys.modules):
        for key in [key for key in table if key.lower().startswith('zz')]:
            del table[key]


def whole(vision):
    llm = {'type': 'Llama', 'vocab_size': 32, 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
           'intermediate_size': 32}  # fmt: skip
    return {'type': 'VLM', 'vision': vision, 'projector': {'type': 'Linear'}, 'llm': llm}


@pytest.mark.parametrize('place', ['tower.safetensors', 'tower.pth', 'folder', 'export'])
def test_weights_of_a_part_of_ones_own_have_its_own_names(place, tower, tmp_path):
    name, kind, built = tower
    path, state = tmp_path / place, built.state_dict()
    config = whole({'type': kind})
    if place == 'tower.safetensors':
        save_file(state, path)
    elif place == 'tower.pth':
        torch.save({'state_dict': state}, path)
    elif place == 'folder':
        path.mkdir()
        save_file(state, path / 'model.safetensors')
    else:
        path.mkdir()
        full = MODELS.build(config)
        full.vision.load_state_dict(state)
        save_file(full.state_dict(), path / 'model.safetensors')
        said = {'architectures': ['MMFTForConditionalGeneration'], 'model': config, 'code': [name]}
        (path / 'config.json').write_text(json.dumps(said))
    model, encoder = mmft.load({'vision': str(path)}, model=config)
    assert encoder is None
    assert all(torch.equal(model.vision.state_dict()[key], value) for key, value in state.items())


def test_weights_of_other_names_and_of_none(tower, tmp_path):
    _, kind, built = tower
    save_file({f'net.{key}': value for key, value in built.state_dict().items()}, tmp_path / 'x.safetensors')
    with pytest.raises(CheckpointError, match=r'vision\.net\.norm\.bias: in the weights, but not in the model'):
        mmft.load({'vision': str(tmp_path / 'x.safetensors')}, model=whole({'type': kind}))
    (tmp_path / 'empty').mkdir()
    for place in ('absent.safetensors', 'empty', 'absent'):
        with pytest.raises(CheckpointError, match=r'absent|no weights|empty'):
            mmft.load({'vision': str(tmp_path / place)}, model=whole({'type': kind}))


def test_a_kind_of_an_mmft_part_reads_its_directories(tower, tmp_path):
    name, _, _ = tower
    sizes = {'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 32,
             'image_size': 28, 'patch_size': 7}  # fmt: skip
    clip = VISION_TOWERS.build({'type': 'CLIP', **sizes})
    clip.tower.save_pretrained(tmp_path / 'clip')
    model, _ = mmft.load({'vision': str(tmp_path / 'clip')}, model=whole({'type': f'{name.title()}Clip', **sizes}))
    assert torch.equal(model.vision.state_dict()['tower.pre_layrnorm.weight'], clip.tower.pre_layrnorm.weight)


def test_a_dotted_path_of_a_registered_class_is_kept_as_its_name(tower, tmp_path):
    name, kind, _ = tower
    path = config(tmp_path / 'c', '', "'Linear'")
    path.write_text(path.read_text().replace("type='InternViT'", f"type='{name}.{kind}'"))
    assert load_config(str(path)).model.vision.type == kind
