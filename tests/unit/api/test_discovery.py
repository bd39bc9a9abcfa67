"""Discovery documents and the key set."""

from collections.abc import AsyncIterator
from dataclasses import replace

import jwt
import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from tests.rest import OPTIONS, RestClient, over_memory

PUBLIC_URL = "https://tmi.example.org"
OPENID = (
    "issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "response_types_supported",
    "subject_types_supported", "id_token_signing_alg_values_supported",
)  # fmt: skip
"""What the contract requires. It says EdDSA alone: there are no ID tokens, and so none by RS256."""
NAMES = ("openid-configuration", "oauth-authorization-server", "oauth-protected-resource", "jwks.json")


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory(replace(OPTIONS, public_url=PUBLIC_URL)) as client:
        yield client


async def test_the_documents_are_valid_by_their_specifications(rest: RestClient) -> None:
    documents = [(await rest.call("GET", f"/.well-known/{name}")).json for name in NAMES]
    for document in documents[:2]:
        AuthorizationServerMetadata(document).validate()
    assert set(OPENID) <= documents[0].keys()
    assert [PUBLIC_URL, PUBLIC_URL] == [document["issuer"] for document in documents[:2]]
    assert (PUBLIC_URL, [PUBLIC_URL]) == (documents[2]["resource"], documents[2]["authorization_servers"])


async def test_every_endpoint_that_is_named_exists(rest: RestClient) -> None:
    rules = {rule.rule for rule in rest.app.url_map.iter_rules()}
    for name in NAMES[:3]:
        document = (await rest.call("GET", f"/.well-known/{name}")).json
        for member, value in document.items():
            if member.endswith(("_endpoint", "_uri", "_documentation")):
                assert value.removeprefix(PUBLIC_URL) in rules, member


async def test_what_is_said_of_grants_is_so(rest: RestClient) -> None:
    document = (await rest.call("GET", "/.well-known/oauth-authorization-server")).json
    for grant in document["grant_types_supported"]:
        answer = await rest.exchange(grant_type=grant)
        assert answer.json["error"] in ("invalid_request", "invalid_client")
    assert ["S256"] == document["code_challenge_methods_supported"]
    assert 400 == (await rest.authorize(code_challenge_method="plain")).status


async def test_the_key_set_verifies_tokens_and_holds_no_private_key(rest: RestClient) -> None:
    token = await rest.sign_in("alice")
    (key,) = (await rest.call("GET", "/.well-known/jwks.json")).json["keys"]
    assert {"kty", "crv", "x", "use", "alg", "kid"} == key.keys()
    assert key["kid"] == jwt.get_unverified_header(token)["kid"]
    claims = jwt.decode(
        token, jwt.PyJWK(key).key, algorithms=["EdDSA"], audience="tmi", issuer=rest.services.tokens.issuer
    )
    assert str(rest.services.tokens.verify_access(token).user) == claims["sub"]


async def test_without_a_public_url_addresses_are_those_of_the_request() -> None:
    async with over_memory() as rest:
        host = {"Host": "tmi.test:8080"}
        answer = await rest.call("GET", "/.well-known/oauth-authorization-server", headers=host)
        assert "http://tmi.test:8080/oauth2/token" == answer.json["token_endpoint"]
        evil = await rest.call("GET", "/.well-known/oauth-authorization-server", headers={"Host": "a/b"})
        assert 400 == evil.status


@pytest.mark.parametrize("name", NAMES)
async def test_caches_may_keep_them_for_less_than_a_key_is_shown_before_it_signs(
    rest: RestClient, name: str
) -> None:
    answer = await rest.call("GET", f"/.well-known/{name}")
    assert "public, max-age=30" == answer.headers["Cache-Control"]
