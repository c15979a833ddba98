"""The converters of ``mmft data NAME ...``: a command line each; the work is in ``mmft.data.convert``."""
