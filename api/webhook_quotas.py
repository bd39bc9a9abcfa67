"""What users may do with webhooks, as administrators set it."""

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.context import administrator, context, parse_uuid, services
from api.documented import operation
from tmi.domain.ids import UserId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.webhooks import WebhookLimits, WebhookQuota

routes = Blueprint("webhook_quotas", __name__)


@routes.get("/admin/quotas/webhooks")
@tag(["Administration"])
@operation_id("listWebhookQuotas")
@operation(query=schemas.AdminPageQuery, answers={200: schemas.WebhookQuotas}, errors=(400, 401, 403, 503))
async def list_quotas() -> Response:
    """List the quotas of webhooks that were set for single users, with what holds for everybody else"""
    await administrator()
    query = bodies.read_query(schemas.AdminPageQuery)
    found, total = await services().webhook_quotas.page(Page(query.limit, query.offset))
    return bodies.answer(
        schemas.WebhookQuotas(
            quotas=[schemas.WebhookQuotaShown.of_quota(quota) for quota in found],
            total=total,
            limit=query.limit,
            offset=query.offset,
            defaults=schemas.WebhookDefaults.of(services().options.webhook_limits),
        )
    )


@routes.get("/admin/quotas/webhooks/<user_id>")
@tag(["Administration"])
@operation_id("getWebhookQuota")
@operation(answers={200: schemas.WebhookQuotaShown}, errors=(400, 401, 403, 404, 503))
async def get_quota(user_id: str) -> Response:
    """Get what a user may do with webhooks at most"""
    await administrator()
    user = (await services().users.get(UserId(parse_uuid(user_id)))).id
    quota = await services().webhook_quotas.of(user)
    if quota is None:
        return bodies.answer(schemas.WebhookQuotaShown.by_default(user, services().options.webhook_limits))
    return bodies.answer(schemas.WebhookQuotaShown.of_quota(quota))


@routes.put("/admin/quotas/webhooks/<user_id>")
@tag(["Administration"])
@operation_id("updateWebhookQuota")
@operation(
    body=schemas.WebhookQuotaUpdate,
    answers={200: schemas.WebhookQuotaShown, 201: schemas.WebhookQuotaShown},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def put_quota(user_id: str) -> Response:
    """Set what a user may do with webhooks at most

    Nothing that is there is taken away: who has more subscriptions than allowed gets no more.
    """
    await administrator()
    user = UserId(parse_uuid(user_id))
    given = await bodies.read_model(schemas.WebhookQuotaUpdate)
    made = audit.entry("webhook_quota.changed", f"account {user}", new=given.model_dump_json())
    quota, is_new = await context().to_the_end(_put(user, given.limits, made))
    return bodies.answer(schemas.WebhookQuotaShown.of_quota(quota), 201 if is_new else 200)


@routes.delete("/admin/quotas/webhooks/<user_id>")
@tag(["Administration"])
@operation_id("deleteWebhookQuota")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def delete_quota(user_id: str) -> Response:
    """Let a user's limits be those of everybody again"""
    await administrator()
    user = UserId(parse_uuid(user_id))
    await context().to_the_end(_remove(user, audit.entry("webhook_quota.removed", f"account {user}")))
    return bodies.no_content()


async def _put(user: UserId, limits: WebhookLimits, made: AuditEntry) -> tuple[WebhookQuota, bool]:
    stored = await services().webhook_quotas.put(user, limits, made)
    audit.logged(made)
    return stored


async def _remove(user: UserId, made: AuditEntry) -> None:
    await services().webhook_quotas.remove(user, made)
    audit.logged(made)
