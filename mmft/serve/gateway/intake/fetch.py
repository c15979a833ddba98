"""Pictures from the web, for a server that others may reach: from public addresses only.

The address is looked up once, checked, and connected to, at each redirect anew. A name that leads
to another address a moment later (DNS rebinding) therefore achieves nothing. Proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import urljoin

import httpcore
import httpx

from mmft import __version__
from mmft.errors import DataError
from mmft.words import clipped

__all__ = ['Fetcher', 'is_public']

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_GLOBAL_UNICAST = ipaddress.ip_network('2000::/3')
_NAT64 = ipaddress.ip_network('64:ff9b::/96')
_SPECIAL = [
    ipaddress.ip_network(text)
    for text in (
        *('0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '192.0.0.0/24'),
        *('192.0.2.0/24', '192.31.196.0/24', '192.52.193.0/24', '192.88.99.0/24', '192.168.0.0/16', '192.175.48.0/24'),
        *('198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24', '224.0.0.0/4', '240.0.0.0/4'),
        *('2001::/23', '2001:db8::/32', '2002::/16', '2620:4f:8000::/48', '3fff::/20'),
        '168.63.129.16/32',
    )
]
"""No picture of the public web is in these: the special-purpose registries of IANA (of IPv6's what lies in 2000::/3)
and the host of every virtual machine of Azure. What Python itself knows of them differs from version to version."""


class Fetcher:
    """Fetches pictures.

    Args:
        max_bytes: of one.
        seconds: for one, redirects included.
        allowed_hosts: names that may have private addresses too, such as the operator's picture store.
    """

    def __init__(self, max_bytes: int, seconds: float = 20.0, allowed_hosts: Collection[str] = ()) -> None:
        self.max_bytes, self.seconds = max_bytes, seconds
        # The number of admitted requests bounds how many there are at a time.
        network = _PublicNetwork(frozenset(allowed_hosts))
        self._pool = httpcore.AsyncConnectionPool(None, max_keepalive_connections=0, network_backend=network)

    async def fetch(self, url: str, take: Callable[[int], None] = lambda size: None) -> bytes:
        """What is at an ``http(s)://`` address.

        Args:
            take: called with the number of bytes as they come, and may raise.

        Raises:
            DataError: a private address, no answer, an answer that is an error, too slow or too large.
        """
        try:
            return await asyncio.wait_for(self._follow(url, take), self.seconds)
        except (asyncio.TimeoutError, TimeoutError, httpcore.TimeoutException):
            raise DataError(f'{_short(url)}: no picture within {self.seconds:g} s') from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            raise DataError(f'{_short(url)}: {error or type(error).__name__}') from None

    async def _follow(self, url: str, take: Callable[[int], None]) -> bytes:
        place = url
        for _ in range(MAX_REDIRECTS + 1):
            target = _target(place)
            headers = {'user-agent': f'mmft/{__version__}', 'accept': 'image/*', 'accept-encoding': 'identity'}
            async with self._pool.stream('GET', target, headers=headers) as answer:
                if answer.status in _REDIRECTS:
                    place = urljoin(place, _header(answer.headers, b'location'))
                    continue
                if answer.status != 200:
                    raise DataError(f'{_short(url)}: its server answered with status {answer.status}')
                return await self._read(answer, url, take)
        raise DataError(f'{_short(url)}: more than {MAX_REDIRECTS} redirects')

    async def _read(self, answer: httpcore.Response, url: str, take: Callable[[int], None]) -> bytes:
        content = bytearray()
        async for piece in answer.aiter_stream():
            take(len(piece))
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
            raise DataError(f'{_short(host)}: no such host') from None
        addresses = list(dict.fromkeys(info[4][0] for info in found))
        private = [] if host in self._allowed else [address for address in addresses if not is_public(address)]
        if private:
            raise DataError(
                f'{_short(host)} is at {private[0]}, a private address',
                expected='a picture at a public address',
                fix='send the picture itself, as a base64 data URL',
            )
        failed: Exception = DataError(f'{_short(host)}: no address')
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, *args, **kwargs)
            except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
                failed = error
        raise failed

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise DataError('a socket file is not a web address')

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def is_public(address: str) -> bool:
    """Whether an IP address can be that of a host on the public web; also of IPv4 addresses written inside IPv6 ones.

    >>> [is_public(a) for a in ('8.8.8.8', '127.0.0.1', '169.254.169.254', '::ffff:10.0.0.1')]
    [True, False, False, False]
    >>> [is_public(a) for a in ('64:ff9b::808:808', '64:ff9b::7f00:1')]
    [True, False]
    """
    ip = ipaddress.ip_address(address.partition('%')[0])
    if ip.version == 6 and ip in _NAT64:  # how networks without IPv4 see the rest of the world
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    # What is written outside 2000::/3 leads to places of all kinds, IPv4 addresses among them.
    ordinary = ip.version == 4 or ip in _GLOBAL_UNICAST
    return ordinary and ip.is_global and not any(ip in network for network in _SPECIAL)


def _target(place: str) -> httpcore.URL:
    try:
        url = httpx.URL(place)  # which escapes what is not ASCII, names of hosts too
        known = url.scheme in ('http', 'https') and bool(url.raw_host) and 0 < (url.port or 80) < 65536
    except (httpx.InvalidURL, UnicodeError):
        known = False
    if not known:
        raise DataError(f'{_short(place)}: not an http(s) address')
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode('latin-1') for key, value in headers if key.lower() == name), '')


def _short(url: str) -> str:
    return clipped(url, 100)
