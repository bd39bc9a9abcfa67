"""The few pages that people see while they sign in: HTML without a script, and nothing from elsewhere.

Everything that comes from outside is escaped where it is put in. The policy allows one style sheet, by its
digest, and no script, frame or base; what may be submitted to is said by each page.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

from quart import Response, request

STYLE = """
:root { color-scheme: light dark; --line: #8a8f98; --deed: #1f5fbf; --on-deed: #fff; }
@media (prefers-color-scheme: dark) { :root { --deed: #9cc2ff; --on-deed: #0b1a33; } }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; display: grid; min-height: 100vh;
  place-items: center; }
main { width: min(24rem, 100vw - 3rem); padding: 1.5rem 0; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; }
label { display: block; font-weight: 600; margin-bottom: .25rem; }
input, button, .deed { font: inherit; box-sizing: border-box; width: 100%; min-height: 2.75rem;
  padding: .5rem .75rem; border: 1px solid var(--line); border-radius: .5rem; display: block;
  text-align: start; text-decoration: none; }
button, .deed { cursor: pointer; background: Canvas; color: CanvasText; }
button:hover, .deed:hover { border-color: var(--deed); }
.first { background: var(--deed); color: var(--on-deed); border-color: var(--deed); margin-top: .5rem;
  text-align: center; font-weight: 600; }
:focus-visible { outline: 3px solid var(--deed); outline-offset: 2px; }
.hint { margin: .25rem 0 0; font-size: .875rem; }
"""
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to sign in."""

    id: str
    name: str


def is_wanted() -> bool:
    """Whether a browser asks for a page, and not a program for an answer."""
    return "text/html" in request.headers.get("Accept", "").lower()


def choose_provider(choices: Sequence[Choice], parameters: Mapping[str, str]) -> Response:
    """Let people say where they have an account. `parameters`: those of the authorization request."""
    items = "".join(
        f'<li><a class="deed" href="/oauth2/authorize?{escape(urlencode({**parameters, "idp": choice.id}))}">'
        f"Continue with {escape(choice.name)}</a></li>"
        for choice in choices
    )
    return _page("Sign in to TMI", f"<p>Where do you have an account?</p><ul>{items}</ul>")


def choose_name(
    names: Sequence[str], parameters: Mapping[str, str], typed: str | None, submits_to: str
) -> Response:
    """Let people say who they are, which the development provider believes.

    The forms send by GET what a script would send. `submits_to`: where the answer to a form may lead.
    """
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in parameters.items()
    )
    buttons = "".join(
        f'<li><button name="login_hint" value="{escape(name)}">{escape(name)}</button></li>' for name in names
    )
    picked = (
        f'<h2 id="known">Or as</h2><form action="/oauth2/authorize">{hidden}'
        f'<ul aria-labelledby="known">{buttons}</ul></form>'
        if names
        else ""
    )
    return _page(
        "Sign in to TMI",
        "<p>This is the development provider: it asks for no password and believes any name.</p>"
        f'<form action="/oauth2/authorize">{hidden}<label for="name">Your name</label>'
        f'<input id="name" name="login_hint" required maxlength="64" pattern="[a-zA-Z0-9._%+\\-]+" '
        'title="Letters, digits and . _ % + -" autocomplete="username" autocapitalize="none" '
        f'spellcheck="false" autofocus aria-describedby="hint" value="{escape(typed or "")}">'
        '<p class="hint" id="hint">Letters, digits and . _ % + - without spaces: '
        "alice becomes alice@tmi.local</p>"
        f'<button class="first">Sign in</button></form>{picked}',
        form_action=submits_to,
    )


def problem(error: str, description: str, status: int = 400) -> Response:
    """Tell people why they can't sign in."""
    text = description[:1].upper() + description[1:]
    return _page(
        "You are not signed in", f"<p>{escape(text)}.</p><p class='hint'>({escape(error)})</p>", status
    )


def _page(title: str, body: str, status: int = 200, form_action: str = "'none'") -> Response:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>"
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; form-action {form_action}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return Response(html, status, headers, content_type="text/html; charset=utf-8")
