"""Ports of this machine: one that is held before its server is ready, and one that is free."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

from mmft.errors import ServerError

__all__ = ['bound_socket', 'free_port', 'reuse_address']


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that holds the port, not listening yet: nobody else can bind it, whoever listens first.

    Raises:
        ServerError: the port is taken, or the host has no such address.
    """
    try:
        if not 0 <= port <= 65535:  # the C library cuts it
            raise OSError('ports are 0 to 65535')
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            _bind(made, address)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise ServerError(
            f'cannot listen on {host} port {port}: {error.strerror or error}',
            expected='a free port of this machine',
            fix='pass another --port (0 takes any that is free), or stop what listens there',
        ) from error
    return made


def _bind(made: socket.socket, address: Any) -> None:
    try:
        made.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Perhaps connections of a server that has ended only just. SO_REUSEADDR lets us pass by them; kept, it would
        # let another server bind this port as well, as long as none of the two listens.
        reuse_address(made, True)
        made.bind(address)
        reuse_address(made, False)


def reuse_address(bound: socket.socket, yes: bool = True) -> None:
    """Whether the port can be bound anew at once when its server has ended; to be set before it listens."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(yes))


def free_port() -> int:
    """A port of the loopback address that nothing listens on at this moment."""
    with contextlib.closing(bound_socket('127.0.0.1', 0)) as probe:
        return probe.getsockname()[1]
