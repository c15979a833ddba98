"""The way in: everything that can be wrong with a request is found here, before a backend is asked.

``intake``        the steps in their order, and the memory that all requests together may hold
``body``          the bytes, with limits of time and size
``request``       the JSON, as a ``ChatRequest``
``messages``      its messages: roles, texts, pictures
``fields``        its other fields: followed, harmless, or refused
``pictures``      a picture that a message names: found and decoded
``fetch``         a picture from the web, from public addresses only
``prompt_count``  how many tokens the conversation is
"""
