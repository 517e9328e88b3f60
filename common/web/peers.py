"""How other members of the cluster are reached: where each is, and with TLS or without."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from common.address import Address
from common.tls.dialling import DiallingTls
from common.tls.member_tls import MemberTls
from common.web.bounded_http import HttpRequest


class Peers(Mapping[str, Address]):
    """The addresses of other members by name, and this member's TLS; None without TLS."""

    def __init__(self, addresses: Mapping[str, Address], tls: MemberTls | None = None) -> None:
        self._addresses = dict(addresses)
        self.tls = tls

    def __getitem__(self, peer: str) -> Address:
        return self._addresses[peer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def __len__(self) -> int:
        return len(self._addresses)

    def only(self, peers: Iterable[str]) -> "Peers":
        """Those of them alone."""
        return Peers({peer: self._addresses[peer] for peer in peers}, self.tls)

    def url(self, peer: str, path: str) -> str:
        """Where that path is on that member."""
        return f"{'http' if self.tls is None else 'https'}://{self._addresses[peer]}{path}"

    def dialling(self, peer: str) -> DiallingTls | None:
        """How a connection to that member begins; None without TLS."""
        return None if self.tls is None else self.tls.dialling(peer)

    def request(self, peer: str, request: HttpRequest) -> HttpRequest:
        """The request to that member; `request` has a path as its URL."""
        url = self.url(peer, request.url)
        return msgspec.structs.replace(request, url=url, tls=self.dialling(peer))
