"""What people see and do of their own account: groups, transfer of what they own, deletion."""

import secrets
from datetime import UTC, datetime, timedelta

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.context import caller, context, parse_uuid, person, services
from api.documented import operation
from tmi.domain.errors import BadInput, NotFound
from tmi.domain.ids import GroupId, UserId
from tmi.domain.model import EVERYONE_GROUP, AuditEntry
from tmi.domain.ports import Page

routes = Blueprint("me", __name__)

CHALLENGE_TTL = timedelta(minutes=3)


@routes.delete("/me")
@tag(["Account"])
@operation_id("deleteUserAccount")
@operation(
    query=schemas.DeletionQuery,
    answers={200: schemas.DeletionChallenge, 204: None},
    errors=(400, 401, 503),
)
async def delete_me() -> Response:
    """Delete the caller's account

    Without `challenge` the answer is a challenge; with it, within three minutes, the account is deleted, with
    every threat model that nobody else owns.
    """
    user, given = person().user, bodies.read_query(schemas.DeletionQuery).challenge
    if given is None:
        text = f"Delete the account {user.email} and all that nobody else owns ({secrets.token_hex(16)})"
        await services().challenges.issue(user.id, text, CHALLENGE_TTL)
        expires_at = datetime.now(UTC) + CHALLENGE_TTL
        return bodies.answer(schemas.DeletionChallenge(challenge_text=text, expires_at=expires_at))
    if not await services().challenges.redeem(user.id, given):
        raise BadInput("the challenge is another one, or too old")
    made = audit.entry("account.deleted", f"{user.email} deleted their account", old=user.email)
    await context().to_the_end(delete_account(user.id, made))
    return bodies.no_content()


@routes.get("/me/groups")
@tag(["Account"])
@operation_id("listMyGroups")
@operation(answers={200: schemas.MyGroups}, errors=(401, 503))
async def my_groups() -> Response:
    """List the groups that the caller is a member of"""
    groups = schemas.memberships(await services().memberships.of_user(caller().user.id))
    return bodies.answer(schemas.MyGroups(groups=groups, total=len(groups)))


@routes.get("/me/groups/<group_id>/members")
@tag(["Account"])
@operation_id("listMyGroupMembers")
@operation(
    query=schemas.AdminPageQuery, answers={200: schemas.GroupMembers}, errors=(400, 401, 403, 404, 503)
)
async def my_group_members(group_id: str) -> Response:
    """List the members of a group that the caller is a member of"""
    group = GroupId(parse_uuid(group_id))
    query = bodies.read_query(schemas.AdminPageQuery)
    mine = await services().memberships.of_user(caller().user.id)
    if group == EVERYONE_GROUP or group not in {key for key, _, _ in mine}:
        raise NotFound("There is no such group of yours.")
    found, total = await services().memberships.of_group(group, Page(query.limit, query.offset))
    members = [schemas.GroupMemberOutput.of(member, for_administrators=False) for member in found]
    return bodies.answer(
        schemas.GroupMembers(members=members, total=total, limit=query.limit, offset=query.offset)
    )


@routes.post("/me/transfer")
@tag(["Account"])
@operation_id("transferCurrentUserOwnership")
@operation(
    body=schemas.TransferInput,
    answers={200: schemas.TransferOutput},
    errors=(400, 401, 404, 413, 415, 503),
)
async def transfer_mine() -> Response:
    """Make somebody else the owner of all threat models that the caller owns

    The caller stays a writer there.
    """
    return await transferred(person().user.id)


async def transferred(source: UserId, *, with_charge: bool = False) -> Response:
    """Hand over what `source` owns to whom the body names, `with_charge` also for their quotas. Raises
    NotFound and BadInput.
    """
    given = await bodies.read_model(schemas.TransferInput)
    target = UserId(parse_uuid(given.target_user_id))
    made = audit.entry("ownership.transferred", old=str(source), new=str(target))
    models = await context().to_the_end(_transfer(source, target, made, with_charge))
    ids = [str(model) for model in models]
    moved = schemas.TransferredModels(count=len(ids), threat_model_ids=ids)
    return bodies.answer(
        schemas.TransferOutput(
            threat_models_transferred=moved, survey_responses_transferred=schemas.TransferredResponses()
        )
    )


async def _transfer(
    source: UserId, target: UserId, made: AuditEntry, with_charge: bool
) -> list[object]:
    models = await services().accounts.transfer(source, target, made, with_charge=with_charge)
    audit.logged(made)
    await services().rooms.rights.people_changed([source, target])
    return list(models)


async def delete_account(user: UserId, made: AuditEntry) -> None:
    """Delete an account, and send it and everybody in what went with it away. Raises NotFound."""
    diagrams = await services().accounts.delete(user, made)
    audit.logged(made)
    services().rooms.rights.deleted(diagrams)
    await services().rooms.rights.people_changed([user])
