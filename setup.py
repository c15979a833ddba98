"""Packaging of mmft. Bounds are versions the test-suite has been run with."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'mmft/__init__.py').read_text(encoding='utf-8'))[1]

REQUIRES = [
    # torch and torchvision come as a pair from PyPI; their upper bound is LMDeploy's, so one environment trains and
    # serves.
    'torch>=2.11,<=2.12.1',
    'torchvision>=0.26,<=0.27.1',
    'transformers>=5.17,<5.24',
    'peft>=0.14,<0.15',
    'accelerate>=1.10',
    # mmengine-lite is mmengine without its undeclared choice of an OpenCV build: the headless one needs no libGL.
    'mmengine-lite>=0.10.7,<0.11',
    'opencv-python-headless>=4.10',
    'matplotlib>=3.8',
    'safetensors>=0.5',
    'tokenizers>=0.22',
    'sentencepiece>=0.2',
    'jinja2>=3.1',
    'einops>=0.8',
    'timm>=1.0.20,<1.1',
    'numpy>=1.26',
    'pillow>=11',
    'tqdm>=4.66',
    'psutil>=5.9',
    'tensorboard>=2.16',
    # mmengine imports pkg_resources for `_base_ = 'package::config.py'`; this is the bound that setuptools 80 advises.
    'setuptools<81',
]
EXTRAS = {
    # `mmft serve`: the gateway, and transformers' own server behind it where there is no GPU.
    'serve': ['transformers[serving]', 'httpx>=0.28', 'starlette>=0.46', 'uvicorn>=0.34'],
    'deploy': ['lmdeploy==0.18.0'],
    'deepspeed': ['deepspeed>=0.19,<0.20'],
    'qlora': ['bitsandbytes>=0.49'],
    'webui': ['gradio>=6.31,<7'],
    'track': ['wandb>=0.17'],
    # Language models in llama.cpp's format.
    'gguf': ['gguf>=0.17'],
    # aiohttp drives the browser that the web page is tested in.
    'dev': ['pytest>=8', 'pytest-xdist>=3.6', 'ruff==0.17.6', 'pre-commit>=3.7', 'aiohttp>=3.10'],
}
EXTRAS['all'] = [
    requirement for name in ('serve', 'deploy', 'deepspeed', 'qlora', 'webui', 'gguf') for requirement in EXTRAS[name]
]

setup(
    name='mmft',
    version=VERSION,
    description='Fine-tune InternVL2, LLaVA and other vision-language models from Python configs',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.13',
    packages=[*find_packages(include=['mmft', 'mmft.*']), 'mmft.configs', 'mmft._configs'],
    # The config tree travels with the package, so that `mmft train NAME` works from any folder. A clone has it under
    # mmft/configs too, by a link. `_configs` is its name in 0.1.
    package_dir={'mmft.configs': 'configs', 'mmft._configs': 'configs'},
    package_data={
        'mmft.configs': ['*.py', '**/*.py'],
        'mmft._configs': ['*.py', '**/*.py'],
        'mmft': [
            'pages.html',
            'data/pictures/*.c',
            'data/check/*.html',
            'compare/*.html',
            'talk/*.html',
            'talk/*.css',
        ],
    },
    # Optional: without a compiler pictures are tiled through PIL, to the same pixels.
    ext_modules=[
        Extension(
            'mmft.data.pictures._tiling',
            ['mmft/data/pictures/_tiling.c'],
            extra_compile_args=['-O3', '-ffp-contract=off'],
            optional=True,
        )
    ],
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['mmft = mmft.cli.main:main']},
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
    ],
)
