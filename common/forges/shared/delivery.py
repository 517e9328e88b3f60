"""One HTTP request that claims to be a webhook: its headers, its raw body, and its JSON.

The rule: a header that counts is there once. Two of a kind could be read one way here and
another way by whatever stands in front of us.

Whatever is done here is done for strangers: it is linear, once per delivery, and takes a few times
the body's memory, whatever the body is.
"""

import binascii
from collections.abc import Iterable
from functools import cached_property

import msgspec

from common.forges.shared.event import Refusal, malformed

EXAMPLE = '{"branch": "master"}'
# A form of a forge has one field, a person's a few.
FORM_FIELDS_MAX = 64


class Delivery(msgspec.Struct, frozen=True, dict=True):
    """headers: lower-case name -> every value it came with. body: the raw bytes, as signed."""

    headers: dict[str, tuple[str, ...]]
    body: bytes

    @classmethod
    def of(cls, headers: Iterable[tuple[str, str]], body: bytes) -> "Delivery":
        """A delivery with these headers, in any case."""
        found: dict[str, tuple[str, ...]] = {}
        for name, value in headers:
            found[name.lower()] = (*found.get(name.lower(), ()), value)
        return cls(found, body)

    def has(self, name: str) -> bool:
        """Whether this header is there, be it empty."""
        return name in self.headers

    def header(self, name: str) -> str | None:
        """The value of a header that is there once; None where it is missing or empty."""
        values = self.headers.get(name, ())
        return (values[0].strip() or None) if len(values) == 1 else None

    def duplicate(self, names: Iterable[str]) -> Refusal | None:
        """A refusal where one of these headers came more than once."""
        for name in names:
            if len(self.headers.get(name, ())) > 1:
                return malformed(f"the header `{name}`", "is there more than once", "send it once")
        return None

    @property
    def is_form(self) -> bool:
        """Whether the body says that it is a form; curl says so of everything."""
        return "application/x-www-form-urlencoded" in (self.header("content-type") or "").lower()

    def form_payload(self) -> bytes | Refusal | None:
        """The bytes of the form's field `payload`; None where there is no such field.

        A refusal where there are two (one could be signed and the other one read), and where it
        is not encoded as a form's field is.
        """
        if not (self.body.startswith(b"payload=") or b"&payload=" in self.body):
            return None
        fields = self.body.split(b"&", FORM_FIELDS_MAX)
        if len(fields) > FORM_FIELDS_MAX:
            return malformed("the form", f"has more than {FORM_FIELDS_MAX} fields", "send fewer")
        values = [
            value for name, _, value in (f.partition(b"=") for f in fields) if name == b"payload"
        ]
        if len(values) > 1:
            return malformed(
                "the form's field `payload`", "is there more than once", "send it once"
            )
        if not values:
            return None
        decoded = _unescaped(values[0])
        if decoded is None:
            return malformed(
                "the form's field `payload`",
                "has a `=` or a `%` that is not escaped",
                "encode it (curl --data-urlencode), or send the JSON alone",
            )
        return decoded

    def content(self) -> bytes | Refusal:
        """The JSON text: the form's field `payload` where there is one, else the body."""
        return self._content

    @cached_property
    def _content(self) -> bytes | Refusal:
        if not self.body.strip():
            return malformed("the body", "is empty", f"send {EXAMPLE}, or what your forge sends")
        if self.body.lstrip()[:1] in (b"{", b"["):
            return self.body
        payload = self.form_payload()
        return self.body if payload is None else payload


def _unescaped(value: bytes) -> bytes | None:
    """Exactly the bytes that were encoded: a signature may be over them. None: they were not.

    Quoted-printable, with `%` for its escape, is decoded in one pass of C; urllib makes an object
    of every escape. What it takes for soft line breaks is no escape; any other `%` that is none
    takes fewer than two bytes away, so that the length tells.
    """
    if any(wrong in value for wrong in (b"=", b"%\r", b"%\n")):
        return None
    decoded = binascii.a2b_qp(value.replace(b"+", b" ").replace(b"%", b"="))
    return decoded if len(decoded) == len(value) - 2 * value.count(b"%") else None
