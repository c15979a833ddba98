"""``GatewaySettings``: what a gateway allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmft.data.pictures.transparency import WHITE, Colour

__all__ = ['GatewaySettings']


@dataclass(frozen=True)
class GatewaySettings:
    """What a gateway allows.

    Attributes:
        names: what the model may be called; the first one is its name.
        about: what ``/`` reports of the server.
        api_keys: one of which every request but ``/health`` must bring; empty: none is asked for.
        hosts: what the Host header may name, so that a web page whose name leads to a loopback server (DNS rebinding)
            cannot ask it; empty: anything.
        session_len: most tokens of a conversation and its answer; None: the backend limits that.
        vocabulary: how many tokens the model has; None: not known.
        max_tokens: of an answer, where a request says nothing.
        max_body: bytes of a request.
        max_held: bytes of memory that all requests together may hold while they wait or are answered.
        patience: seconds that a client may leave an answer unread, or may be silent before its request is whole, and
            that the pictures of a request may take to be fetched.
        most_reading: requests of one client whose bodies are read at a time (``Readers``).
        image_root: the folder whose pictures requests may name by path; None: none.
        picture_hosts: whose pictures requests may name although their addresses are private.
        background: on which the model sees transparent pictures, as of its encoder.
    """

    names: tuple[str, ...]
    about: dict[str, Any]
    api_keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    session_len: int | None = None
    vocabulary: int | None = None
    max_tokens: int = 1024
    max_body: int = 64 << 20
    max_held: int = 2 << 30
    max_pictures: int = 64
    patience: float = 60.0
    most_reading: int = 256
    image_root: str | None = None
    picture_hosts: tuple[str, ...] = ()
    background: Colour | None = WHITE
