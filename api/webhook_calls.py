"""What endpoints of webhooks are sent, for the OpenAPI document (its `webhooks`, OpenAPI 3.1)."""

from typing import Any

from api.schemas import WebhookChallenge, WebhookChallengeAnswer, WebhookEvent

_HEADERS = {
    "webhook-id": "The delivery, the same each time that it is tried.",
    "webhook-timestamp": "When it is sent, in seconds since 1970. Refuse what is more than five minutes off.",
    "webhook-signature": "`v1,` and base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`.",
    "X-Webhook-Event": "The type of the event.",
    "X-Webhook-Subscription-Id": "The subscription.",
    "X-Webhook-Signature": "`sha256=` and the hex of HMAC-SHA256 over the body alone.",
}
_MODELS = (WebhookEvent, WebhookChallenge, WebhookChallengeAnswer)


def components() -> dict[str, Any]:
    """The schemas that `calls` refers to."""
    found: dict[str, Any] = {}
    for model in _MODELS:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def calls() -> dict[str, Any]:
    """The document's `webhooks`."""
    told = "Answer 2xx within some seconds. Everything else is tried again; 410 ends it."
    asked = "Answer with the challenge, or nothing is sent here."
    answer = {"description": asked, "content": _json(WebhookChallengeAnswer)}
    taken = {"2XX": {"description": told}, "410": {"description": "It is not tried again."}}
    return {
        "event": {"post": _call("receiveWebhookEvent", "Something changed", WebhookEvent, taken)},
        "challenge": {
            "post": _call(
                "receiveWebhookChallenge", "Show that you want events", WebhookChallenge, {"200": answer}
            )
        },
    }


def _call(name: str, summary: str, body: type[Any], answers: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["Webhooks"],
        "security": [],
        "parameters": [
            {
                "name": header,
                "in": "header",
                "required": True,
                "description": text,
                "schema": {"type": "string"},
            }
            for header, text in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": _json(body)},
        "responses": answers,
    }


def _json(model: type[Any]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
