"""Files of model directories read as data: JSON, tensors whole or in shards, adapters over a base, parts in folders.

Nothing here knows what the tensors are called or what a ``config.json`` means: the layouts above do.
"""
