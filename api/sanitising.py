"""What people write, made safe to show: the one place that says which characters and which HTML are taken.

Characters that are not seen and change what is seen are refused, with a sentence that names them: control
characters, overrides and isolates of direction, invisible separators. Joiners stay, since scripts and emoji
need them.

Markdown may hold HTML of an allow-list; nh3 judges it, and takes out the rest. nh3 reads HTML, and Markdown
is none: code is left alone, where `<script>` is text, and so are links in angle brackets and lone `<`. That
must never be a way around nh3. So less counts as code here than in CommonMark, whatever parses it later:

- A fence begins a line, in the first column: there it cannot be inside of a list or a quotation, so that it
  ends where its closing fence is.
- A code span begins and ends on one line.
- Neither counts after a tag and before the next blank line, since that may be a block of raw HTML, in which
  backquotes mean nothing. `<pre>`, whose block does not end with a blank line, is not on the list.
- A `<` that begins no tag of the usual form is written `&lt;`, so that nothing opens where we saw nothing.
- What nh3 takes out may change what is code: so it is asked again until nothing changes. Then all that was
  said of code holds for the text that is kept.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from html import unescape

import nh3

_SVG = {
    "svg": {"viewBox", "width", "height", "xmlns", "preserveAspectRatio"},
    "g": {"transform"},
    "path": {"d"},
    "rect": {"x", "y", "width", "height", "rx", "ry"},
    "circle": {"cx", "cy", "r"},
    "ellipse": {"cx", "cy", "rx", "ry"},
    "line": {"x1", "y1", "x2", "y2"},
    "polyline": {"points"},
    "polygon": {"points"},
    "text": {"x", "y", "dx", "dy", "text-anchor", "font-size"},
    "tspan": {"x", "y", "dx", "dy"},
}
_PAINT = {"fill", "stroke", "stroke-width", "opacity", "transform"}
_TAGS = (nh3.ALLOWED_TAGS - {"pre", "map", "area"}) | set(_SVG)
_ATTRIBUTES = {**nh3.ALLOWED_ATTRIBUTES, **{tag: names | _PAINT for tag, names in _SVG.items()}}
_SCHEMES = {"http", "https", "mailto"}

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u2028\u2029\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Noncharacters are among them: two of those mark places below. Joiners (U+200C, U+200D) and variation
selectors are not, since scripts and emoji need them.
"""
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f")
"""A flag of a part of a country, all that tag characters are good for (Unicode TS 51, annex C)."""
_BLANK = re.compile("[\\s\u200c\u200d\u2800\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
"""What shows nothing by itself."""

_VALUE = r"""\s*=\s*(?:[^\s"'=<>`]+|'[^']*'|"[^"]*")"""
_TAG = rf"</?[A-Za-z][A-Za-z0-9-]*(?:\s+[A-Za-z_:][\w:.-]*(?:{_VALUE})?)*\s*/?>"
_TOKEN = re.compile(rf"\\`+|`+|(?P<link><(?:https?://|mailto:)[^\s<>]*>)|(?P<tag>{_TAG})|(?P<open><)")
_LONE = re.compile(rf"(?P<tag>{_TAG})|<")
_KEPT = {tag.lower() for tag in _TAGS}
_NAME = re.compile(r"</?([A-Za-z][A-Za-z0-9-]*)")
_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,})")
_BACKQUOTES = re.compile("`+")
_ENTITY = re.compile(r"&amp;(?!#?\w+;)")
_HARMLESS = re.compile(r"&lt;(?=[\s0-9=]|$)")
_HELD = re.compile("\ufdd0([0-9]+)\ufdd1")
_SCRIPTS = {"javascript", "vbscript", "data"}
_PICTURE = re.compile(r"image/(?:png|gif|jpeg|webp)[;,]", re.IGNORECASE)
_LINK = re.compile(
    r"(?P<before>(?:\]\(|(?P<definition>^(?:[^\]\n\\]|\\[^\n])*\]:))(?:\s|<|&lt;)*)"
    r"(?P<scheme>[A-Za-z](?:\\?[A-Za-z0-9+.-]){0,63})\s*\\?:",
    re.MULTILINE,
)
"""A link or an image, or a definition of one, whose destination has a scheme. A backslash before punctuation
is not part of the destination (CommonMark, section 2.4). A definition's label ends with the first bracket of
its line, and is looked for once a line.
"""
_ENDS_DEFINITION = re.compile(r"\S*[ \t]*(?:\n|$|[\"'(])")
"""What follows a destination of a definition: nothing, or a title (section 4.7). Other text is text."""
_ROUNDS = 6
_MOST_INDENTED = 3


def checked(text: str) -> str:
    """The text itself. Raises ValueError for a character that is not seen and changes what is."""
    found = _UNSEEN.search(_FLAG.sub("", text) if "\U0001f3f4" in text else text)
    if found is not None:
        raise ValueError(f"it holds the character U+{ord(found[0]):04X}, which is not seen")
    return text


def plain(text: str) -> str:
    """Text without any HTML: tags go, what is between them stays. Raises ValueError as `checked` does."""
    checked(text)
    for _ in range(_ROUNDS):
        if "<" not in text and "&" not in text:
            return text
        bare = unescape(nh3.clean(_with_lone_brackets_escaped(text), tags=set()))
        if bare == text:
            return text
        text = bare
    raise ValueError("it holds HTML that is escaped many times over")


def not_empty(text: str) -> str:
    """The text itself. Raises ValueError for nothing that is seen."""
    if _BLANK.fullmatch(text) or not text:
        raise ValueError("nothing is left of it without its HTML and space")
    return text


def markdown(text: str) -> str:
    """Markdown with no HTML but that of the allow-list. Links lead to the web, to an address of mail or to a
    place beside: a scheme that is none of these gives way to a `#`, so that the link leads nowhere.

    Raises ValueError for characters that are not seen, and for a link to a script.
    """
    checked(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for _ in range(_ROUNDS):
        cleaned = _cleaned_once(text)
        if cleaned == text:
            return text
        text = cleaned
    raise ValueError("it holds HTML that is put together in an odd way")


def _cleaned_once(text: str) -> str:
    held: list[str] = []
    has_html = "<" in text or "&" in text
    if has_html or "](" in text or "]:" in text:
        text = _prepared(text, held)
    if has_html:
        text = nh3.clean(text, tags=_TAGS, attributes=_ATTRIBUTES, url_schemes=_SCHEMES, link_rel=None)
        text = _ENTITY.sub("&", text.replace("&gt;", ">").replace("&nbsp;", "\u00a0"))
        text = _HARMLESS.sub("<", text)
    text = _LINK.sub(_with_known_scheme, text)
    return _HELD.sub(lambda match: held[int(match[1])], text)


def _with_known_scheme(link: re.Match[str]) -> str:
    scheme, text, end = link["scheme"].replace("\\", "").lower(), link.string, link.end()
    if scheme in _SCRIPTS:
        if scheme == "data" and _PICTURE.match(text, end):
            return link[0]
        raise ValueError("it holds a link to a script")
    is_text = link["definition"] and not _ENDS_DEFINITION.match(text, end)
    return link[0] if scheme in _SCHEMES or is_text else f"{link['before']}#"


def _prepared(text: str, held: list[str]) -> str:
    """The text for nh3, with marks in the place of what it shall not see."""
    out: list[str] = []
    block: list[str] = []
    has_tags = False
    fence = ""

    def hold(part: str) -> str:
        held.append(part)
        return f"\ufdd0{len(held) - 1}\ufdd1"

    def end_block() -> None:
        nonlocal has_tags
        if block:
            done, has_tags = _prepared_block("".join(block), hold, has_tags)
            out.append(done)
            block.clear()

    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\n")
        if fence:
            out.append(hold(line))
            if _closes(bare, fence):
                fence = ""
            continue
        opening = _FENCE.match(bare)
        if opening is not None:
            end_block()
        if opening is not None and not has_tags:
            fence = opening[1] or opening[2]
            out.append(hold(line))
        elif not bare.strip():
            end_block()
            has_tags = False
            out.append(line)
        else:
            block.append(line)
    end_block()
    return "".join(out)


def _closes(line: str, fence: str) -> bool:
    """Whether a line ends a fence: at least as many of its characters, indented by three spaces at most."""
    marks = line.strip(" ")
    indented = len(line) - len(line.lstrip(" "))
    return indented <= _MOST_INDENTED and len(marks) >= len(fence) and marks == fence[0] * len(marks)


def _prepared_block(text: str, hold: Callable[[str], str], has_tags: bool) -> tuple[str, bool]:
    """Lines without a blank one among them, and whether they hold tags."""
    out: list[str] = []
    runs = [(m.start(), m.end()) for m in _BACKQUOTES.finditer(text)]
    by_length: dict[int, list[int]] = {}
    for start, end in runs:
        by_length.setdefault(end - start, []).append(start)
    place = 0
    while (token := _TOKEN.search(text, place)) is not None:
        out.append(text[place : token.start()])
        place = token.end()
        part = token[0]
        if token["tag"]:
            match = _NAME.match(part)
            has_tags = has_tags or (match is not None and match[1].lower() in _KEPT)
            out.append(part)
        elif token["link"]:
            out.append(part.replace("<", "&lt;", 1) if has_tags else hold(part))
        elif token["open"]:
            out.append("&lt;")
        elif part[0] == "`" and not has_tags:
            closed = _end_of_span(text, token.end(), len(part), by_length)
            out.append(part if closed is None else hold(text[token.start() : closed]))
            place = closed or place
        else:
            out.append(part)
    out.append(text[place:])
    return "".join(out), has_tags


def _end_of_span(text: str, start: int, length: int, by_length: dict[int, list[int]]) -> int | None:
    """Where a code span ends that begins with so many backquotes, if it ends on its line."""
    places = by_length.get(length, [])
    at = bisect_left(places, start)
    if at == len(places):
        return None
    line_end = text.find("\n", start)
    return None if -1 < line_end < places[at] else places[at] + length


def _with_lone_brackets_escaped(text: str) -> str:
    return _LONE.sub(lambda match: match[0] if match["tag"] else "&lt;", text)
