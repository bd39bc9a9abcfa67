"""`/metrics` of the real service: what it tells, and whom."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.datastructures import Headers

from api.metrics import check_reader
from crdt import y_websocket
from tests.harness.raw_websocket import connected, upgrade_head, upgraded
from tests.harness.rest import Rest
from tests.harness.service import Service
from tests.security.test_rates import Author
from tmi.domain.errors import Forbidden, Unauthenticated

TOKEN = "a-token-of-some-length"
HERE = {"Host": "127.0.0.1:8080"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("metrics")
    limits = {"TMI_SOCKETS_PER_ADDRESS_MAX": "2", "TMI_ADDRESS_REQUESTS_PER_MIN": "60"}
    with Service(folder / "data", limits) as service:
        yield service


def figures(service: Service) -> dict[tuple[str, ...], float]:
    """By name and label values."""
    answer = httpx.get(f"{service.url}/metrics", trust_env=False).raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_the_figures_follow_what_happens(service: Service) -> None:
    async with Rest(service.url) as rest:
        alice = await rest.sign_in("alice")
        place = await rest.create_place(alice)
        path = f"/collab/{place.diagram}?saved=1&token={await rest.collab_token(alice)}"
    author = Author()
    async with upgraded(service.port, path) as raw, upgraded(service.port, path):
        raw.send_binary(y_websocket.sync_step2(b"\x00\x00"))
        # One after the other is saved: in one tick they would be one row.
        for number, edit in enumerate((author.edit("a", "x" * 1000), author.edit("b")), 1):
            raw.send_binary(edit)
            while await raw.receive_binary() != y_websocket.saved(number):
                pass
        with pytest.raises(AssertionError, match="429"):
            async with upgraded(service.port, path):
                pass
        told = figures(service)
        assert (1, 2, 2) == (told["tmi_rooms",], told["tmi_sessions",], told["tmi_sockets",])
        assert 2 == told["tmi_top_room_clients", place.diagram]
        assert 1000 < told["tmi_top_room_document_bytes", place.diagram] < 1200
        assert 30_000 < told["tmi_top_room_memory_bytes", place.diagram] <= told["tmi_rooms_memory_bytes",]
        assert (0, 0) == (told["tmi_journal_buffered_bytes",], told["tmi_database_away",])
        assert 2 == told["tmi_journal_rows_total",]
        assert 1 == told["tmi_refusals_total", "sockets_per_address"]
        sent = {labels[1]: value for labels, value in told.items() if labels[0] == "tmi_top_client_edits"}
        assert [0, 3] == sorted(sent.values())
        assert told["process_resident_memory_bytes",] > 10_000_000
        assert told["process_open_fds",] > 5
        assert told["tmi_tasks",] > 3
        assert told["tmi_database_connections",] >= 2
        async with asyncio.timeout(10):  # it is looked at once in a while only
            while not figures(service)["tmi_loop_lag_seconds_count",]:
                await asyncio.sleep(0.1)


def test_a_forwarded_request_is_refused(service: Service) -> None:
    answer = httpx.get(f"{service.url}/metrics", headers={"X-Forwarded-For": "192.0.2.1"}, trust_env=False)
    assert (403, "forbidden") == (answer.status_code, answer.json()["error"])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_without_a_token_this_machine_may_ask(address: str) -> None:
    check_reader(address, Headers(HERE), None)


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("192.0.2.1", HERE),
        ("2001:db8::1", HERE),
        (None, HERE),
        ("<local>", HERE),
        ("127.0.0.1", {**HERE, "Forwarded": "for=192.0.2.1"}),
        ("127.0.0.1", {**HERE, "x-real-ip": "192.0.2.1"}),
        ("127.0.0.1", {**HERE, "Via": "1.1 proxy"}),
        ("127.0.0.1", {"Host": "tmi.example.org"}),
        ("127.0.0.1", {"Host": "127.0.0.1.example.org"}),
        ("127.0.0.1", {}),
        ("192.0.2.1", {**HERE, "Authorization": f"Bearer {TOKEN}"}),
    ],
)
def test_without_a_token_nobody_else_may(address: str | None, headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden):
        check_reader(address, Headers(headers), None)


def test_with_a_token_whoever_brings_it_may_ask() -> None:
    check_reader("192.0.2.1", Headers({"Host": "x", "Authorization": f"Bearer {TOKEN}"}), TOKEN)


@pytest.mark.parametrize(
    "given", ["", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"bearer {TOKEN}", "Bearer é"]
)
def test_with_a_token_nobody_may_without_it(given: str) -> None:
    with pytest.raises(Unauthenticated):
        check_reader("127.0.0.1", Headers({**HERE, "Authorization": given}), TOKEN)


async def test_upgrades_count_for_their_address_like_other_requests(service: Service) -> None:
    refused, before = None, figures(service).get(("tmi_refusals_total", "address_rate"), 0)
    for _ in range(130):  # a minute may end meanwhile
        async with connected(service.port) as raw:
            raw.send(upgrade_head(f"/collab/{uuid4()}?token=guessed"))
            answer = await raw.answer()
            if answer.status == 429:
                refused = answer
                break
            assert 401 == answer.status
            assert "60" == answer.headers["x-ratelimit-limit"]
    assert refused is not None
    assert b"requests of this address" in refused.body
    assert ("60", "0") == (refused.headers["x-ratelimit-limit"], refused.headers["x-ratelimit-remaining"])
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    async with httpx.AsyncClient(trust_env=False) as http:
        assert 429 == (await http.get(f"{service.url}/config")).status_code
    assert before + 1 == figures(service)["tmi_refusals_total", "address_rate"]
