"""What people write, made safe to show."""

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import sanitising

DANGEROUS = {"script", "style", "iframe", "object", "embed", "form", "pre", "template", "math", "base"}


@pytest.mark.parametrize(
    "character",
    ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\u200b", "\u2028", "\u202a", "\u202e", "\u2066", "\u2069",
     "\u2060", "\ufeff", "\ufff9", "\ufdd0", "\uffff", "\U000e0001", "\u00ad", "\u034f", "\u115f",
     "\u200e", "\u200f", "\u3164", "\uffa0", "\U000e0041", "\U000e007f"],
    ids=lambda character: f"U+{ord(character):04X}",
)  # fmt: skip
def test_a_character_that_is_not_seen_is_refused_by_name(character: str) -> None:
    for check in (sanitising.checked, sanitising.plain, sanitising.markdown):
        with pytest.raises(ValueError, match=re.escape(f"U+{ord(character):04X}")):
            check(f"pay{character}load")


@pytest.mark.parametrize("text", ["", " ", "\u200d", "\u200c \u2800", "\ufe0f\n", "\U000e0100"])
def test_a_name_of_which_nothing_is_seen_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="nothing is left"):
        sanitising.not_empty(text)


@pytest.mark.parametrize(
    "text",
    ["Zürich", "日本語", "נתונים", "می‌خواهم", "👩‍💻", "a\tb", "line\nline", "e\u0301", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"],
)
def test_scripts_and_emoji_stay_as_they_are(text: str) -> None:
    assert [text, text, text] == [
        sanitising.checked(text),
        sanitising.plain(text),
        sanitising.markdown(text),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("R&D <b>shop</b>", "R&D shop"),
        ("a < b > c", "a < b > c"),
        ("if x<y then z", "if x<y then z"),
        ("x<script>alert(1)</script>y", "xy"),
        ("<img src=x onerror=alert(1)>z", "z"),
        ("&lt;script&gt;alert(1)&lt;/script&gt;z", "z"),
        ("<!-- -->q", "<!-- -->q"),
    ],
)
def test_plain_text_has_no_tags(text: str, expected: str) -> None:
    assert expected == sanitising.plain(text)
    assert expected == sanitising.plain(expected)


def test_html_escaped_many_times_over_is_refused() -> None:
    with pytest.raises(ValueError, match="many times"):
        sanitising.plain("&" + "amp;" * 20 + "lt;script&gt;")


@pytest.mark.parametrize(
    "text",
    [
        "# Title\n\n- *item* `code`\n- [link](https://example.org/?a=1&b=2)\n\n> quote\n",
        "```html\n<script>alert(1)</script>\n\n<b>\n```\nafter\n",
        "~~~~\n<script>\n~~~\n~~~~\n",
        "use `<script>` and ``a ` <b> ` c``",
        "<https://example.org/?a=1&b=2> and <mailto:a@example.org>",
        "a < b && c > d, x <= y, &lt;tag> &amp;lt;",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "<details><summary>More</summary>\n\ntext\n\n</details>",
        '<svg viewBox="0 0 9 9"><path d="M0 0L9 9" stroke="red"></path></svg>',
        '<table><tbody><tr><td colspan="2">x</td></tr></tbody></table>',
        "![image](data:image/png;base64,AAAA)",
        "[a](/b) [c](../d#e) [f](#g) [h](mailto:i@example.org) [j](HTTP://example.org) [k](l?m:n)",
        "[1]: https://example.org 'title'\n[2]: /relative\n",
        "[TODO]: fix: the login\n",
        "```\narray[0](std::move(x));\n```\nand `[x](file:///x)`\n",
    ],
    ids=lambda text: text[:20],
)
def test_markdown_stays_as_it_is(text: str) -> None:
    assert text == sanitising.markdown(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <b onclick=x()>b</b> c", "a <b>b</b> c"),
        ("<a href='javascript:x()'>a</a>", "<a>a</a>"),
        ("x <script>alert(1)</script> y", "x  y"),
        ("<iframe src=//evil></iframe>", ""),
        ("<svg onload=x()><g></g></svg>", "<svg><g></g></svg>"),
        ("<img src=x onerror=alert(1) ", "&lt;img src=x onerror=alert(1) "),
        ("- ```\n<script>a</script>", "- ```\n"),
        ("  ```\n<script>a</script>\n  ```", "  ```\n\n  ```"),
        ("<b>x</b> `<script>a</script>`", "<b>x</b> ``"),
        ("`a\n<script>b</script>`", "`a\n`"),
        ("\\`<script>a</script>`", "\\``"),
        ("&lt;!-- x", "&lt;!-- x"),
        ("<!-- x -->", "&lt;!-- x -->"),
        ("a\r\nb\rc", "a\nb\nc"),
    ],
)
def test_html_in_markdown_is_that_of_the_list(text: str, expected: str) -> None:
    assert expected == sanitising.markdown(text)


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "[x]( JavaScript:alert(1))",
        "[x](<javascript:alert(1)>)",
        "[x](&#106;avascript:alert(1))",
        "[x]: vbscript:x",
        "![x](data:text/html,x)",
        "[x](data:image/svg+xml,x)",
        "[x](javascript\\:alert(1))",
        "[x](javascript&colon;alert(1))",
    ],
)
def test_a_link_to_a_script_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="link to a script"):
        sanitising.markdown(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[x](file:///x)", "[x](#///x)"),
        ("a ![x](File:///x) b [y](tel:1 'title')", "a ![x](#///x) b [y](#1 'title')"),
        ("[x]( <file:///x>)", "[x]( &lt;#///x>)"),
        ("[x](&#102;ile:///x)", "[x](#///x)"),
        ("[x](file\\:///x) [y](web\\+a:b)", "[x](#///x) [y](#b)"),
        ("[a](b[x](smb://c)", "[a](b[x](#//c)"),
        ("[x]: ftp://x 'title'\n[y]:\n  file:///y\n", "[x]: #//x 'title'\n[y]:\n  #///y\n"),
        ("<a href='file:///x'>a</a><img src='ftp://x'>", "<a>a</a><img>"),
        ("<file:///x>", "&lt;file:///x>"),
    ],
)
def test_a_link_to_another_scheme_leads_nowhere(text: str, expected: str) -> None:
    assert expected == sanitising.markdown(text)
    assert expected == sanitising.markdown(expected)


def test_a_blank_line_that_goes_with_a_tag_hides_nothing() -> None:
    assert "<script" not in sanitising.markdown("<svg><pre>\n\n```<script>")


def test_a_fence_inside_a_block_of_html_hides_nothing() -> None:
    cleaned = sanitising.markdown("<table>\n```\n<script>alert(1)</script>\n```\n</table>")
    assert "<script" not in cleaned


PIECES = st.lists(
    st.sampled_from(
        ["<", ">", "/", "!", "--", "`", "``", "```", "~~~", "\n", "\n\n", " ", "a", "script", "<script>",
         "<b>", "</b>", "<table>", "<pre>", "<svg>", "</svg>", "=", '"', "'", "&lt;", "&", "\\", "    ", "- ",
         "> ", "onclick=x", "<a title=", "<https://e.org>", "<!--", "-->", "<![CDATA[", "<?", "\t"]
    ),
    max_size=30,
)  # fmt: skip


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))


def _as_html_blocks(text: str) -> str:
    """The worst that a renderer may take for raw HTML: all of it, but for code that nothing else reads so."""
    lines: list[str] = []
    fence = ""
    for line in text.split("\n"):
        if fence:
            closing = line.strip(" ")
            if not line.startswith("    ") and closing and closing == fence[0] * len(closing):
                fence = "" if len(closing) >= len(fence) else fence
            continue
        match = re.match(r"(`{3,})[^`]*$|(~{3,})", line)
        # A block of HTML may be open only after a tag, and till the next blank line.
        has_tags = "<" in re.sub(r"<(?=[\s0-9=]|$)|<https://e.org>", "", "".join(lines).rpartition("\n\n")[2])
        if match and not has_tags:
            fence = match[1] or match[2]
            continue
        lines.append(line if has_tags else re.sub(r"(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)", "", line))
        lines.append("\n")
    return "".join(lines)


@given(PIECES)
def test_whatever_is_put_together_holds_nothing_dangerous_and_is_stable(pieces: list[str]) -> None:
    try:
        cleaned = sanitising.markdown("".join(pieces))
    except ValueError:
        return
    tags = _Tags()
    tags.feed(_as_html_blocks(cleaned))
    assert not [tag for tag, _ in tags.found if tag in DANGEROUS], cleaned
    assert not [name for _, attrs in tags.found for name, _ in attrs if name.startswith("on")], cleaned
    assert cleaned == sanitising.markdown(cleaned)


@pytest.mark.parametrize(
    "piece", ["<", "`", "<a ", "<a b='", "&lt;", "``` ", "<b>", "\\`", "&amp;", "` `` ", "[x](", "<a x ",
              "]:a:", "](a:", "[", "](\n", "]:a: b\n", "\\["]
)  # fmt: skip
def test_the_largest_note_takes_no_more_than_a_moment(piece: str) -> None:
    text = (piece * (262_144 // len(piece)))[:262_144]
    began = time.process_time()
    sanitising.markdown(text)
    assert time.process_time() - began < 2
