"""Subscriptions to events, and the log of what was delivered. For administrators."""

import secrets

from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.context import administrator, context, parse_uuid, services
from api.documented import operation
from tmi.domain.errors import BadInput, NotFound, TooManyRequests
from tmi.domain.ids import DeliveryId, ThreatModelId, UserId, WebhookId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.webhooks import Delivery, NewWebhook, Webhook, WebhookLimits

routes = Blueprint("webhooks", __name__)

SECRET_BYTES = 32
MINUTE_S, DAY_S = 60, 24 * 3600
READ = (400, 401, 403, 404, 503)


@routes.get("/admin/webhooks/subscriptions")
@tag(["Webhooks"])
@operation_id("listWebhookSubscriptions")
@operation(
    query=schemas.WebhookQuery, answers={200: schemas.WebhookSubscriptions}, errors=(400, 401, 403, 503)
)
async def list_subscriptions() -> Response:
    """List the subscriptions to events, those of all administrators"""
    await administrator()
    query = bodies.read_query(schemas.WebhookQuery)
    model = None if query.threat_model_id is None else ThreatModelId(parse_uuid(query.threat_model_id))
    found, total = await services().webhooks.page(model, Page(query.limit, query.offset))
    return bodies.answer(
        schemas.WebhookSubscriptions(
            subscriptions=[schemas.WebhookSubscription.of(webhook) for webhook in found],
            total=total,
            limit=query.limit,
            offset=query.offset,
        )
    )


@routes.post("/admin/webhooks/subscriptions")
@tag(["Webhooks"])
@operation_id("createWebhookSubscription")
@operation(
    body=schemas.WebhookInput,
    answers={201: schemas.WebhookSubscription},
    errors=(400, 401, 403, 413, 415, 503),
)
async def create_subscription() -> Response:
    """Subscribe an endpoint to events

    It has to answer a challenge before it is sent any. The secret is in this answer and in no other.
    """
    owner = (await administrator()).user.id
    given = await bodies.read_model(schemas.WebhookInput)
    limits = await _limits_of(owner)
    await _count(owner, limits)
    url = given.url.strip()
    services().options.webhook_targets.target(url)
    model = ThreatModelId(parse_uuid(given.threat_model_id)) if given.threat_model_id else None
    secret = given.secret or secrets.token_urlsafe(SECRET_BYTES)
    new = NewWebhook(owner, given.name, url, frozenset(given.events), model, secret)
    made = audit.entry("webhook.created", f"webhook {given.name}", new=", ".join(sorted(new.events)))
    webhook = await context().to_the_end(_create(new, made))
    return bodies.answer(schemas.WebhookSubscription.of(webhook, secret), 201)


@routes.get("/admin/webhooks/subscriptions/<webhook_id>")
@tag(["Webhooks"])
@operation_id("getWebhookSubscription")
@operation(answers={200: schemas.WebhookSubscription}, errors=READ)
async def get_subscription(webhook_id: str) -> Response:
    """Get a subscription, without its secret"""
    await administrator()
    webhook = await services().webhooks.get(WebhookId(parse_uuid(webhook_id)))
    return bodies.answer(schemas.WebhookSubscription.of(webhook))


@routes.delete("/admin/webhooks/subscriptions/<webhook_id>")
@tag(["Webhooks"])
@operation_id("deleteWebhookSubscription")
@operation(answers={204: None}, errors=READ)
async def delete_subscription(webhook_id: str) -> Response:
    """Delete a subscription with its deliveries; what waited is not delivered any more"""
    await administrator()
    webhook = WebhookId(parse_uuid(webhook_id))
    await context().to_the_end(_remove(webhook, audit.entry("webhook.deleted", f"webhook {webhook}")))
    return bodies.no_content()


@routes.post("/admin/webhooks/subscriptions/<webhook_id>/test")
@tag(["Webhooks"])
@operation_id("testWebhookSubscription")
@operation(
    body=schemas.WebhookTest,
    needs_body=False,
    answers={202: schemas.WebhookTestResult},
    errors=(*READ, 413, 415),
)
async def test_subscription(webhook_id: str) -> Response:
    """Have an event that never happened delivered; what came of it is told by its delivery"""
    tester = (await administrator()).user.id
    webhook = WebhookId(parse_uuid(webhook_id))
    has_body = bool(request.content_length) or "Content-Type" in request.headers
    given = await bodies.read_model(schemas.WebhookTest) if has_body else schemas.WebhookTest()
    await _count(tester, await _limits_of(tester))
    event_type = given.event_type or "threat_model.updated"
    made = audit.entry("webhook.tested", f"webhook {webhook}", new=event_type)
    delivery = await context().to_the_end(_test(webhook, event_type, made))
    shown = schemas.WebhookTestResult(
        delivery_id=delivery.id,
        status=delivery.status.value,
        message="It is sent now; see /admin/webhooks/deliveries for what comes of it.",
    )
    return bodies.answer(shown, 202)


@routes.get("/admin/webhooks/deliveries")
@tag(["Webhooks"])
@operation_id("listWebhookDeliveries")
@operation(query=schemas.DeliveryQuery, answers={200: schemas.WebhookDeliveries}, errors=(400, 401, 403, 503))
async def list_deliveries() -> Response:
    """List deliveries, newest first"""
    await administrator()
    query = bodies.read_query(schemas.DeliveryQuery)
    webhook = None if query.subscription_id is None else WebhookId(parse_uuid(query.subscription_id))
    found, total = await services().deliveries.page(webhook, Page(query.limit, query.offset))
    return bodies.answer(
        schemas.WebhookDeliveries(
            deliveries=[schemas.WebhookDelivery.of(delivery) for delivery in found],
            total=total,
            limit=query.limit,
            offset=query.offset,
        )
    )


@routes.get("/admin/webhooks/deliveries/<delivery_id>")
@tag(["Webhooks"])
@operation_id("getWebhookDelivery")
@operation(answers={200: schemas.WebhookDelivery}, errors=READ)
async def get_delivery(delivery_id: str) -> Response:
    """Get a delivery: what was sent, how often it was tried, and what went wrong"""
    await administrator()
    delivery = await services().deliveries.get(DeliveryId(parse_uuid(delivery_id)))
    return bodies.answer(schemas.WebhookDelivery.of(delivery))


async def _create(new: NewWebhook, made: AuditEntry) -> Webhook:
    try:
        webhook = await services().webhooks.create(new, services().options.webhook_limits, made)
    except NotFound as error:
        raise BadInput(error.detail) from None  # of the body, not of the path
    audit.logged(made)
    services().wake_webhooks()
    return webhook


async def _remove(webhook: WebhookId, made: AuditEntry) -> None:
    await services().webhooks.remove(webhook, made)
    audit.logged(made)


async def _test(webhook: WebhookId, event_type: str, made: AuditEntry) -> Delivery:
    delivery = await services().deliveries.test(webhook, event_type, made)
    audit.logged(made)
    services().wake_webhooks()
    return delivery


async def _limits_of(user: UserId) -> WebhookLimits:
    quota = await services().webhook_quotas.of(user)
    return services().options.webhook_limits if quota is None else quota.limits


async def _count(user: UserId, limits: WebhookLimits) -> None:
    """Raises TooManyRequests."""
    for window_s, limit in ((MINUTE_S, limits.requests_per_min), (DAY_S, limits.requests_per_day)):
        if await services().rate_limits.hit(f"webhooks:{user}", window_s) > limit:
            raise TooManyRequests(f"you may make or test {limit} subscriptions within {window_s} s")
