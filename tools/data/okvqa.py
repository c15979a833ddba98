"""``mmft data okvqa`` from a clone: ``python tools/data/okvqa.py ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['data', 'okvqa', *sys.argv[1:]]))
