"""Images fetched from the web, and from public addresses only."""

import time
from http.client import HTTPConnection, HTTPSConnection
from io import BytesIO
from ipaddress import IPv6Address, ip_address
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
)

MAX_DOWNLOAD = 50_000_000  # bytes of one image
MAX_SECONDS = 30  # for all of them


def fetch(url: str) -> bytes:
    """The content of `url` on a public machine, at most `MAX_DOWNLOAD` bytes in `MAX_SECONDS`. No proxy is used.

    Raises:
        ValueError: the content is larger or slower, or `url` or a redirect leads to this machine or to a private
            network. A stranger's URL must not reach what only this machine can reach.
        OSError: the content can't be fetched.
    """
    opener, end = OpenerDirector(), time.monotonic() + MAX_SECONDS
    for handler in (PublicHTTPHandler(), PublicHTTPSHandler(), HTTPRedirectHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    opener.add_handler(HTTPDefaultErrorHandler())  # a status such as 404 is an error
    content = BytesIO()
    with opener.open(Request(url, headers={"User-Agent": "mmjepa"}), timeout=MAX_SECONDS) as response:
        while chunk := response.read1(2**16):
            content.write(chunk)
            if content.tell() > MAX_DOWNLOAD or time.monotonic() > end:
                raise ValueError(
                    f"{url} has more than {MAX_DOWNLOAD // 10**6} MB or takes more than {MAX_SECONDS} seconds: "
                    "download it, and give the path of the file."
                )
    return content.getvalue()


def check_public(address: str) -> None:
    """Raises ValueError if an IP address is not on the public internet."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global or ip.is_multicast:
        raise ValueError(
            f"the URL of an image leads to {ip}, an address of this machine or of a private network, from which "
            "nothing is fetched: download the image, and give the path of the file."
        )


class PublicHTTPConnection(HTTPConnection):
    """Checks the address that it is connected to before it sends a request, whatever the name of the machine."""

    def connect(self):
        super().connect()
        check_public(self.sock.getpeername()[0])


class PublicHTTPSConnection(PublicHTTPConnection, HTTPSConnection):
    """As `PublicHTTPConnection`, with TLS."""


class PublicHTTPHandler(HTTPHandler):
    """Opens http:// addresses by connections to public machines only."""

    def http_open(self, request):
        return self.do_open(PublicHTTPConnection, request)


class PublicHTTPSHandler(HTTPSHandler):
    """Opens https:// addresses by connections to public machines only."""

    def https_open(self, request):
        return self.do_open(PublicHTTPSConnection, request)
