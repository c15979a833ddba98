"""``mmft data folder`` from a clone: ``python tools/data/folder.py ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['data', 'folder', *sys.argv[1:]]))
