"""What people see and do of their own sign-in sessions: log out, list them, end one or all others.

The contract's `/me/sessions` means collaboration sessions, so these are at `/me/sign_ins`. The end of a
session refuses its access tokens and closes its open sockets (4401), on every node and within a second.
"""

from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.context import administrator, caller, context, parse_uuid, person, services
from api.documented import operation
from tmi.domain.errors import NotFound
from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import User
from tmi.domain.ports import Page
from tmi.domain.sign_ins import Refused

routes = Blueprint("sign_ins", __name__)

_CLIENT_MAX = 200


@routes.post("/me/logout")
@tag(["Account"])
@operation_id("logoutCurrentUser")
@operation(answers={204: None}, errors=(401, 503))
async def logout() -> Response:
    """End the caller's sign-in

    With its access and refresh tokens, and its open sockets.
    """
    sign_in = caller()
    await context().to_the_end(end(sign_in.user.id, sign_in.id, "sign_in.ended"))
    return bodies.no_content()


@routes.get("/me/sign_ins")
@tag(["Account"])
@operation_id("listMySignIns")
@operation(query=schemas.PageQuery, answers={200: schemas.SignIns}, errors=(400, 401, 503))
async def list_mine() -> Response:
    """List the caller's sign-ins that stand, newest first"""
    query = bodies.read_query(schemas.PageQuery)
    found, total = await services().sign_ins.of_user(caller().user.id, Page(query.limit, query.offset))
    shown = [schemas.SignInOutput.of(one, is_current=one.id == caller().id) for one in found]
    return bodies.answer(
        schemas.SignIns(sign_ins=shown, total=total, limit=query.limit, offset=query.offset)
    )


@routes.delete("/me/sign_ins")
@tag(["Account"])
@operation_id("endMyOtherSignIns")
@operation(answers={204: None}, errors=(401, 403, 503))
async def end_others() -> Response:
    """End all sign-ins of the caller but the one that asks"""
    sign_in = person()
    await context().to_the_end(_end_all(sign_in.user.id, sign_in.id))
    return bodies.no_content()


@routes.delete("/me/sign_ins/<sign_in_id>")
@tag(["Account"])
@operation_id("endMySignIn")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def end_one(sign_in_id: str) -> Response:
    """End one of the caller's sign-ins"""
    key = SignInId(parse_uuid(sign_in_id))
    if not await context().to_the_end(end(person().user.id, key, "sign_in.ended")):
        raise NotFound("There is no such sign-in of yours.")
    return bodies.no_content()


@routes.delete("/admin/users/<user_id>/sign_ins")
@tag(["Administration"])
@operation_id("endAdminUserSignIns")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def end_of_user(user_id: str) -> Response:
    """End all sign-ins of an account"""
    await administrator()
    user = UserId(parse_uuid(user_id))
    await services().accounts.get(user)
    await context().to_the_end(_end_all(user, None))
    return bodies.no_content()


async def end(user: UserId, sign_in: SignInId, what: str, actor: User | None = None) -> bool:
    """End a session of a user, if there is such a one; `what` is the kind of event for the audit."""
    if not await services().sign_ins.end(user, sign_in):
        return False
    await context().ended(sign_in)
    await audit.note(services().audit, audit.entry(what, actor=actor, old=str(sign_in)))
    return True


async def _end_all(user: UserId, besides: SignInId | None) -> None:
    ended = await services().sign_ins.end_all(user, besides)
    await context().ended(*ended)
    summary = f"{len(ended)} sign-ins of {user}"
    await audit.note(services().audit, audit.entry("sign_in.ended", summary))


async def refused(kind: str, refusal: Refused) -> None:
    """A code, a refresh token or a client secret is worth nothing: say so in the audit, and see to it that a
    sign-in that ended by that is gone everywhere.
    """
    what = f"{kind}.{refusal.why.value}"
    if refusal.sign_in is None or not refusal.has_ended_it:
        context().refusals.refused(what, _whose(refusal))
        return
    await context().ended(refusal.sign_in)
    context().refusals.is_noted()
    made = audit.entry(what, _whose(refusal), old=str(refusal.sign_in))
    await audit.note(services().audit, made)


def client_name() -> str | None:
    """What the client of this request calls itself: printable ASCII, for people alone."""
    agent = "".join(letter for letter in request.headers.get("User-Agent", "") if " " <= letter <= "~")
    return agent[:_CLIENT_MAX] or None


def _whose(refusal: Refused) -> str:
    return "of nobody who is known" if refusal.user is None else f"of user {refusal.user}"
