"""Which addresses a name may lead to."""

import re

import pytest

from node.egress.addresses import CLOSED_IPV4, CLOSED_IPV6, is_open, networks_of
from scripts.folders import EXAMPLE_CONFIG


def test_the_rule_is_that_of_the_egress_filter() -> None:
    text = (EXAMPLE_CONFIG / "egress.nft").read_text()
    for name, own in (("closed_ipv4", CLOSED_IPV4), ("closed_ipv6", CLOSED_IPV6)):
        found = re.search(rf"set {name} \{{.*?elements = \{{(.*?)\}}", text, re.DOTALL)
        assert found is not None
        assert tuple(found[1].replace(",", " ").split()) == own


@pytest.mark.parametrize("address", ["192.31.196.2", "8.8.8.8", "2a00:99::2", "2606:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_open(address, ())


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1"),
        # IPv4 written as IPv6: mapped, compatible, NAT64, 6to4, Teredo, ISATAP on a local link
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::1"),
        *("2001:0:7f00:1::", "fe80::5efe:127.0.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fc00::1", "ff02::1"),
        # no address as a resolver gives it
        *("", "127.1", "0177.0.0.1", "2130706433", "example.org", "2a00:99::2%eth0"),
    ],
)
def test_special_addresses(address: str) -> None:
    assert not is_open(address, ())


def test_an_operators_exceptions() -> None:
    exceptions = networks_of(["10.0.0.8", "fd00:77::/64"])
    assert is_open("10.0.0.8", exceptions)
    assert is_open("fd00:77::9", exceptions)
    assert not is_open("10.0.0.9", exceptions)
    assert not is_open("::ffff:10.0.0.8", exceptions)
