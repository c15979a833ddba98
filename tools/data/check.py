"""``mmft check-data`` from a clone: ``python tools/data/check.py ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['data', 'check', *sys.argv[1:]]))
