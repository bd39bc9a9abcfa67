"""Client credentials: with one a program gets access tokens of its user (RFC 6749, section 4.4).

A credential acts as its user, with the user's rights as they are at each request; it holds no role of its
own. Its secret is shown once and stored as SHA-256. What it began ends with it, within a second: it is a
sign-in like any other, without a refresh token, that ends with its access token.

Who may have one: administrators, as in the contract, or everybody where the operator says so. A program can't
make further ones. For others, administrators may make credentials of automation accounts alone: nobody acts
in the name of a person but that person.
"""

import secrets
from datetime import UTC, datetime

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.client_auth import client_of
from api.context import administrator, caller, context, is_administrator, parse_uuid, person, services
from api.documented import operation
from api.errors import OAuthError
from api.providers import is_offered
from tmi.domain.errors import BadInput, Forbidden, Unauthenticated
from tmi.domain.ids import CredentialId, UserId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.sign_ins import AUTOMATION_PROVIDER, Begun, ClientCredential, NewCredential

routes = Blueprint("client_credentials", __name__)

CLIENT_ID_PREFIX = "tmi_cc_"
SECRET_PREFIX = "tmi_cs_"  # noqa: S105 - by which scanners know a secret that got loose
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@routes.post("/me/client_credentials")
@tag(["Account"])
@operation_id("createCurrentUserClientCredential")
@operation(
    body=schemas.CredentialInput,
    answers={201: schemas.CreatedCredential},
    errors=(400, 401, 403, 413, 415, 503),
)
async def create_mine() -> Response:
    """Make a client credential of the caller

    Its secret is in this answer and nowhere else.
    """
    sign_in, options = caller(), services().options
    if sign_in.credential is not None:
        raise Forbidden("a program can't make client credentials")
    if not options.client_credentials_for_all and not await is_administrator(sign_in.user):
        raise Forbidden("client credentials are for administrators here")
    return await _create(sign_in.user.id, options.client_credentials_per_user_max)


@routes.get("/me/client_credentials")
@tag(["Account"])
@operation_id("listCurrentUserClientCredentials")
@operation(query=schemas.PageQuery, answers={200: schemas.Credentials}, errors=(400, 401, 503))
async def list_mine() -> Response:
    """List the caller's client credentials, without their secrets"""
    query = bodies.read_query(schemas.PageQuery)
    return await _list(caller().user.id, Page(query.limit, query.offset))


@routes.patch("/me/client_credentials/<credential_id>")
@tag(["Account"])
@operation_id("updateCurrentUserClientCredential")
@operation(
    body=schemas.CredentialChange,
    answers={200: schemas.CredentialOutput},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def change_mine(credential_id: str) -> Response:
    """Deactivate a client credential, or activate it again

    Deactivating one ends its tokens.
    """
    return await _change(person().user.id, credential_id)


@routes.delete("/me/client_credentials/<credential_id>")
@tag(["Account"])
@operation_id("deleteCurrentUserClientCredential")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def delete_mine(credential_id: str) -> Response:
    """Delete a client credential; its tokens end with it"""
    return await _delete(person().user.id, credential_id)


@routes.get("/admin/users/<user_id>/client_credentials")
@tag(["Administration"])
@operation_id("listAdminUserClientCredentials")
@operation(
    query=schemas.AdminPageQuery, answers={200: schemas.Credentials}, errors=(400, 401, 403, 404, 503)
)
async def list_of_user(user_id: str) -> Response:
    """List the client credentials of an account"""
    await administrator()
    query = bodies.read_query(schemas.AdminPageQuery)
    user = await services().users.get(UserId(parse_uuid(user_id)))
    return await _list(user.id, Page(query.limit, query.offset))


@routes.post("/admin/users/<user_id>/client_credentials")
@tag(["Administration"])
@operation_id("createAdminUserClientCredential")
@operation(
    body=schemas.CredentialInput,
    answers={201: schemas.CreatedCredential},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def create_of_user(user_id: str) -> Response:
    """Make a client credential of an automation account"""
    if (await administrator()).credential is not None:
        raise Forbidden("a program can't make client credentials")
    user = await services().users.get(UserId(parse_uuid(user_id)))
    if user.provider != AUTOMATION_PROVIDER:
        raise Forbidden("this account is a person's; only they make credentials of it")
    return await _create(user.id, None)


@routes.delete("/admin/users/<user_id>/client_credentials/<credential_id>")
@tag(["Administration"])
@operation_id("deleteAdminUserClientCredential")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def delete_of_user(user_id: str, credential_id: str) -> Response:
    """Delete a client credential of an account; its tokens end with it"""
    await administrator()
    return await _delete(UserId(parse_uuid(user_id)), credential_id)


@routes.post("/admin/users/automation")
@tag(["Administration"])
@operation_id("createAutomationAccount")
@operation(
    body=schemas.AutomationInput,
    answers={201: schemas.AdminUser},
    errors=(400, 401, 403, 413, 415, 503),
)
async def create_automation() -> Response:
    """Make an account for a program

    It signs in by client credentials alone. In authorization lists it is the provider `automation` and its
    name.
    """
    if (await administrator()).credential is not None:
        raise Forbidden("a program can't make accounts")
    name = (await bodies.read_model(schemas.AutomationInput)).name
    email = f"{name}@{AUTOMATION_PROVIDER}.tmi.local"
    user = await services().users.sign_in(
        AUTOMATION_PROVIDER, name, email, name, email_verified=True
    )
    made = audit.entry("user.created", f"automation account {name}", new=str(user.id))
    await audit.note(services().audit, made)
    account = await services().accounts.get(user.id)
    return bodies.answer(schemas.AdminUser.of(account, is_admin=account.is_administrator), 201)


async def granted(client_id: str | None, client_secret: str | None) -> tuple[str, int]:
    """An access token for a client with its credential, and its life in seconds. Raises OAuthError."""
    client = await client_of(client_id, client_secret)
    if client is None:
        raise OAuthError("invalid_client", "client_id and client_secret are needed")
    if not is_offered(client.user):
        raise OAuthError("invalid_client", "the client's provider is not offered here any more")
    tokens = services().tokens
    begun = Begun(client=client.name, credential=client.id)
    try:
        sign_in = await services().sign_ins.start(client.user.id, None, tokens.access_ttl, begun)
    except Unauthenticated:
        raise OAuthError("invalid_client", "the client is unknown, or its secret is not good") from None
    made = audit.entry("token.issued", f"by {client.client_id}", new=str(sign_in.id), actor=client.user)
    await audit.note(services().audit, made)
    left = min(tokens.access_ttl, sign_in.expires_at - datetime.now(UTC))
    return tokens.access_token(client.user, sign_in.id, left), max(0, int(left.total_seconds()))


async def _create(user: UserId, at_most: int | None) -> Response:
    given = await bodies.read_model(schemas.CredentialInput)
    if given.expires_at is not None and given.expires_at <= datetime.now(UTC):
        raise BadInput("expires_at is past")
    new = NewCredential(
        client_id=CLIENT_ID_PREFIX + secrets.token_urlsafe(16),
        secret=SECRET_PREFIX + secrets.token_urlsafe(32),
        name=given.name,
        description=given.description,
        expires_at=given.expires_at,
    )
    made = audit.entry("client_credential.created", f"for user {user}", new=new.client_id)
    created = await context().to_the_end(_created(user, new, at_most, made))
    return bodies.answer(schemas.CreatedCredential.of_new(created, new.secret), 201, _NO_STORE)


async def _created(
    user: UserId, new: NewCredential, at_most: int | None, made: AuditEntry
) -> ClientCredential:
    created = await services().client_credentials.create(user, new, at_most, made)
    audit.logged(made)
    return created


async def _list(user: UserId, page: Page) -> Response:
    found, total = await services().client_credentials.of_user(user, page)
    shown = [schemas.CredentialOutput.of(credential) for credential in found]
    return bodies.answer(
        schemas.Credentials(credentials=shown, total=total, limit=page.limit, offset=page.offset)
    )


async def _change(user: UserId, credential_id: str) -> Response:
    credential = CredentialId(parse_uuid(credential_id))
    active = (await bodies.read_model(schemas.CredentialChange)).is_active
    what = f"client_credential.{'activated' if active else 'deactivated'}"
    made = audit.entry(what, f"of user {user}", old=str(credential))

    async def change() -> ClientCredential:
        changed, ended = await services().client_credentials.set_active(
            user, credential, made, active=active
        )
        audit.logged(made)
        await context().ended(*ended)
        return changed

    return bodies.answer(schemas.CredentialOutput.of(await context().to_the_end(change())))


async def _delete(user: UserId, credential_id: str) -> Response:
    credential = CredentialId(parse_uuid(credential_id))
    made = audit.entry("client_credential.deleted", f"of user {user}", old=str(credential))

    async def delete() -> None:
        ended = await services().client_credentials.delete(user, credential, made)
        audit.logged(made)
        await context().ended(*ended)

    await context().to_the_end(delete())
    return bodies.no_content()
