"""URLs that name several hosts, as those of a cluster do: `redis://user:password@a:6379,b:6379/0`."""

from urllib.parse import urlsplit, urlunsplit


def split_hosts(url: str) -> tuple[str, list[tuple[str, int | None]]]:
    """The URL with its first host alone, and the others with their ports. Raises ValueError."""
    parts = urlsplit(url)
    user, at, places = parts.netloc.rpartition("@")
    first, *others = places.split(",")
    found = [urlsplit(f"//{place}") for place in others]
    if not first or any(not one.hostname for one in found):
        raise ValueError("a host is empty")
    alone = urlunsplit((parts.scheme, user + at + first, parts.path, parts.query, parts.fragment))
    return alone, [(one.hostname or "", one.port) for one in found]
