"""Which services may be put under load."""

import socket
from collections.abc import Iterator

import pytest

from bench.target import NotAllowed, Target, addresses_of, at_address, is_loopback

NAMES = {
    "here.test": ["127.0.0.1", "::1"],
    "both.test": ["127.0.0.1", "198.51.100.7"],
    "there.test": ["198.51.100.7"],
    "mapped.test": ["::ffff:198.51.100.7"],
    "six.test": ["::1", "2001:db8::7"],
    "127.0.0.1.there.test": ["198.51.100.7"],
}


@pytest.fixture(autouse=True)
def name_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names of the test's own; addresses are resolved as ever."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: None, **options: int) -> list[object]:
        if host.endswith(".missing"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [entry for address in NAMES.get(host, [host]) for entry in resolve(address, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    addresses_of.cache_clear()
    yield
    addresses_of.cache_clear()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080", "http://127.9.9.9", "http://[::1]:8080", "https://here.test", "http://localhost/"],
)
def test_this_machine_is_allowed(url: str) -> None:
    Target(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://there.test", "https://both.test", "https://mapped.test", "http://0.0.0.0", "http://198.51.100.7",
        "http://[2001:db8::7]:8080", "http://[::]", "http://[::ffff:198.51.100.7]", "http://[fe80::1]",
        "http://3325256711", "http://127.0.0.1.there.test", "https://six.test",
    ],
)
def test_any_other_needs_its_owners_word(url: str) -> None:
    with pytest.raises(NotAllowed, match=r"is not this machine.*--i-own-this-server"):
        Target(url)
    Target(url, is_own=True)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080", "ftp://localhost", "http://", "http://:8080", "http://localhost:0", "http://localhost:x",
        "http://user:hidden@localhost", "http://localhost/?token=hidden", "http://localhost#hidden",
        "http://localhost/hidden", "http://name.missing",
    ],
)  # fmt: skip
def test_an_address_that_is_no_origin_is_refused_without_repeating_a_secret(url: str) -> None:
    with pytest.raises(NotAllowed) as refusal:
        Target(url, is_own=True).check_sockets(url)
    assert "hidden" not in str(refusal.value)


def test_a_token_is_sent_in_the_clear_to_this_machine_only() -> None:
    Target("http://here.test", "secret")
    Target("https://there.test", "secret", is_own=True)
    with pytest.raises(NotAllowed, match="over TLS only"):
        Target("http://there.test", "secret", is_own=True)


def test_a_token_is_not_in_what_is_printed_of_a_target() -> None:
    assert "secret" not in repr(Target("http://here.test", "secret"))


def test_a_service_here_may_not_send_us_to_sockets_elsewhere() -> None:
    Target("http://here.test").check_sockets("ws://127.0.0.1:8080/collab")
    with pytest.raises(NotAllowed, match=r"there\.test is not this machine"):
        Target("http://here.test").check_sockets("wss://there.test/collab")
    Target("http://here.test", is_own=True).check_sockets("wss://there.test/collab")


def test_a_service_with_tls_may_not_send_us_to_sockets_without() -> None:
    Target("https://here.test").check_sockets("wss://here.test/collab")
    with pytest.raises(NotAllowed, match="TMI_PUBLIC_URL"):
        Target("https://here.test").check_sockets("ws://here.test/collab")


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("127.0.0.1", "::1") == addresses_of("here.test")
    monkeypatch.setitem(NAMES, "here.test", ["198.51.100.7"])
    assert is_loopback("here.test")
    assert ("127.0.0.1", "::1") == addresses_of("here.test")


@pytest.mark.parametrize(
    ("url", "address", "there"),
    [
        ("wss://here.test:8443/ws/a?token=b", "127.0.0.1", "wss://127.0.0.1:8443/ws/a?token=b"),
        ("ws://here.test/ws", "127.0.0.1", "ws://127.0.0.1/ws"),
        ("ws://here.test:80/ws", "::1", "ws://[::1]:80/ws"),
        ("ws://[::1]/ws", "::1", "ws://[::1]/ws"),
    ],
)
def test_an_address_takes_the_place_of_the_name_alone(url: str, address: str, there: str) -> None:
    assert there == at_address(url, address)
