"""Talking to models, in this process or on a server: on a terminal, in a browser, several side by side."""
