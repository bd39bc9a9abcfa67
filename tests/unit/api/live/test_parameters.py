"""Parameters of an upgrade's query, escaped or not."""

from urllib.parse import parse_qs

import pytest

from api.live.upgrade import RequestHead
from tmi.domain.errors import BadInput

QUERIES = [
    "", "&", "=", "token", "token=", "token=a", "token=a&saved=1", "saved=1&token=a&x", "token=a=b",
    "token=a%26b", "token=a+b", "%74oken=a", "token=a;saved=1", "token=a&&saved=1", "Token=a", "token=%ff",
    "token=&token=a", "token=\u00e9",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("name", ["token", "saved"])
def test_it_is_what_the_standard_library_says(query: str, name: str) -> None:
    values = parse_qs(query).get(name, [])
    assert RequestHead("GET", "/", query, 1, {}).parameter(name) == (values[0] if values else None)


@pytest.mark.parametrize("query", ["a=1&a=2", "a=1&%61=2", "&" * 20, "a=%31" + "&" * 20])
def test_two_or_too_many_are_refused(query: str) -> None:
    with pytest.raises(BadInput):
        RequestHead("GET", "/", query, 1, {}).parameter("a")


def test_twenty_are_not_too_many() -> None:
    assert RequestHead("GET", "/", "b=1&" * 19 + "a=2", 1, {}).parameter("a") == "2"
