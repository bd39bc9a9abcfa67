"""Where webhooks may not lead: URLs, addresses, names that change their mind, and certificates of others."""

import asyncio
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from api.hooks.resolving import AT_ONCE
from api.hooks.sender import READ_MAX_BYTES, Undelivered, sending
from tests.harness.certificates import Authority, Pair
from tests.harness.endpoint import Reply, endpoint, until
from tests.rest import ADMINISTRATOR, over_memory
from tests.security.test_role_matrix_rest import WEBHOOK
from tmi.domain.targets import Refused, TargetRules, is_public

STRICT = TargetRules()
HERE = TargetRules(allow_http=True, ports=frozenset(), networks=(ip_network("127.0.0.0/8"),))

NOT_PUBLIC = (
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1",
    "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "100::1",
    "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:0808:0808::", "3fff::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1",
)  # fmt: skip
PUBLIC = ("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.0.1", "172.32.0.1", "2606:4700:4700::1111",
          "2a00:1450:4001::1", "64:ff9b::808:808", "::ffff:8.8.8.8")  # fmt: skip


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        STRICT.check([ip_address(text)])


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_allowed_unless_it_comes_with_one_that_is_not(text: str) -> None:
    STRICT.check([ip_address(text)])
    with pytest.raises(Refused):
        STRICT.check([ip_address(text), ip_address("10.0.0.1")])


def test_a_network_of_the_operators_is_allowed_and_its_neighbours_are_not() -> None:
    rules = TargetRules(networks=(ip_network("10.1.0.0/16"), ip_network("fd00:1::/64")))
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5"):
        rules.check([ip_address(text)])
    for text in ("10.2.0.1", "127.0.0.1", "fd00:2::5", "64:ff9b::a01:203"):
        with pytest.raises(Refused):
            rules.check([ip_address(text)])
    assert not is_public(ip_address("10.1.2.3"))


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/", "ftp://hooks.example.org/", "//hooks.example.org/", "hooks.example.org",
        "https://", "https:///path", "https://user@hooks.example.org/", "https://user:pw@hooks.example.org/",
        "https://hooks.example.org#fragment", "https://hooks.example.org:22/", "https://hooks.example.org:0/",
        "https://hooks.example.org:6379/", "https://hooks.example.org:99999/", "https://hooks.example.org:x/",
        "https://localhost/", "https://LOCALHOST/", "https://localhost./", "https://db.localhost/",
        "https://intranet/", "https://printer.local/", "https://metadata.google.internal/", "https://a.home.arpa/",
        "https://2130706433/", "https://0x7f000001/", "https://017700000001/", "https://127.1/",
        "https://0177.0.0.1/", "https://0x7f.0.0.1/", "https://127.0.0.1/", "https://169.254.169.254/latest",
        "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[fe80::1%25eth0]/", "https://[fd00::1]/",
        "https://10.0.0.1:8443/", "https://a..example.org/", "https://-a.example.org/", "https://a_b.example.org/",
        "https://ex\u00e4mple.org/", "https://hooks.example.org/\u00e4", "https://hooks.example.org\\@evil.org/",
        "https://hooks.example.org /", "https://hooks.example.org/\r\nX: y", "https://hooks.example.org/\x00",
        "https://" + "a" * 64 + ".org/", "https://hooks.example.org/" + "a" * 1024, "https://[::1", "https://%31/",
    ],
)  # fmt: skip
def test_a_url_that_leads_astray_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        STRICT.target(url)


@pytest.mark.parametrize(
    ("url", "host", "port", "rest"),
    [
        ("https://hooks.example.org", "hooks.example.org", 443, "/"),
        ("https://hooks.example.org:8443/a/b?c=d&e=%20", "hooks.example.org", 8443, "/a/b?c=d&e=%20"),
        ("https://1.1.1.1/", "1.1.1.1", 443, "/"),
        ("HTTPS://Hooks.Example.ORG./x", "hooks.example.org", 443, "/x"),
        ("https://[2606:4700:4700::1111]/", "2606:4700:4700::1111", 443, "/"),
    ],
)
def test_a_url_that_leads_somewhere_is_taken_apart(url: str, host: str, port: int, rest: str) -> None:
    target = STRICT.target(url)
    assert (host, port, rest) == (target.host, target.port, target.rest)


GIVEN = (
    "http://hooks.example.org/", "https://127.0.0.1/", "https://localhost/", "https://169.254.169.254/",
    "https://2130706433/", "https://hooks.example.org:22/", "https://user@hooks.example.org/",
    "https://[::1]/", "javascript:alert(1)",
)  # fmt: skip


async def test_such_a_url_is_400_when_it_is_given() -> None:
    async with over_memory() as rest:
        admin = await rest.sign_in(ADMINISTRATOR)
        path = "/admin/webhooks/subscriptions"
        for url in GIVEN:
            answer = await rest.call("POST", path, admin, json_body=WEBHOOK | {"url": url})
            assert (400, "invalid_input", url) == (answer.status, answer.json["error"], url)
        assert 0 == (await rest.call("GET", path, admin)).json["total"]


class Names:
    """A resolver whose answers change with each question."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.left = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.left.pop(0)


async def test_a_name_that_is_rebound_to_this_machine_is_not_called() -> None:
    """The first answer would be fine, and the second is what would be called if it were asked again."""
    names = Names(["192.0.2.1"], ["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], [])
    rules = TargetRules(allow_http=True, ports=frozenset(), networks=())
    async with endpoint() as hook, sending(rules, 2.0, resolve=names) as sender:
        for _ in range(5):
            with pytest.raises(Undelivered, match="not allowed: the host has"):
                await sender.post(f"http://hooks.example.org:{hook.port}/", b"{}", {})
        assert [] == hook.calls


async def test_the_address_that_was_checked_is_called_and_the_name_is_asked_once() -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with endpoint(lambda _: Reply(200, b"ok")) as hook, sending(HERE, 2.0, resolve=names) as sender:
        answered = await sender.post(f"http://hooks.example.org:{hook.port}/x?y=z", b"{}", {})
        assert (200, b"ok") == (answered.status, answered.body)
        assert [("hooks.example.org", hook.port)] == names.asked
        (call,) = hook.calls
        assert ("/x?y=z", f"hooks.example.org:{hook.port}") == (call.target, call.headers["host"])


async def test_another_address_of_a_name_is_tried_where_nobody_listens_at_the_first() -> None:
    names = Names(["127.0.0.9", "127.0.0.1"])
    async with endpoint(lambda _: Reply()) as hook, sending(HERE, 2.0, resolve=names) as sender:
        assert 200 == (await sender.post(f"http://hooks.example.org:{hook.port}/", b"{}", {})).status


async def test_a_redirect_leads_nowhere() -> None:
    async with (
        endpoint() as inside,
        endpoint(lambda _: Reply(307, headers=(("Location", inside.url),))) as hook,
        sending(HERE, 2.0) as sender,
    ):
        assert 307 == (await sender.post(hook.url, b"{}", {})).status
        assert [] == inside.calls


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as proxy, endpoint(lambda _: Reply()) as hook:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with sending(HERE, 2.0) as sender:
            assert 200 == (await sender.post(hook.url, b"{}", {})).status
        assert [] == proxy.calls


async def test_an_answer_is_read_to_its_bound() -> None:
    async with endpoint(lambda _: Reply(200, b"x" * 500_000)) as hook, sending(HERE, 2.0) as sender:
        assert READ_MAX_BYTES == len((await sender.post(hook.url, b"{}", {})).body)


async def test_what_hangs_and_what_cannot_be_resolved_is_given_up() -> None:
    def nowhere(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror("no such host")

    async with endpoint(lambda _: Reply(never=True)) as hook, sending(HERE, 0.2) as sender:
        with pytest.raises(Undelivered, match="no answer within"):
            await sender.post(hook.url, b"{}", {})
    async with sending(HERE, 0.2, resolve=nowhere) as sender:
        with pytest.raises(Undelivered, match="could not be resolved"):
            await sender.post("https://nowhere.example.org/", b"{}", {})


async def test_a_name_whose_servers_hang_costs_one_thread_and_no_other_name_its_turn() -> None:
    hang, looked = threading.Event(), []

    def resolve(host: str, port: int) -> Sequence[str]:
        looked.append(host)
        if host.startswith("slow"):
            hang.wait(30)
        return ["127.0.0.1"]

    async with endpoint(lambda _: Reply()) as hook, sending(HERE, 0.2, resolve=resolve) as sender:

        async def tried(host: str) -> str:
            try:
                return str((await sender.post(f"http://{host}:{hook.port}/", b"{}", {})).status)
            except Undelivered as error:
                return str(error)

        hosts = [*["slow.example.org"] * 6, *[f"slow{n}.example.org" for n in range(AT_ONCE)]]
        slow = await asyncio.gather(*map(tried, hosts))
        assert {"no answer within 0.2 s": 69, "the host's name could not be resolved": 1} == Counter(slow)
        assert AT_ONCE == len(looked) == len({*looked})
        assert "the host's name could not be resolved" == await tried("quick.example.org")
        hang.set()
        await until(lambda: not any(one.name.startswith("resolving") for one in threading.enumerate()), "end")
        await asyncio.sleep(0)
        assert "200" == await tried("slow.example.org")
        assert "200" == await tried("quick.example.org")


async def test_calls_of_one_name_at_once_share_a_lookup() -> None:
    names = Names(["127.0.0.1"], ["127.0.0.1"])
    async with endpoint(lambda _: Reply()) as hook, sending(HERE, 5.0, resolve=names) as sender:
        url = f"http://hooks.example.org:{hook.port}/"
        answers = await asyncio.gather(*(sender.post(url, b"{}", {}) for _ in range(8)))
        assert [200] * 8 == [answered.status for answered in answers]
        assert 1 == len(names.asked)
        await sender.post(url, b"{}", {})
        assert 2 == len(names.asked)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def served_with(pair: Pair, folder: Path) -> ssl.SSLContext:
    """For a server with such a certificate."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    pair.write(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_the_certificate_has_to_be_the_names_though_the_address_is_called(
    authority: Authority, tmp_path: Path
) -> None:
    """The authority's certificates are of localhost and 127.0.0.1."""
    names = Names(["127.0.0.1"], ["127.0.0.1"])
    context = served_with(authority.issue(), tmp_path)
    rules = replace(HERE, allow_http=False)
    async with (
        endpoint(lambda _: Reply(), context) as hook,
        sending(rules, 2.0, context=authority.trusting(), resolve=names) as sender,
    ):
        assert 200 == (await sender.post(f"https://localhost:{hook.port}/", b"{}", {})).status
        with pytest.raises(Undelivered, match="TLS"):
            await sender.post(f"https://hooks.example.org:{hook.port}/", b"{}", {})
        assert 1 == len(hook.calls)


async def test_a_certificate_of_nobody_is_refused(authority: Authority, tmp_path: Path) -> None:
    context = served_with(authority.issue(), tmp_path)
    async with endpoint(lambda _: Reply(), context) as hook, sending(HERE, 2.0) as sender:
        with pytest.raises(Undelivered, match="TLS"):
            await sender.post(f"https://127.0.0.1:{hook.port}/", b"{}", {})
        assert [] == hook.calls
