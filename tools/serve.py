"""Serve a model: ``python tools/serve.py DIR`` is ``mmft serve DIR``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['serve', *sys.argv[1:]]))
