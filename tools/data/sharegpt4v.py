"""``mmft data sharegpt4v`` from a clone: ``python tools/data/sharegpt4v.py ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['data', 'sharegpt4v', *sys.argv[1:]]))
