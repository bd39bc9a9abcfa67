"""Why this API differs from the contract, by what differs. The first rule that fits counts.

A rule is a pattern of the operation, one of the difference (`differences.py`), and the reason.
"""

_OAUTH = r"(GET|POST) /(oauth2|\.well-known)/.*"
_ANY = r".*"

REASONS: tuple[tuple[str, str, str], ...] = (
    # Statuses.
    (r"DELETE .*", r"answer 406 .*", "Its answer has no body, so it takes any `Accept`."),
    (r"GET /oauth2/authorize", r"answer 406 .*", "It answers with a redirect, so it takes any `Accept`."),
    (
        r"DELETE .*|POST .*/(restore|collaborate|rollback)",
        r"answer 415 .*",
        "It takes no body, so there is no media type to refuse.",
    ),
    (
        r"POST .*/(threats|assets|documents|notes|repositories)(/bulk)?|(PUT|PATCH) .*/metadata/.*"
        r"|PUT .*/(notes|repositories)/\{\}|PUT .*/threats/bulk",
        r"answer 409 .*",
        "There is nothing that it could contradict: what is new, what has no version, metadata that replace others.",
    ),
    (
        r"(DELETE|POST|PUT|PATCH) /threat_models/.*",
        r"answer 409 .*",
        "The contract refuses this while people edit the diagram; here it is merged with what they do, or their "
        "editors are closed.",
    ),
    (
        r"PATCH /threat_models/\{\}/diagrams/\{\}",
        r"answer 422 .*",
        "What the contract answers with 422 is 400 with the cell and the reason, or 409 for a failed `test`.",
    ),
    (
        r"GET /(me|me/groups|me/preferences|oauth2/userinfo|oauth2/providers|threat_models|config|admin/settings)",
        r"answer (400|403) .*",
        "Nothing leads to it: there is nothing in the request that could be wrong.",
    ),
    (r"POST /admin/users/.*/client_credentials", r"answer 409 .*", "A new credential has no version to contradict."),
    (r"POST /me/logout", r"answer (400|406|415) .*", "It takes no body and answers without one."),
    (r"GET /me/sessions", r"answer 400 .*", "There is nothing in the request that could be wrong."),
    (
        r"POST /oauth2/(token|refresh)",
        r"answer 200: refresh_token may be missing",
        "RFC 6749, section 4.4.3: a client credential gets none. Everybody else does.",
    ),
    (r"DELETE /admin/users/\{\}", r"answer 409 .*", "What nobody else owns goes with the account."),
    (r"DELETE /threat_models/\{\}", r"answer 409 .*", "Open editors are closed instead."),
    (
        r"GET /oauth2/callback",
        r"answer (200|406) .*",
        "It answers with a redirect to the client, also with what went wrong.",
    ),
    (
        r"POST /admin/settings/reencrypt",
        r"answer .*",
        "No setting is stored encrypted: secrets come from the environment alone, so there is nothing to encrypt anew.",
    ),
    (r"GET /config", r"answer 200: content_providers.*", "No document is fetched from content providers."),
    (_OAUTH, r"answer (401|403|404|409) .*", "RFC 6749, section 5.2: 400 with the reason in `error`."),
    (r"POST /threat_models/\{\}/documents", r"answer 202 .*", "No document is fetched, so none is pending."),
    (
        r"POST /admin/webhooks/subscriptions/\{\}/test",
        r"answer 200 .*",
        "It answers 202: what came of the test is told by its delivery.",
    ),
    # Fields of answers.
    (
        r"GET /admin/webhooks/deliveries.*",
        r"answer 200: .*(invoked_by|addon_id|status_message).*",
        "Add-ons belong to another product.",
    ),
    (
        _ANY,
        r"answer \d+: (.*\.)?(display_name|email) may be missing",
        "A grant may name somebody who never signed in: then there is no more than the provider's id. It is there "
        "for everybody who did.",
    ),
    (
        _ANY,
        r"answer \d+: (.*\.)?(owner|created_by) may be missing",
        "There is none once the account is deleted.",
    ),
    (_ANY, r"answer \d+: documents.*|answer \d+: .*access_(diagnostics|status_updated_at).*", "No document is fetched from content providers."),
    (
        _ANY,
        r"answer \d+: (diagrams\[\]\.)?auto_generated is never given",
        "People and programs draw a diagram together. Its trail says who made it, and who drew what.",
    ),
    (_ANY, r"answer \d+: diagrams\[\]\..*", "A diagram's own operation has its cells and all that comes with them."),
    (_ANY, r"answer \d+: notes\[\]\.content .*", "A note's own operation has its content."),
    (_ANY, r"answer \d+: .*(asset|document|note|repo|threat)_count may be missing", "Always there, though not documented as such."),
    (_ANY, r"answer \d+: (members\[\]\.)?subject_type may be missing", "Groups have no groups in them, so it would say `user`."),
    (_ANY, r"answer \d+: (members\[\]\.)?member_group_.*", "Groups have no groups in them."),
    (_ANY, r"answer \d+: project_id .*", "Projects belong to another product."),
    (r"POST /oauth2/introspect", r"answer 200: scope .*", "No token has a scope: what its user may do is looked up."),
    (_ANY, r"answer \d+: .*survey_response.*", "Surveys belong to another product."),
    (
        r"GET /me",
        r"answer 200: (groups|is_admin|is_security_reviewer) may be missing",
        "Always there, though not documented as such; the groups are at `/me/groups`, too.",
    ),
    (_OAUTH, r"answer 200: token_type may be missing", "Always there, though not documented as such."),
    (r"GET .*/model", r"answer 200: assets\[\].*", "They are there, as `/assets` shows them; the document does not repeat their fields."),
    (
        r"GET /",
        r"answer 200: (health|operator)[. ].*",
        "No setting names an operator; how the service's parts are is asked at `/readyz` and `/metrics`.",
    ),
    # Bodies.
    (
        r"POST /admin/webhooks/subscriptions",
        r"body: events\[\]: only .*",
        "Those of the contract's `WebhookEventType`; nothing would ever come of another.",
    ),
    (r"POST /admin/groups/\{\}/members", r"body: .*", "Groups have no groups in them."),
    (r"POST /oauth2/refresh", r"body: refresh_token is required", "Without it there is nothing to refresh."),
    (r"PUT .*/documents/bulk", r"body: .*picker_registration.*", "As `POST` requires of the same object."),
    (r"PUT .*/repositories/bulk", r"body: \[\]\.name(: null)? is (required|not taken)", "As `PUT` of one requires."),
    # Bounds of what is sent.
    (
        _ANY,
        r"(parameter|body).*: pattern `(\^\$\|)?\^\[0-9a-fA-F\]\{8\}-.*",
        "An id is a UUID, whose groups have their lengths; what is none would be the id of nothing.",
    ),
    (
        _ANY,
        r"(parameter|body).*: pattern `\^\[\^[^`]*\\x00-.*",
        "Control characters are refused everywhere (so is whatever else is not seen and changes what is).",
    ),
    (r"GET .*", r"parameter query:\w+\[\]: maxLength 256 .*", "No value that could be found is longer."),
    (
        r"PUT .*/metadata/\{\}",
        r"body: value: minLength 1 .*",
        "An empty value could not be read back: the contract's `Metadata` has none.",
    ),
    (r"PATCH /admin/users/\{\}", r"body: name: minLength 1 .*", "Everybody has a name."),
    (r"DELETE /me", r"parameter query:challenge: minLength 1 .*", "An empty challenge is 400 either way."),
    (r"DELETE /admin/groups/.*", r"parameter query:subject_type: .*", "Groups have no groups in them."),
    (
        r"GET /oauth2/authorize",
        r"parameter query:scope: pattern .*",
        "A scope of one letter is taken as well.",
    ),
    (
        r"GET /oauth2/authorize",
        r"parameter query:code_challenge: pattern .*",
        "The same: its length is in `minLength` and `maxLength`.",
    ),
    (r"GET /oauth2/callback", r"parameter query:state: pattern .*", "An empty state finds nothing: 400 either way."),
    (
        r"POST /oauth2/(token|refresh)",
        r"body: \w+: (min|max)Length .*|body: \w+: pattern .*",
        "What is longer or has other characters was not given out here, or is no PKCE verifier (RFC 7636, section 4.1): "
        "400 either way.",
    ),
    (
        r"GET .*/threats",
        r"parameter query:sort: pattern .*",
        "What it sorts by. Another field would sort nothing, and is 400.",
    ),
    (
        r"POST /oauth2/token",
        r"body: grant_type: null is taken, too",
        "It is 400 in OAuth's own words, as without it.",
    ),
    (
        r"GET /oauth2/authorize",
        r"parameter query:client_callback: .*taken, too",
        "The list of callbacks decides (`TMI_CLIENT_CALLBACKS`), which may hold those of programs on a desk.",
    ),
    (r"GET /oauth2/callback", r"parameter query:code: minLength .*", "An empty code is 400 either way."),
    (
        r"POST /oauth2/(introspect|revoke)",
        r"body: token: maxLength 4096, wider than .*",
        "An access token has no bound in RFC 7519, and those of other services are asked about, too.",
    ),
    (
        r"POST /oauth2/revoke",
        r"body: token_type_hint: taken are also any word",
        "RFC 7009, section 2.1: a hint that is not known is ignored.",
    ),
    (
        _ANY,
        r"parameter path:\d: maxLength 256, wider than 255",
        "As long as a key may be in a body, or there were keys that no path leads to.",
    ),
    (
        r".*/metadata/bulk",
        r"body: the whole: maxItems 100, wider than 20",
        "The contract takes 100 at once of some kinds and 20 of others; here it is one bound for all, that of how many "
        "there may be.",
    ),
    (
        r"PUT .*/metadata/\{\}",
        r"body: value: (maxLength 1024, wider than 1000|whatever .*)",
        "What may be created may be written back: the contract's `Metadata` has 1,024 characters of any kind.",
    ),
    (
        r"PUT .*/diagrams/\{\}",
        r"body: cells\[\]\..* (is|are) taken, too|body: cells\[\]\.parent: maxLength .*",
        "Editors write cells on their sockets, and what `GET` shows can be put back. What a cell needs is checked "
        "where a write changes it.",
    ),
    (
        _ANY,
        r"body: (.*\.)?(description|name|email|email_verified|display_name|expires_at|secret|event_type|svg|update_vector): "
        r"null is taken, too",
        "As if it were left out: many clients write what they have no value for as `null`.",
    ),
    (r"PUT .*/assets/\{\}/metadata/\{\}", r"body: key: null is taken, too", "As if it were left out: the path has it."),
    (r"PUT .*/diagrams/\{\}", r"body: image\.update_vector: exclusiveMaximum .*", "It counts in 64 bits."),
    # Values that are answered.
    (_ANY, r"answer \d+: cells\[\].* may be null", "Cells are shown as their editors wrote them, `null` apart from absent."),
)
