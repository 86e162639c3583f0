"""HTML pages that need nothing else: pictures are inside, all text is escaped, and no script runs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ghost_det.utils.text import cut

# The browser itself refuses whatever would come from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5d6670; --line: #d9dee3; --ground: #fff;
  --card: #f5f7f9; --bar: #bfdcf5; --good: #14733b; --bad: #b3261e; --odd: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #a0a8b0; --line: #3a4149;
  --ground: #15181b; --card: #1f2428; --bar: #24506f; --good: #6cc58b; --bad: #ff8a80; --odd: #e5b567; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 1rem;
  color: var(--ink); background: var(--ground); overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .8rem 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .3rem 0; } .note { color: var(--soft); }
.error, .bad { color: var(--bad); } .warning { color: var(--odd); } .good { color: var(--good); }
pre { background: var(--card); padding: .6rem; overflow-x: auto; font-size: .85rem; border-radius: 6px; }
img { max-width: 100%; border-radius: 6px; }
pre.line { white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .4rem 0; } .wide img { min-width: 38rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .22rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: pre-wrap; }
.words td, .words th { text-align: left; }
.words td { overflow-wrap: anywhere; min-width: 7rem; }
.bar { min-width: 4rem;
  background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share)); }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.tiles div { background: var(--card); border-radius: 8px; padding: .5rem .9rem; min-width: 6.2rem; }
.tiles b { display: block; font-size: 1.35rem; line-height: 1.3; } .tiles span { color: var(--soft); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: .9rem; }
figure { margin: 0; } figcaption { font-size: .85rem; color: var(--soft); }
summary { cursor: pointer; padding: .2rem 0; }
"""


class Html(str):
    """Text that is HTML already; any other text is escaped, also where it is added to it."""

    def __add__(self, other: str) -> Html:
        return Html(f'{self}{html(other)}')


def html(text: object) -> Html:
    """Return text as HTML."""
    return text if isinstance(text, Html) else Html(escape(str(text)))


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page."""
    body = '\n'.join(map(html, parts))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def element(tag: str, content: object, kind: str = '') -> Html:
    """Return an element around text or HTML, of a class of the style."""
    return Html(f'<{tag}{f" class={kind!r}" if kind else ""}>{html(content)}</{tag}>')


def shortened(name: str) -> Html:
    """Return a name as a table has room for it; where it is cut, the whole is shown under the pointer."""
    short = cut(name)
    return html(name) if short == name else Html(f'<span title="{html(name)}">{html(short)}</span>')


def table(rows: Sequence[Sequence[object]], kind: str = '') -> Html:
    """Return a table, of which the first row is the head; numbers, unless ``kind`` is ``'words'``."""
    head, *body = (''.join(_cell(cell, tag) for cell in row) for row, tag in zip(rows, _tags()))
    lines = '\n'.join(f'<tr>{line}</tr>' for line in body)
    inside = f'<thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody>'
    return Html(f'<div class="wide"><table{f" class={kind!r}" if kind else ""}>{inside}</table></div>')


def _tags() -> Iterable[str]:
    yield 'th'
    while True:
        yield 'td'


def _cell(cell: object, tag: str) -> str:
    return cell if isinstance(cell, Bar) else f'<{tag}>{html(cell)}</{tag}>'


class Bar(Html):
    """A cell of a table with a share of 1 as number and bar."""

    def __new__(cls, value: float | None) -> Bar:
        """Return the cell; a dash where there is no value."""
        share = 0 if value is None else min(max(value, 0), 1)
        text = '-' if value is None else f'{value:.3f}'
        return super().__new__(cls, f'<td class="bar" style="--share:{100 * share:.1f}%">{text}</td>')


def tiles(figures: dict[str, str]) -> Html:
    """Return the few figures that one looks for first."""
    inside = ''.join(
        f'<div><b>{html(value)}</b><span>{html(name)}</span></div>' for name, value in figures.items()
    )
    return Html(f'<div class="tiles">{inside}</div>')


def folded(title: str, content: Html) -> Html:
    """Return what is shown when its title is clicked."""
    return Html(f'<details><summary>{html(title)}</summary>\n{content}\n</details>')


def picture(data: bytes) -> Html:
    """Return a PNG or JPEG file as a picture within the page."""
    kind = 'png' if data.startswith(b'\x89PNG') else 'jpeg'
    return Html(f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">')


def chart(data: bytes) -> Html:
    """Return a picture with small print, which a small screen shows part by part."""
    return Html(f'<div class="wide">{picture(data)}</div>')


def gallery(pictures: Iterable[tuple[str, bytes]]) -> Html:
    """Return pictures with a line under each, beside each other where the screen is wide."""
    shown = (
        f'<figure>{picture(data)}<figcaption>{html(text)}</figcaption></figure>' for text, data in pictures
    )
    return Html(f'<div class="grid">{"".join(shown)}</div>')


def png(figure: Any, dpi: int = 100) -> bytes:
    """Return a matplotlib figure as a PNG file, and close it."""
    import matplotlib.pyplot as plt

    file = io.BytesIO()
    figure.savefig(file, dpi=dpi)
    plt.close(figure)
    return file.getvalue()
