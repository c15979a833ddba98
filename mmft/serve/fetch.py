"""Pictures from the web, for a server that others may reach: from public addresses only.

The address is looked up once, checked, and that very address is connected to, at each redirect anew. A name that leads
to another address a moment later (DNS rebinding) therefore gains nothing. Proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from mmft import __version__
from mmft.errors import DataError

__all__ = ['Fetcher', 'is_public']

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)


class Fetcher:
    """Fetches pictures.

    Args:
        max_bytes: of one.
        seconds: for one, redirects included.
        allowed_hosts: names that may have private addresses too, such as a picture store of one's own.
    """

    def __init__(self, max_bytes: int, seconds: float = 20.0, allowed_hosts: Collection[str] = ()) -> None:
        self.max_bytes, self.seconds = max_bytes, seconds
        self._pool = httpcore.AsyncConnectionPool(network_backend=_PublicNetwork(frozenset(allowed_hosts)))

    async def fetch(self, url: str) -> bytes:
        """What is at an ``http(s)://`` address.

        Raises:
            DataError: a private address, no answer, an answer that is an error, too slow or too large.
        """
        try:
            return await asyncio.wait_for(self._follow(url), self.seconds)
        except (asyncio.TimeoutError, TimeoutError, httpcore.TimeoutException):
            raise DataError(f'{_short(url)}: no picture within {self.seconds:g} s') from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            raise DataError(f'{_short(url)}: {error or type(error).__name__}') from None

    async def _follow(self, url: str) -> bytes:
        place = url
        for _ in range(MAX_REDIRECTS + 1):
            try:
                split = urlsplit(place)
                known = split.scheme in ('http', 'https') and bool(split.hostname) and (split.port or 1) > 0
            except ValueError:
                known = False
            if not known:
                raise DataError(f'{_short(place)}: not an http(s) address')
            target = httpcore.URL(place.encode('ascii', 'backslashreplace'))
            headers = {'user-agent': f'mmft/{__version__}', 'accept': 'image/*', 'accept-encoding': 'identity'}
            async with self._pool.stream('GET', target, headers=headers) as answer:
                if answer.status in _REDIRECTS:
                    place = urljoin(place, _header(answer.headers, b'location'))
                    continue
                if answer.status != 200:
                    raise DataError(f'{_short(url)}: its server answered with status {answer.status}')
                return await self._read(answer, url)
        raise DataError(f'{_short(url)}: more than {MAX_REDIRECTS} redirects')

    async def _read(self, answer: httpcore.Response, url: str) -> bytes:
        content = bytearray()
        async for piece in answer.aiter_stream():
            content += piece
            if len(content) > self.max_bytes:
                raise DataError(f'{_short(url)}: more than {self.max_bytes:,} bytes')
        return bytes(content)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


class _PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only. TLS still checks the certificate against the name in the URL."""

    def __init__(self, allowed_hosts: frozenset[str]) -> None:
        self._allowed, self._inner = allowed_hosts, httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            raise DataError(f'{host}: no such host') from None
        addresses = list(dict.fromkeys(info[4][0] for info in found))
        private = [] if host in self._allowed else [address for address in addresses if not is_public(address)]
        if private:
            raise DataError(
                f'{host} is at {private[0]}, a private address',
                expected='a picture at a public address',
                fix='send the picture itself, as a base64 data URL',
            )
        return await self._inner.connect_tcp(addresses[0], port, *args, **kwargs)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise DataError('a socket file is no web address')

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def is_public(address: str) -> bool:
    """Whether an IP address can be reached from everywhere; also of IPv4 addresses written inside IPv6 ones.

    >>> [is_public(a) for a in ('8.8.8.8', '127.0.0.1', '169.254.169.254', '::ffff:10.0.0.1', '64:ff9b::7f00:1')]
    [True, False, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition('%')[0])
    inside: Iterable[Any] = ()
    if ip.version == 6:
        nat64 = ipaddress.ip_address(int(ip) & 0xFFFFFFFF) if ip in ipaddress.ip_network('64:ff9b::/96') else None
        inside = [other for other in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ()), nat64) if other is not None]
    return ip.is_global and not ip.is_multicast and all(is_public(str(other)) for other in inside)


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode('latin-1') for key, value in headers if key.lower() == name), '')


def _short(url: str) -> str:
    return url if len(url) <= 100 else f'{url[:97]}...'
