"""Serving a model to other programs: an OpenAI-compatible gateway, and the backends behind it."""
