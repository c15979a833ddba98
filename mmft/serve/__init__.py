"""Serving a model to other programs.

``server.serve`` is the whole of ``mmft serve``: it checks a directory (or exports one), chooses a backend, starts it
and puts the gateway in front of it. ``settings`` says what can be set, and what is refused.

``backends/`` knows which program runs which model, starts and watches it; ``gateway/`` is what clients talk to.
The way of a request: ``gateway.app`` -> ``gateway.intake`` -> ``gateway.pool`` -> a backend -> ``gateway.completion``.
"""
