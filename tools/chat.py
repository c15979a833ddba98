"""Talk with a model about pictures: ``python tools/chat.py DIR`` is ``mmft chat DIR``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['chat', *sys.argv[1:]]))
