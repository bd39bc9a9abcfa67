"""Quotas of users, as administrators set them."""

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.context import administrator, context, parse_uuid, services
from api.documented import operation
from tmi.domain.ids import UserId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.quotas import Allowance, Quota

routes = Blueprint("quotas", __name__)


@routes.get("/admin/quotas/users")
@tag(["Administration"])
@operation_id("listUserAPIQuotas")
@operation(query=schemas.AdminPageQuery, answers={200: schemas.UserQuotas}, errors=(400, 401, 403, 503))
async def list_quotas() -> Response:
    """List the quotas that were set for single users, with what holds for everybody else"""
    await administrator()
    query = bodies.read_query(schemas.AdminPageQuery)
    found, total = await services().quotas.page(Page(query.limit, query.offset))
    limits = services().configuration.limits
    return bodies.answer(
        schemas.UserQuotas(
            quotas=[schemas.UserQuota.of(quota, limits) for quota in found],
            total=total,
            limit=query.limit,
            offset=query.offset,
            defaults=schemas.QuotaDefaults(
                max_requests_per_minute=limits.requests_per_min,
                max_requests_per_hour=limits.requests_per_hour,
            ),
            further_defaults=schemas.FurtherQuotaDefaults(
                max_threat_models=limits.threat_models,
                max_diagrams=limits.diagrams,
                max_stored_bytes=limits.stored_bytes,
                max_connections=limits.connections,
            ),
        )
    )


@routes.get("/admin/quotas/users/<user_id>")
@tag(["Administration"])
@operation_id("getUserAPIQuota")
@operation(answers={200: schemas.UserQuota}, errors=(400, 401, 403, 404, 503))
async def get_quota(user_id: str) -> Response:
    """Get what a user may do at most, and what they are charged for"""
    await administrator()
    user = await services().users.get(UserId(parse_uuid(user_id)))
    quota, usage = await services().quotas.of(user.id), await services().storage.usage(user.id)
    limits = services().configuration.limits
    if quota is None:
        return bodies.answer(schemas.UserQuota.by_default(user, limits, usage))
    return bodies.answer(schemas.UserQuota.of(quota, limits, usage))


@routes.put("/admin/quotas/users/<user_id>")
@tag(["Administration"])
@operation_id("updateUserAPIQuota")
@operation(
    body=schemas.UserQuotaUpdate,
    answers={200: schemas.UserQuota, 201: schemas.UserQuota},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def put_quota(user_id: str) -> Response:
    """Set what a user may do at most

    It holds on every node within a second. Nothing that is there is taken away: who has more than allowed
    gets no more.
    """
    await administrator()
    user = UserId(parse_uuid(user_id))
    given = await bodies.read_model(schemas.UserQuotaUpdate)
    made = audit.entry("quota.changed", f"account {user}", new=given.model_dump_json(exclude_none=True))
    quota, is_new = await context().to_the_end(_put(user, given.allowance, made))
    usage = await services().storage.usage(user)
    shown = schemas.UserQuota.of(quota, services().configuration.limits, usage)
    return bodies.answer(shown, 201 if is_new else 200)


@routes.delete("/admin/quotas/users/<user_id>")
@tag(["Administration"])
@operation_id("deleteUserAPIQuota")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def delete_quota(user_id: str) -> Response:
    """Let a user's limits be those of everybody again"""
    await administrator()
    user = UserId(parse_uuid(user_id))
    await context().to_the_end(_remove(user, audit.entry("quota.removed", f"account {user}")))
    return bodies.no_content()


async def _put(user: UserId, allowance: Allowance, made: AuditEntry) -> tuple[Quota, bool]:
    stored = await services().quotas.put(user, allowance, made)
    await _tell(user, made)
    return stored


async def _remove(user: UserId, made: AuditEntry) -> None:
    await services().quotas.remove(user, made)
    await _tell(user, made)


async def _tell(user: UserId, made: AuditEntry) -> None:
    audit.logged(made)
    services().configuration.changed([user])
    await services().rooms.rights.settings_changed([user])
