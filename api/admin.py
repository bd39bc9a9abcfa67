"""What administrators do: accounts, groups with their members, and the system audit."""

from collections.abc import Sequence
from urllib.parse import urlencode

from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import audit, audit_files, bodies, cursors, edge, schemas
from api.context import administrator, caller, context, parse_uuid, person, services
from api.documented import operation
from api.me import delete_account, transferred
from tmi.domain.ids import AuditId, GroupId, UserId
from tmi.domain.model import ADMINISTRATORS_GROUP, Account, AuditEntry
from tmi.domain.ports import AccountChange, AccountFilter, AuditFilter, GroupFilter, Page

routes = Blueprint("admin", __name__)


# --- accounts -----------------------------------------------------------------------------------


@routes.get("/admin/users")
@tag(["Administration"])
@operation_id("listAdminUsers")
@operation(query=schemas.AccountQuery, answers={200: schemas.AdminUsers}, errors=(400, 401, 403, 503))
async def list_users() -> Response:
    """List accounts"""
    await administrator()
    query = bodies.read_query(schemas.AccountQuery)
    wanted = AccountFilter(
        provider=query.provider,
        email=query.email,
        name=query.name,
        created_after=query.created_after,
        created_before=query.created_before,
        last_login_after=query.last_login_after,
        last_login_before=query.last_login_before,
        sort_by=query.sort_by,
        descending=query.sort_order == "desc",
        automation=query.automation,
    )
    found, total = await services().accounts.matching(wanted, Page(query.limit, query.offset))
    users = [_shown(account) for account in found]
    return bodies.answer(
        schemas.AdminUsers(users=users, total=total, limit=query.limit, offset=query.offset)
    )


@routes.get("/admin/users/<user_id>")
@tag(["Administration"])
@operation_id("getAdminUser")
@operation(answers={200: schemas.AdminUser}, errors=(400, 401, 403, 404, 503))
async def get_user(user_id: str) -> Response:
    """Get an account"""
    await administrator()
    return bodies.answer(_shown(await services().accounts.get(UserId(parse_uuid(user_id)))))


@routes.patch("/admin/users/<user_id>")
@tag(["Administration"])
@operation_id("updateAdminUser")
@operation(
    body=schemas.AccountInput,
    answers={200: schemas.AdminUser},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def change_user(user_id: str) -> Response:
    """Change an account

    The next sign-in takes e-mail and name from the provider again. Authorization lists that name the old
    e-mail do not mean this account any more, and those that name the new one do once it is `email_verified`.
    """
    await administrator()
    person()  # an address may be what makes somebody an administrator, or lets them into threat models
    user = UserId(parse_uuid(user_id))
    given = await bodies.read_model(schemas.AccountInput)
    change = AccountChange(given.email, given.name, given.email_verified)
    made = audit.entry("user.changed", f"account {user}", new=given.model_dump_json(exclude_none=True))
    return bodies.answer(_shown(await context().to_the_end(_change_user(user, change, made))))


@routes.delete("/admin/users/<user_id>")
@tag(["Administration"])
@operation_id("deleteAdminUser")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def delete_user(user_id: str) -> Response:
    """Delete an account, with every threat model that nobody else owns

    Its open editors are closed.
    """
    await administrator()
    person()
    user = UserId(parse_uuid(user_id))
    await context().to_the_end(delete_account(user, audit.entry("user.deleted", old=str(user))))
    return bodies.no_content()


@routes.post("/admin/users/<user_id>/transfer")
@tag(["Administration"])
@operation_id("transferAdminUserOwnership")
@operation(
    body=schemas.TransferInput,
    answers={200: schemas.TransferOutput},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def transfer(user_id: str) -> Response:
    """Make somebody else the owner of all threat models that an account owns

    That account stays a writer there.
    """
    await administrator()
    person()
    return await transferred(UserId(parse_uuid(user_id)), with_charge=True)


async def _change_user(user: UserId, change: AccountChange, made: AuditEntry) -> Account:
    account = await services().accounts.change(user, change, made)
    audit.logged(made)
    await services().rooms.rights.people_changed([user])
    return account


def _shown(account: Account) -> schemas.AdminUser:
    by_setting = account.user.is_one_of(services().options.administrators)
    return schemas.AdminUser.of(account, is_admin=account.is_administrator or by_setting)


# --- groups -------------------------------------------------------------------------------------


@routes.get("/admin/groups")
@tag(["Administration"])
@operation_id("listAdminGroups")
@operation(query=schemas.GroupQuery, answers={200: schemas.AdminGroups}, errors=(400, 401, 403, 503))
async def list_groups() -> Response:
    """List groups"""
    await administrator()
    query = bodies.read_query(schemas.GroupQuery)
    wanted = GroupFilter(
        provider=query.provider,
        name=query.group_name,
        is_used=query.used_in_authorizations,
        is_builtin=query.built_in,
        by_name=query.sort_by == "name",
        descending=query.sort_order == "desc",
    )
    found, total = await services().groups.matching(wanted, Page(query.limit, query.offset))
    groups = [schemas.AdminGroup.of(group) for group in found]
    return bodies.answer(
        schemas.AdminGroups(groups=groups, total=total, limit=query.limit, offset=query.offset)
    )


@routes.post("/admin/groups")
@tag(["Administration"])
@operation_id("createAdminGroup")
@operation(
    body=schemas.GroupInput,
    answers={201: schemas.AdminGroup},
    errors=(400, 401, 403, 409, 413, 415, 503),
)
async def create_group() -> Response:
    """Create a group of this service

    Authorization lists name it by provider `tmi` and its `group_name`.
    """
    await administrator()
    given = await bodies.read_model(schemas.GroupInput)
    made = audit.entry("group.created", new=given.group_name)
    group = await services().groups.create(given.group_name, given.name, given.description, made)
    audit.logged(made)
    return bodies.answer(schemas.AdminGroup.of(group), 201, {"Location": f"/admin/groups/{group.id}"})


@routes.get("/admin/groups/<group_id>")
@tag(["Administration"])
@operation_id("getAdminGroup")
@operation(answers={200: schemas.AdminGroup}, errors=(400, 401, 403, 404, 503))
async def get_group(group_id: str) -> Response:
    """Get a group"""
    await administrator()
    return bodies.answer(schemas.AdminGroup.of(await services().groups.get(GroupId(parse_uuid(group_id)))))


@routes.patch("/admin/groups/<group_id>")
@tag(["Administration"])
@operation_id("updateAdminGroup")
@operation(
    body=schemas.GroupChange,
    answers={200: schemas.AdminGroup},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def change_group(group_id: str) -> Response:
    """Change a group's name for people, and its description"""
    await administrator()
    group = GroupId(parse_uuid(group_id))
    given = await bodies.read_model(schemas.GroupChange)
    made = audit.entry("group.changed", f"group {group}", new=given.model_dump_json(exclude_none=True))
    changed = await services().groups.change(group, given.name, given.description, made)
    audit.logged(made)
    return bodies.answer(schemas.AdminGroup.of(changed))


@routes.delete("/admin/groups/<group_id>")
@tag(["Administration"])
@operation_id("deleteAdminGroup")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 409, 503))
async def delete_group(group_id: str) -> Response:
    """Delete a group, also from authorization lists

    409 where it is the only owner of a threat model. Who had a role by it alone is sent away from open
    diagrams.
    """
    await administrator()
    group = GroupId(parse_uuid(group_id))
    await context().to_the_end(_delete_group(group, audit.entry("group.deleted", old=str(group))))
    return bodies.no_content()


@routes.get("/admin/groups/<group_id>/members")
@tag(["Administration"])
@operation_id("listGroupMembers")
@operation(
    query=schemas.AdminPageQuery, answers={200: schemas.GroupMembers}, errors=(400, 401, 403, 404, 503)
)
async def list_members(group_id: str) -> Response:
    """List a group's members"""
    await administrator()
    group = GroupId(parse_uuid(group_id))
    query = bodies.read_query(schemas.AdminPageQuery)
    found, total = await services().memberships.of_group(group, Page(query.limit, query.offset))
    members = [schemas.GroupMemberOutput.of(member) for member in found]
    return bodies.answer(
        schemas.GroupMembers(members=members, total=total, limit=query.limit, offset=query.offset)
    )


@routes.post("/admin/groups/<group_id>/members")
@tag(["Administration"])
@operation_id("addGroupMember")
@operation(
    body=schemas.MemberInput,
    answers={201: schemas.GroupMemberOutput},
    errors=(400, 401, 403, 404, 409, 413, 415, 503),
)
async def add_member(group_id: str) -> Response:
    """Add a user to a group

    Groups in groups are not supported.
    """
    await administrator()
    group = GroupId(parse_uuid(group_id))
    if group == ADMINISTRATORS_GROUP:
        person()
    given = await bodies.read_model(schemas.MemberInput)
    user = UserId(parse_uuid(given.user_internal_uuid))
    made = audit.entry("group.member_added", f"group {group}", new=str(user))
    return await context().to_the_end(_add_member(group, user, given.notes, made))


@routes.delete("/admin/groups/<group_id>/members/<member_uuid>")
@tag(["Administration"])
@operation_id("removeGroupMember")
@operation(query=schemas.MemberQuery, answers={204: None}, errors=(400, 401, 403, 404, 503))
async def remove_member(group_id: str, member_uuid: str) -> Response:
    """Remove a user from a group

    Open diagrams follow at once.
    """
    await administrator()
    group, user = GroupId(parse_uuid(group_id)), UserId(parse_uuid(member_uuid))
    bodies.read_query(schemas.MemberQuery)
    made = audit.entry("group.member_removed", f"group {group}", old=str(user))
    await context().to_the_end(_remove_member(group, user, made))
    return bodies.no_content()


async def _delete_group(group: GroupId, made: AuditEntry) -> None:
    members = await services().groups.delete(group, made)
    audit.logged(made)
    await services().rooms.rights.people_changed(members)


async def _add_member(group: GroupId, user: UserId, notes: str | None, made: AuditEntry) -> Response:
    member = await services().memberships.add(group, user, caller().user.id, notes, made)
    audit.logged(made)
    await services().rooms.rights.people_changed([user])
    return bodies.answer(schemas.GroupMemberOutput.of(member), 201)


async def _remove_member(group: GroupId, user: UserId, made: AuditEntry) -> None:
    await services().memberships.remove(group, user, made)
    audit.logged(made)
    await services().rooms.rights.people_changed([user])


# --- the system audit ---------------------------------------------------------------------------


@routes.get("/admin/audit/system")
@tag(["Administration"])
@operation_id("listSystemAuditEntries")
@operation(
    query=schemas.AuditQuery,
    answers={200: schemas.AuditEntries},
    errors=(400, 401, 403, 404, 503),
    produces=audit_files.FORMATS,
    gives=("Content-Disposition", "Link"),
)
async def list_audit() -> Response:
    """List the system audit, newest first

    `cursor` takes `next_cursor` or `prev_cursor` of another page; `around` begins with the entry of this id.
    As `Accept` says, a page comes as a file of CSV or of a JSON object a line; then `Link` leads to the next.
    """
    await administrator()
    query = bodies.read_query(schemas.AuditQuery)
    wanted = AuditFilter(
        email=query.actor_email,
        provider=query.actor_provider,
        after=query.created_after,
        before=query.created_before,
        method=query.http_method,
        path_prefix=query.path_prefix,
        what=query.field_path,
    )
    newer, cursor = cursors.parsed(query.cursor)
    if query.around is not None:
        newer, cursor = False, await services().audit.place_of(AuditId(parse_uuid(query.around)))
    page = await services().audit.page(wanted, query.limit, cursor, newer=newer)
    entries = [schemas.AuditEntryOutput.of(found) for found in page.entries]
    media_type = edge.preferred(audit_files.FORMATS)
    if media_type != audit_files.JSON:
        return _audit_file(entries, media_type, cursors.older(page.older))
    return bodies.answer(
        schemas.AuditEntries(
            entries=entries,
            total=page.total,
            limit=query.limit,
            next_cursor=cursors.older(page.older),
            prev_cursor=cursors.newer(page.newer),
        )
    )


def _audit_file(
    entries: Sequence[schemas.AuditEntryOutput], media_type: str, next_cursor: str | None
) -> Response:
    is_csv = media_type == audit_files.CSV
    headers = {"Content-Disposition": f'attachment; filename="audit.{"csv" if is_csv else "ndjson"}"'}
    if next_cursor is not None:
        kept = {name: value for name, value in request.args.items() if name not in ("cursor", "around")}
        following = urlencode({**kept, "cursor": next_cursor})
        headers["Link"] = f'</admin/audit/system?{following}>; rel="next"'
    wire = audit_files.as_csv(entries) if is_csv else audit_files.as_lines(entries)
    told = f"{media_type}; charset=utf-8" if is_csv else media_type
    return Response(wire, 200, headers, content_type=told)


@routes.get("/admin/audit/system/<entry_id>")
@tag(["Administration"])
@operation_id("getSystemAuditEntry")
@operation(answers={200: schemas.AuditEntryOutput}, errors=(400, 401, 403, 404, 503))
async def get_audit_entry(entry_id: str) -> Response:
    """Get an entry of the system audit"""
    await administrator()
    found = await services().audit.get(AuditId(parse_uuid(entry_id)))
    return bodies.answer(schemas.AuditEntryOutput.of(found))
