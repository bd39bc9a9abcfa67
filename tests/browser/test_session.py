"""An editor's page in a real browser: it signs in by cookie, writes, and edits; pages of others do nothing.

The page stands where an editor will: on the service's own origin. It is put there by the test, with stock
y-websocket as its modules; everything it asks of the service goes over TLS to the real one.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route

from tests.harness.certificates import Authority
from tests.harness.node import INTEROP
from tests.harness.service import Service

MODULES = INTEROP / "node_modules"
IMPORTS = {
    "yjs": "/modules/yjs/dist/yjs.mjs",
    "y-websocket": "/modules/y-websocket-3/src/y-websocket.js",
    "lib0/": "/modules/lib0/",
    "y-protocols/": "/modules/y-protocols/",
}
EDITOR = f"""<!doctype html><title>Editor</title>
<script type="importmap">{json.dumps({"imports": IMPORTS})}</script>
<script type="module">
import * as Y from 'yjs'
import {{ WebsocketProvider }} from 'y-websocket'
window.editor = {{ Y, WebsocketProvider }}
</script>"""

WRITE = """async ([path, body, token]) => {
  const headers = { 'content-type': 'application/json', ...(token && { 'x-csrf-token': token }) }
  const answer = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) })
  return { status: answer.status, body: answer.status === 204 ? null : await answer.json() }
}"""

EDIT = """async ([id, name]) => {
  const { Y, WebsocketProvider } = window.editor
  const doc = new Y.Doc()
  const base = location.origin.replace('http', 'ws') + '/collab'
  const provider = new WebsocketProvider(base, id, doc, { disableBc: true })
  window.provider = provider
  provider.on('connection-close', event => { window.endedWith = event?.code })
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('no sync')), 10000)
    provider.once('sync', resolve)
  })
  doc.getMap('meta').set(name, 1)
  return provider.ws.url
}"""

FOLLOW = """url => new Promise(resolve => {
  window.changes = []
  const events = window.events = new EventSource(url, { withCredentials: true })
  events.addEventListener('change', ({ data, lastEventId }) => {
    window.changes.push({ ...JSON.parse(data), number: lastEventId })
  })
  events.onopen = () => resolve('open')
  events.onerror = () => resolve('failed')
})"""

FOREIGN_WRITE = """async ([url, body]) => {
  const tries = [
    fetch(url, { method: 'POST', credentials: 'include', body }),
    fetch(url, { method: 'POST', credentials: 'include', mode: 'no-cors', body }),
    fetch(url, { method: 'POST', credentials: 'include', body, headers: { 'x-csrf-token': 'x' } }),
    fetch(url, { credentials: 'include' }),
  ]
  const outcome = await Promise.allSettled(tries)
  return outcome.map(one => one.status === 'rejected' ? 'blocked' : one.value.type)
}"""

FOREIGN_SOCKET = """url => new Promise(resolve => {
  const socket = new WebSocket(url)
  socket.onopen = () => resolve('open')
  socket.onclose = event => resolve(event.code)
})"""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """With TLS and a public address, as in production, and the development provider."""
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    Authority(tmp_path).issue().write(certificate, key)
    tls = {"TMI_TLS_CERT_FILE": str(certificate), "TMI_TLS_KEY_FILE": str(key)}
    service = Service(tmp_path / "data", tls)
    try:
        service.start({"TMI_PUBLIC_URL": service.url})
        yield service
    finally:
        service.end()


async def _module(route: Route) -> None:
    path = MODULES / route.request.url.partition("/modules/")[2]
    found = path if path.is_file() else path.with_name(path.name + ".js")
    await route.fulfill(body=found.read_text(), content_type="text/javascript")


async def open_editor(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(f"{url}/editor")
    await page.wait_for_function("window.editor !== undefined")
    return page


async def test_an_editor_works_by_cookie_and_pages_of_others_do_not(
    service: Service, chromium: Browser
) -> None:
    url = service.url
    context = await chromium.new_context(ignore_https_errors=True)
    await context.route("**/modules/**", _module)
    await context.route(f"{url}/editor", lambda route: route.fulfill(body=EDITOR, content_type="text/html"))
    page = await context.new_page()
    await page.goto(f"{url}/session/sign-in?idp=tmi&login_hint=alice&return_to=/editor")
    assert f"{url}/editor" == page.url, await page.content()
    page = await open_editor(context, url)

    # The cookie is out of reach of scripts, and of the kind that no other host can set.
    (cookie,) = [one for one in await context.cookies() if one["name"].endswith("tmi_session")]
    assert ("__Host-tmi_session", True, True, "Lax") == (
        cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]
    )  # fmt: skip
    assert "tmi_session" not in await page.evaluate("document.cookie")

    # A write needs the token.
    session = await page.evaluate("fetch('/session').then(answer => answer.json())")
    assert "alice@tmi.local" == session["user"]["email"]
    token = session["csrf_token"]
    new = ["/threat_models", {"name": "Shop"}]
    assert 403 == (await page.evaluate(WRITE, [*new, None]))["status"]
    made = await page.evaluate(WRITE, [*new, token])
    assert 201 == made["status"], made
    model = f"/threat_models/{made['body']['id']}"
    path = f"{model}/diagrams"
    assert "open" == await page.evaluate(FOLLOW, f"{model}/events")
    diagram = (await page.evaluate(WRITE, [path, {"name": "Flow", "type": "DFD-1.0.0"}, token]))["body"]["id"]

    # It follows what happens by the cookie alone.
    await page.wait_for_function("window.changes.length > 0", timeout=2000)
    (change,) = await page.evaluate("window.changes")
    assert ("created", diagram) == (change["change_type"], change["object_id"])
    assert int(change["number"]) > 0

    # Two pages edit one diagram with nothing but the cookie.
    other = await open_editor(context, url)
    address = await page.evaluate(EDIT, [diagram, "mine"])
    assert address.startswith("wss://")
    assert "token" not in address
    await other.evaluate(EDIT, [diagram, "others"])
    both = "['mine', 'others'].every(name => window.provider.doc.getMap('meta').has(name))"
    for one in (page, other):
        await one.wait_for_function(both)

    # A page of another port is of the same site, so the cookie comes along; one of another site is not.
    for place in ("https://127.0.0.1:9/", "https://evil.example.net/"):
        await context.route(place, lambda route: route.fulfill(body="<p>evil", content_type="text/html"))
        evil = await context.new_page()
        await evil.goto(place)
        outcome = await evil.evaluate(FOREIGN_WRITE, [f"{url}/threat_models", '{"name": "Evil"}'])
        assert ["blocked"] * 4 == outcome
        assert "failed" == await evil.evaluate(FOLLOW, f"{url}{model}/events")
        assert 1006 == await evil.evaluate(FOREIGN_SOCKET, f"{url.replace('https', 'wss')}/collab/{diagram}")
    listed = await page.evaluate("fetch('/threat_models').then(answer => answer.json())")
    assert ["Shop"] == [model["name"] for model in listed["threat_models"]]

    # Signing out closes the sockets and streams of all pages, and the cookie is gone.
    assert 204 == (await page.evaluate(WRITE, ["/session/sign-out", None, token]))["status"]
    for one in (page, other):
        await one.wait_for_function("window.endedWith === 4401", timeout=2000)
    await page.wait_for_function("window.events.readyState === EventSource.CLOSED", timeout=5000)
    assert 401 == await page.evaluate("fetch('/session').then(answer => answer.status)")
    assert [] == [one for one in await context.cookies() if one["name"].endswith("tmi_session")]
    await context.close()
