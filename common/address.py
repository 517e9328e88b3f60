"""Where a process listens or is reached: a host and a port."""

import ipaddress
import re

import msgspec

PORT_MAX = 65535

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class Address(msgspec.Struct, frozen=True):
    """Where a process listens. `str(address)` is the text that `parse` takes."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`127.0.0.1:10000`, `localhost:10000` or `[::1]:10000`. Raises ValueError."""
        host, colon, port_text = text.rpartition(":")
        if not colon or not port_text.isascii() or not port_text.isdigit():
            raise ValueError(f"'{text}' has no port")
        port = int(port_text[:6])
        if not 1 <= port <= PORT_MAX:
            raise ValueError(f"port {port_text} is not between 1 and {PORT_MAX}")
        if host.startswith("[") and host.endswith("]"):
            try:
                host = str(ipaddress.IPv6Address(host[1:-1]))
            except ValueError as error:
                raise ValueError(f"'{host}' is not an IPv6 address") from error
        elif _HOST.fullmatch(host) is None:
            raise ValueError(f"'{host}' is not a host")
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as the beginning of an HTTP URL, without a slash at its end."""
        return f"http://{self}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
