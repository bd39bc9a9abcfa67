"""Whom `X-Forwarded-For` and `X-Forwarded-Proto` name, and what a client can't make them say."""

from ipaddress import ip_network

import pytest

from api.forwarding import TrustedProxies, bucket_of

TRUSTED = TrustedProxies((ip_network("10.0.0.0/8"), ip_network("fd00::/8")))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7", "10.0.0.2"], "192.0.2.7"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7:4711"], "192.0.2.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        # What the client made up stands to the left of its own address.
        ("10.0.0.1", ["127.0.0.1, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["10.9.9.9, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["x, , 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        # Nobody who is trusted has said this.
        ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),
        ("192.0.2.7", ["198.51.100.1, 10.0.0.1"], "192.0.2.7"),
        # What is no address ends the search.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, evil, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.7," + "10.0.0.2," * 100_000 + "10.0.0.2"], "10.0.0.2"),
        ("", ["192.0.2.7"], ""),
        ("<local>", ["192.0.2.7"], "<local>"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_trusted_proxys(
    peer: str, forwarded_for: list[str], client: str
) -> None:
    assert client == TRUSTED.client(peer, forwarded_for)


def test_without_trusted_proxies_nothing_is_believed() -> None:
    assert "10.0.0.1" == TrustedProxies().client("10.0.0.1", ["192.0.2.7"])
    assert "http" == TrustedProxies().scheme("10.0.0.1", ["https"], "http")


@pytest.mark.parametrize(
    ("peer", "told", "scheme"),
    [
        ("10.0.0.1", ["https"], "https"),
        ("10.0.0.1", ["HTTPS"], "https"),
        ("10.0.0.1", ["http, https"], "https"),
        ("10.0.0.1", ["https", "http"], "http"),
        ("10.0.0.1", ["gopher"], "http"),
        ("10.0.0.1", [], "http"),
        ("192.0.2.7", ["https"], "http"),
    ],
)
def test_the_scheme_is_the_one_that_the_nearest_trusted_proxy_names(
    peer: str, told: list[str], scheme: str
) -> None:
    assert scheme == TRUSTED.scheme(peer, told, "http")


def test_an_ipv6_client_counts_for_its_network() -> None:
    assert bucket_of("2001:db8:0:1::7") == bucket_of("2001:db8:0:1:ffff::") == "2001:db8:0:1::"
    assert ("192.0.2.7", "192.0.2.7", "local") == tuple(map(bucket_of, ("192.0.2.7", "::ffff:192.0.2.7", "")))


def test_what_an_address_counts_for_is_found_out_once() -> None:
    """It is asked four times for each connection, and takes as long as the rest of the handshake's bounds."""
    bucket_of.cache_clear()
    for _ in range(5):
        bucket_of("198.51.100.7")
    assert 1 == bucket_of.cache_info().misses
