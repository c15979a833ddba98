"""Talking to models, in this process or on a server: on a terminal, in a browser, several side by side.

``answerer``        the one interface to whatever answers: ``Answerer``
``local_answerer``  a model in this process
``remote_answerer`` a model on a server
``open_answerer``   which of the two a path or URL means
``answer_text``     an answer that comes in pieces, cut at stop words

``terminal_chat``   ``mmft chat``, on a ``screen``
``side_by_side``    one conversation with several models; ``conversation_page`` saves it
``webui``           ``mmft webui``: its page (``webui_text``), its host (``webui_host``) and its ``examples``
"""
