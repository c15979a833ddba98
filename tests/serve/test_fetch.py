"""Pictures from the web, and every way to lead the server to what is not public."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

import httpcore
import pytest
from starlette.applications import Starlette
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mmft.errors import DataError
from mmft.serve.gateway.intake.fetch import Fetcher, is_public
from mmft.serve.gateway.intake.pictures import PictureLoader
from tests.export.tiny import picture
from tests.serve.running import encoded, question, running


def web(loader_hosts=('localhost',)):
    """A picture server, and redirects."""
    content = encoded(picture(40, 30), 'PNG')

    def redirect(request):
        return RedirectResponse(request.query_params['to'])

    def endless(request):
        return RedirectResponse('/endless')

    routes = [
        Route('/a.png', lambda request: Response(content, media_type='image/png')),
        Route('/large.png', lambda request: Response(content + bytes(1 << 20))),
        Route('/to', redirect),
        Route('/endless', endless),
    ]
    return Starlette(routes=routes)


def test_pictures_from_the_web_and_where_redirects_may_not_lead(make):
    with running(web()) as url, ThreadPoolExecutor(1) as threads:
        port = url.rpartition(':')[2]
        # The test's own server is on loopback: by the name that is allowed, not by its address.
        host = f'http://localhost:{port}'
        setup = make(pictures=PictureLoader(threads, fetcher=Fetcher(500_000, 5.0, allowed_hosts=('localhost',))))
        assert setup.sent(f'{host}/a.png').size == (40, 30)
        assert setup.sent(f'{host}/to?to=/a.png').size == (40, 30)
        refused = {
            f'{host}/to?to={url}/a.png': 'a private address',
            f'{host}/to?to=http://169.254.169.254/': 'a private address',
            f'{host}/to?to=file:///etc/passwd': 'not an http(s) address',
            f'{host}/endless': 'redirects',
            f'{host}/none.png': 'status 404',
            f'{host}/large.png': 'more than 500,000 bytes',
            'http://name.invalid/a.png': 'no such host',
            'http://localhost:1/a.png': 'localhost:1/a.png: ',
        }
        for place, words in refused.items():
            status, error = setup.error(question('?', place))
            assert (status, error['code']) == (400, 'invalid_image')
            assert words in error['message'], place


def test_the_address_that_was_checked_is_the_one_connected_to():
    """A name that leads to a public address when it is looked up, and to loopback a moment later."""
    fetcher, looked_up, connected = Fetcher(1000, 5.0), [], []

    async def rebinding(host, port, **_):
        looked_up.append(host)
        address = '93.184.215.14' if len(looked_up) == 1 else '127.0.0.1'
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, '', (address, port))]

    class Recorder:
        async def connect_tcp(self, host, port, *_, **__):
            connected.append((host, port))
            raise OSError('not really')

    async def fetch():
        asyncio.get_running_loop().getaddrinfo = rebinding
        fetcher._pool._network_backend._inner = Recorder()
        with pytest.raises(DataError, match='not really'):
            await fetcher.fetch('http://evil.example/a.png')
        with pytest.raises(DataError, match='a private address'):
            await fetcher.fetch('http://evil.example/a.png')

    asyncio.run(fetch())
    assert (looked_up, connected) == (['evil.example'] * 2, [('93.184.215.14', 80)])


SPECIAL = (
    '0.1.2.3', '127.9.9.9', '169.254.0.9', '192.0.0.9', '192.0.0.170', '192.31.196.1', '192.52.193.1', '192.88.99.1',
    '192.168.1.1', '192.175.48.1', '198.18.0.1', '198.19.255.255', '198.51.100.7', '203.0.113.7', '240.0.0.1', '::1',
    '100::1', '100:0:0:1::1', '2001::1', '2001:1::1', '2001:1::2', '2001:1::3', '2001:2::1', '2001:3::1', '5f00::1',
    '2001:4:112::1', '2001:10::1', '2001:20::1', '2001:30::1', '2001:1ff::1', '2001:db8::1', '2002:808:808::1',
    '2620:4f:8000::1', '3fff::1', '3fff:fff::1', 'fd00::1', 'ff02::1', '::ffff:0:8.8.8.8',
)  # fmt: skip
"""One address or more of every line of IANA's registries of special-purpose addresses, IPv4 and IPv6."""


def test_addresses():
    public = ('8.8.8.8', '1.1.1.1', '2606:4700::1111')
    private = ('10.1.2.3', '172.16.0.1', '100.64.0.1', '0.0.0.0', '224.0.0.1', '255.255.255.255', '192.0.0.8',
               '168.63.129.16', '192.0.2.1', '::', '::1.2.3.4', '::7f00:1', '::ffff:127.0.0.1', 'fe80::1%eth0',
               'fec0::1', 'fc00::1', '2002:7f00:1::', '64:ff9b::a9fe:a9fe', '64:ff9b:1::1')  # fmt: skip
    private += SPECIAL
    assert [address for address in public if not is_public(address)] == []
    assert [address for address in private if is_public(address)] == []


def test_a_picture_that_takes_too_long(make):
    silent = socket.create_server(('127.0.0.1', 0))
    with silent, ThreadPoolExecutor(1) as threads:
        setup = make(pictures=PictureLoader(threads, fetcher=Fetcher(1000, 0.2, allowed_hosts=('localhost',))))
        status, error = setup.error(question('?', f'http://localhost:{silent.getsockname()[1]}/a.png'))
        assert (status, 'no picture within 0.2 s' in error['message']) == (400, True)


def fetched(url, addresses, down=()):
    """(what was connected to, the first line of the request) when a name leads to addresses."""
    fetcher, connected, written = Fetcher(1000, 5.0), [], []

    async def look_up(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, '', (address, port)) for address in addresses]

    class Stream(httpcore.AsyncMockStream):
        async def write(self, buffer, timeout=None):
            written.append(buffer)

    class Network:
        async def connect_tcp(self, host, port, *_, **__):
            connected.append(host)
            if host in down:
                raise httpcore.ConnectError('no route')
            return Stream([b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'])

    async def fetch():
        asyncio.get_running_loop().getaddrinfo = look_up
        fetcher._pool._network_backend._inner = Network()
        content = await fetcher.fetch(url)
        await fetcher.close()
        return content

    content = asyncio.run(fetch())
    return content, connected, b''.join(written).decode()


def test_every_address_of_a_name_is_tried():
    addresses = ['2606:4700::1111', '8.8.8.8', '1.1.1.1']
    assert fetched('http://a.example/b.png', addresses, addresses[:1])[:2] == (b'ok', addresses[:2])
    with pytest.raises(DataError, match='no route'):
        fetched('http://a.example/b.png', addresses, addresses)


def test_addresses_of_other_letters():
    _, _, request = fetched('http://bücher.example/ä b.png?q=肠粉#x', ['8.8.8.8'])
    first, host = request.splitlines()[:2]
    assert first == 'GET /%C3%A4%20b.png?q=%E8%82%A0%E7%B2%89 HTTP/1.1'
    assert host == 'Host: xn--bcher-kva.example'
