"""``mmft data llava_mix`` from a clone: ``python tools/data/llava_mix.py ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['data', 'llava_mix', *sys.argv[1:]]))
