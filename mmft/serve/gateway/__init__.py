"""An OpenAI-compatible HTTP application in front of the backends: what clients talk to, whatever answers behind it.

The files in the order in which a request meets them:

``http_protocol``  HTTP/1.1 that does not wait forever for a request's head
``app``            the routes; a chat completion's way from here on
``response``       what is given up when the client goes
``intake/``        the request is read, checked, its pictures found, its tokens counted
``pool``           it waits for a backend that has a slot
``dialects``       it is worded as that backend wants it
``upstream``       the backend is asked; its answer comes in pieces
``completion``     these go to the client, whole or streamed

``settings`` says what a gateway allows, ``api_error`` how it says that something is wrong.
"""
