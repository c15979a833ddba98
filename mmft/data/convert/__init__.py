"""Converters: published data sets, and folders of pictures, to the chat records that ``ChatDataset`` reads.

One module a source, one function ``convert(...)`` each; ``mmft data`` holds their command lines.
"""
