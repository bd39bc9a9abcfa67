"""Hostile tokens: every one is refused, and none makes the service fetch or fail otherwise."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from api.tokens import MAX_TOKEN_LENGTH, AccessClaims, CollabClaims, Tokens, new_signing_key
from tmi.domain.errors import StartupError, Unauthenticated
from tmi.domain.ids import DiagramId, NodeId, SignInId, UserId
from tmi.domain.model import SigningKey, User

ISSUER = "https://tmi.example.org"
KEY = new_signing_key()
OUR_PRIVATE = load_pem_private_key(KEY.private_pem, password=None)
assert isinstance(OUR_PRIVATE, Ed25519PrivateKey)
OUR_PUBLIC_PEM = OUR_PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
OUR_PUBLIC_RAW = OUR_PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
THEIR_PRIVATE = Ed25519PrivateKey.generate()
THEIR_PUBLIC_RAW = THEIR_PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
TOKENS = Tokens([KEY], ISSUER)

ALICE = User(
    UserId(uuid4()), "tmi", "alice@tmi.local", "alice@tmi.local", "alice", datetime(2026, 1, 1, tzinfo=UTC)
)
SIGN_IN = SignInId(uuid4())
DIAGRAM = DiagramId(uuid4())

NODE = NodeId(uuid4())
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "access": ("at+jwt", {"aud": "tmi", "sid": str(SIGN_IN)}),
    "collab": ("collab+jwt", {"aud": "tmi-collab", "sid": str(SIGN_IN), "did": str(DIAGRAM)}),
    "node": ("node+jwt", {"aud": f"tmi-node:{NODE}", "nonce": "n"}),
}
"""Each kind of token: its type, and its own claims."""
HEADER = {"alg": "EdDSA", "kid": KEY.kid, "typ": "at+jwt"}
OWN: dict[str, str] = {}
"""The claims of the kind that is being made."""


def make(kind: str) -> None:
    """Let what is made from now on be tokens of this kind."""
    HEADER["typ"] = KINDS[kind][0]
    OWN.clear()
    OWN.update(KINDS[kind][1])


make("access")


A_DAY_S = 86_400
"""The corpora are made when tests are collected: none may be refused for its age when its turn comes."""


def claims(**changes: Any) -> dict[str, Any]:
    """What a good token of the kind says, changed; a change to None takes a claim out."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "sub": str(ALICE.id),
        "iat": now,
        "exp": now + A_DAY_S,
        "jti": "1",
        **OWN,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(
    header: Any = None, payload: Any = None, key: Ed25519PrivateKey = OUR_PRIVATE, drop: str = ""
) -> str:
    """A token as this service would sign it, with our key unless told otherwise. Parts may be raw bytes."""
    header = HEADER if header is None else header
    payload = claims() if payload is None else payload
    header = {k: v for k, v in header.items() if k != drop} if isinstance(header, dict) else header
    parts = [b64(p if isinstance(p, bytes) else json.dumps(p).encode()) for p in (header, payload)]
    signing_input = ".".join(parts)
    return f"{signing_input}.{b64(key.sign(signing_input.encode()))}"


def with_hmac(secret: bytes, algorithm: str = "HS256") -> str:
    """HMAC, with something that everybody knows as the secret (RFC 8725, section 2.1)."""
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    signing_input = (
        f"{b64(json.dumps({**HEADER, 'alg': algorithm}).encode())}.{b64(json.dumps(claims()).encode())}"
    )
    return f"{signing_input}.{b64(hmac.new(secret, signing_input.encode(), digest).digest())}"


def jwk_of(raw: bytes) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw), "kid": "theirs"}


def of_another_kind(algorithm: str) -> str:
    private: Any = rsa.generate_private_key(65537, 2048) if algorithm[0] in "RP" else None
    private = private or ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return jwt.encode(claims(), pem, algorithm, headers={"kid": KEY.kid, "typ": HEADER["typ"]})


def algorithms() -> Iterator[tuple[str, str]]:
    """No algorithm, another algorithm, confusion of algorithms."""
    good = signed()
    _, body, signature = good.split(".")
    for none in ("none", "None", "NONE", "nOnE", ""):
        bare = b64(json.dumps({**HEADER, "alg": none}).encode())
        yield f"alg {none!r} unsigned", f"{bare}.{body}."
        yield f"alg {none!r} with our signature", f"{bare}.{body}.{signature}"
    for algorithm in ("HS256", "HS384", "HS512"):
        yield f"{algorithm} with our public PEM", with_hmac(OUR_PUBLIC_PEM, algorithm)
        yield f"{algorithm} with our raw public key", with_hmac(OUR_PUBLIC_RAW, algorithm)
    yield "HS256 with an empty secret", with_hmac(b"")
    yield "HS256 with the kid", with_hmac(KEY.kid.encode())
    for algorithm in ("RS256", "PS256", "ES256"):
        yield f"{algorithm} with a key of their own", of_another_kind(algorithm)
    yield "alg Ed25519, which we do not write", signed({**HEADER, "alg": "Ed25519"})
    yield "alg in lower case", signed({**HEADER, "alg": "eddsa"})
    yield "alg a list", signed({**HEADER, "alg": ["EdDSA"]})
    yield "alg a number", signed({**HEADER, "alg": 1})
    yield "no alg", signed(drop="alg")


def keys_inside() -> Iterator[tuple[str, str]]:
    """Keys that the token itself brings, or points at."""
    yield "signed by a stranger under our kid", signed(key=THEIR_PRIVATE)
    yield "jwk in the header", signed({**HEADER, "jwk": jwk_of(THEIR_PUBLIC_RAW)}, key=THEIR_PRIVATE)
    yield (
        "jwk alone",
        signed({"alg": "EdDSA", "typ": HEADER["typ"], "jwk": jwk_of(THEIR_PUBLIC_RAW)}, key=THEIR_PRIVATE),
    )
    for member in ("jku", "x5u"):
        for address in ("http://127.0.0.1:9/keys", "file:///etc/passwd"):
            yield f"{member} {address}", signed({**HEADER, member: address}, key=THEIR_PRIVATE)
    yield "x5c", signed({**HEADER, "x5c": [b64(THEIR_PUBLIC_RAW)]}, key=THEIR_PRIVATE)
    yield "our key with jku beside it", signed({**HEADER, "jku": "http://127.0.0.1:9/keys"})
    yield "crit that nobody understands", signed({**HEADER, "crit": ["exp"]})
    yield "b64 false (RFC 7797)", signed({**HEADER, "crit": ["b64"], "b64": False})
    yield "zip", signed({**HEADER, "zip": "DEF"})


def key_ids() -> Iterator[tuple[str, str]]:
    """kid."""
    kids: list[Any] = [
        "theirs", "", "../../../../dev/null", "/proc/self/environ", "' OR '1'='1", "\x00", "kid\r\nX: y",
        KEY.kid.upper(), KEY.kid + " ", None, 0, True, [KEY.kid], {"kid": KEY.kid},
    ]  # fmt: skip
    for kid in kids:
        yield f"kid {kid!r}", signed({**HEADER, "kid": kid})
    yield "no kid", signed(drop="kid")


def purposes() -> Iterator[tuple[str, str]]:
    """Type, audience, issuer."""
    own = HEADER["typ"]
    others = [typ for typ, _ in KINDS.values() if typ != own]
    for typ in ("JWT", "jwt", "id+jwt", f"application/{own}", own.upper(), "", None, [own], *others):
        yield f"typ {typ!r}", signed({**HEADER, "typ": typ})
    yield "no typ", signed(drop="typ")
    for audience in (
        *(own["aud"] for _, own in KINDS.values() if own["aud"] != OWN["aud"]),
        f"tmi-node:{ALICE.id}",
        "other",
        "",
        [OWN["aud"]],
        [OWN["aud"], "other"],
        [own["aud"] for _, own in KINDS.values()],
        1,
        {OWN["aud"]: 1},
    ):
        yield f"aud {audience!r}", signed(payload=claims(aud=audience))
    for issuer in ("https://evil.example", ISSUER + "/", ISSUER.upper(), "", [ISSUER], 1):
        yield f"iss {issuer!r}", signed(payload=claims(iss=issuer))
    yield (
        "an ID token",
        signed({**HEADER, "typ": "JWT"}, claims(aud="some-client", nonce="n", email="alice@tmi.local")),
    )


def claims_at_fault() -> Iterator[tuple[str, str]]:
    """Claims that are missing, or no claims."""
    named = "nonce" if "nonce" in OWN else "sid"
    for claim in ("iss", "aud", "sub", named, "iat", "exp", "jti"):
        yield f"no {claim}", signed(payload=claims(**{claim: None}))
    for payload in (b"", b"[]", b"null", b'"text"', b"{", b"\xff\xfe", b"1", b"[" * 2000):
        yield f"payload {payload[:10]!r}", signed(payload=payload)
    subjects: list[Any] = ["", "alice", "0", "' OR 1=1", str(ALICE.id) + "0", 7, ["x"], {}]
    for subject in subjects:
        yield f"sub {subject!r}", signed(payload=claims(sub=subject))
        if "sid" in OWN:
            yield f"sid {subject!r}", signed(payload=claims(sid=subject))
        if "did" in OWN:
            yield f"did {subject!r}", signed(payload=claims(did=subject))


def times() -> Iterator[tuple[str, str]]:
    """Time."""
    now = int(time.time())
    yield "expired", signed(payload=claims(iat=now - 1000, exp=now - 100))
    yield "expired long ago", signed(payload=claims(exp=0))
    yield "exp negative", signed(payload=claims(exp=-1))
    yield "exp a text", signed(payload=claims(exp="tomorrow"))
    yield "exp a list", signed(payload=claims(exp=[now + 900]))
    yield "exp NaN", signed(payload=json.dumps(claims(exp=float("nan"))).encode())
    yield "exp infinite", signed(payload=json.dumps(claims(exp=float("inf"))).encode())
    yield "issued tomorrow", signed(payload=claims(iat=now + 86400))
    yield "not before tomorrow", signed(payload=claims(nbf=now + 86400))


def repeated_members() -> Iterator[tuple[str, str]]:
    """Members given twice: ours first, theirs last, and the other way around."""
    good = signed()
    _, body, _ = good.split(".")
    twice_alg = json.dumps(HEADER)[:-1] + ', "alg": "none"}'
    yield "alg twice", f"{b64(twice_alg.encode())}.{body}."
    twice_kid = f'{{"kid": "theirs", {json.dumps(HEADER)[1:]}'
    yield "kid twice, by a stranger", signed(twice_kid.encode(), key=THEIR_PRIVATE)
    twice_sub = json.dumps(claims())[:-1] + f', "sub": "{uuid4()}"}}'
    yield "sub twice, by a stranger", signed(payload=twice_sub.encode(), key=THEIR_PRIVATE)


def forms() -> Iterator[tuple[str, str]]:
    """The form."""
    good = signed()
    head, body, signature = good.split(".")
    yield "empty", ""
    yield "dots", ".."
    yield "one part", head
    yield "two parts", f"{head}.{body}"
    yield "four parts", f"{good}.{signature}"
    yield "five parts, as a JWE", f"{head}.{body}.{body}.{body}.{signature}"
    yield "no signature", f"{head}.{body}."
    yield "a signature cut short", good[:-8]
    yield "a signature of zeros", f"{head}.{body}.{b64(bytes(64))}"
    yield "another token's signature", f"{head}.{b64(json.dumps(claims(jti='2')).encode())}.{signature}"
    yield "padding", f"{head}.{body}.{signature}=="
    yield "a line break inside", f"{head}.{body}.\n{signature}"
    yield "a line break at the end", good + "\n"
    yield "a space in front", " " + good
    yield "not ASCII", good[:-1] + "é"
    yield "a lone surrogate", good[:-1] + "\ud800"
    yield "a NUL", good + "\x00"
    yield "the alphabet of plain base64", f"{head}.{body}.+/+/"
    yield "JSON serialization", json.dumps({"payload": body, "protected": head, "signature": signature})
    yield "16 KiB of claims", signed(payload=claims(junk="x" * 12_000))
    yield "16 KiB of letters", "A" * 16_384
    yield "1 MiB of dots", "." * 1_048_576
    yield "a header nested 1,400 deep", f"{b64(b'[' * 1400)}.{body}.{signature}"
    yield "a header that is no object", signed(b'"EdDSA"')
    yield "a header that is no JSON", signed(b"EdDSA")
    yield "a header with a huge number", signed(b'{"alg": ' + b"9" * 2000 + b"}")


def hostile() -> Iterator[tuple[str, str]]:
    """The corpus: what is wrong, and the token."""
    for part in (
        algorithms,
        keys_inside,
        key_ids,
        purposes,
        claims_at_fault,
        times,
        repeated_members,
        forms,
    ):
        yield from part()


def corpus_of(kind: str) -> tuple[str, list[tuple[str, str]]]:
    """A good token of a kind, and the hostile ones."""
    make(kind)
    made = signed(), list(hostile())
    make("access")
    return made


CORPORA = {kind: corpus_of(kind) for kind in KINDS}


def verified(token: str) -> list[object]:
    """What any of the verifiers takes a token for. Raises whatever is not a refusal."""
    found: list[object] = []
    for verify in (TOKENS.verify_access, TOKENS.verify_collab, lambda token: TOKENS.verify(token, NODE)):
        try:
            found.append(verify(token))
        except Unauthenticated:
            continue
    return found


@pytest.mark.parametrize(
    ("kind", "what", "token"),
    [(kind, what, token) for kind, (_, corpus) in CORPORA.items() for what, token in corpus],
    ids=lambda given: given if len(given) < 60 else "",
)
def test_a_hostile_token_is_refused_by_every_verifier(kind: str, what: str, token: str) -> None:
    assert [] == verified(token), (kind, what)


def test_the_corpora_are_hostile_for_the_reason_they_name() -> None:
    """The same builder, with nothing wrong, makes tokens that are accepted, each by one verifier."""
    assert [
        [AccessClaims(ALICE.id, SIGN_IN)],
        [CollabClaims(ALICE.id, SIGN_IN, DIAGRAM)],
        [(NodeId(ALICE.id), "n")],
    ] == [verified(good) for good, _ in CORPORA.values()]


def test_the_corpora_are_large_and_no_token_is_in_them_twice() -> None:
    distinct = {token for _, corpus in CORPORA.values() for _, token in corpus}
    print(f"{len(distinct)} distinct hostile tokens: {({k: len(c) for k, (_, c) in CORPORA.items()})}")
    assert 60 <= min(len({token for _, token in corpus}) for _, corpus in CORPORA.values())
    assert 180 <= len(distinct)


def test_a_fresh_access_token_names_its_user_and_session() -> None:
    token = TOKENS.access_token(ALICE, SIGN_IN)
    assert AccessClaims(ALICE.id, SIGN_IN) == TOKENS.verify_access(token)
    assert len(token) < MAX_TOKEN_LENGTH


@pytest.mark.parametrize("diagram", [None, DIAGRAM])
def test_a_fresh_collab_token_names_its_user_session_and_diagram(diagram: DiagramId | None) -> None:
    token = TOKENS.collab_token(ALICE.id, SIGN_IN, diagram)
    assert CollabClaims(ALICE.id, SIGN_IN, diagram) == TOKENS.verify_collab(token)


def test_the_two_kinds_of_token_do_not_stand_in_for_each_other() -> None:
    with pytest.raises(Unauthenticated):
        TOKENS.verify_collab(TOKENS.access_token(ALICE, SIGN_IN))
    with pytest.raises(Unauthenticated):
        TOKENS.verify_access(TOKENS.collab_token(ALICE.id, SIGN_IN, None))


@pytest.mark.parametrize("did", ["", "everything", 1, None, [str(DIAGRAM)], str(DIAGRAM) + "0"])
def test_a_collab_token_with_an_odd_diagram_is_not_good_for_all_diagrams(did: object) -> None:
    payload = {**claims(aud="tmi-collab"), "did": did}
    with pytest.raises(Unauthenticated):
        TOKENS.verify_collab(signed({**HEADER, "typ": "collab+jwt"}, payload))


def test_an_expired_token_is_refused_by_name() -> None:
    short = Tokens([KEY], ISSUER, access_ttl=timedelta(seconds=-10))
    with pytest.raises(Unauthenticated, match="expired"):
        TOKENS.verify_access(short.access_token(ALICE, SIGN_IN))


def test_tokens_of_another_node_with_the_same_keys_are_good_here() -> None:
    other = Tokens([KEY], ISSUER)
    assert ALICE.id == TOKENS.verify_access(other.access_token(ALICE, SIGN_IN)).user


def test_after_a_rotation_the_newest_key_signs_and_the_older_still_verifies() -> None:
    newer = new_signing_key()
    rotated = Tokens([newer, KEY], ISSUER)
    assert newer.kid == jwt.get_unverified_header(rotated.access_token(ALICE, SIGN_IN))["kid"]
    assert ALICE.id == rotated.verify_access(TOKENS.access_token(ALICE, SIGN_IN)).user


def test_two_tokens_are_never_equal() -> None:
    assert TOKENS.access_token(ALICE, SIGN_IN) != TOKENS.access_token(ALICE, SIGN_IN)


def test_without_a_key_nothing_starts() -> None:
    with pytest.raises(StartupError):
        Tokens([], ISSUER)


def test_a_key_of_another_kind_stops_the_start() -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(StartupError):
        Tokens([SigningKey("k", "EdDSA", pem, KEY.created_at)], ISSUER)


def test_claims_are_compared_as_uuids() -> None:
    upper = signed(payload=claims(sub=str(ALICE.id).upper()))
    assert UUID(int=ALICE.id.int) == TOKENS.verify_access(upper).user


def test_a_token_that_was_verified_before_expires_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens([KEY], ISSUER)
    token = tokens.collab_token(ALICE.id, SIGN_IN, DIAGRAM)
    assert tokens.verify_collab(token) == tokens.verify_collab(token)
    later = time.time() + 600 + 6
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.verify_collab(token)


def test_a_token_that_was_verified_for_one_purpose_is_refused_for_another() -> None:
    tokens = Tokens([KEY], ISSUER)
    access = tokens.access_token(ALICE, SIGN_IN)
    tokens.verify_access(access)
    with pytest.raises(Unauthenticated):
        tokens.verify_collab(access)


def test_only_so_many_verified_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.tokens._REMEMBERED_MAX", 3)
    tokens = Tokens([KEY], ISSUER)
    for token in [tokens.access_token(ALICE, SIGN_IN) for _ in range(5)] * 2:
        assert SIGN_IN == tokens.verify_access(token).sign_in
    assert 3 == len(tokens._verified)
