"""HTML in which text is escaped unless it was made here, tables that sort, and a page that needs no other file."""

import base64
import html
from collections.abc import Iterable, Sequence

from raunet_jax.report.style import SCRIPT, STYLE

_VOID = ("img", "source", "meta", "br")


class Html(str):
    """Markup that is safe to place in a page as it is; any other string is text and is escaped on the way in."""


def text(value) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def join(parts: Iterable) -> Html:
    return Html("".join(text(part) for part in parts if part is not None))


def tag(name: str, /, *children, **attributes) -> Html:
    """An element; `class_` stands for class, `data_x` for data-x, an attribute of None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(children)}</{name}>")


def number(value, digits: int = 3, unit: str = "") -> str:
    """A score as it is read: an en dash where it is undefined; integers stay integers."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    shown = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return f"{shown} {unit}".rstrip().replace("-", "−")


def table(head: Sequence[str], rows: Iterable[Sequence], marks: Iterable[str] = (), sortable: bool = False) -> Html:
    """A table whose first column is text; each cell is a value, or a pair (what is shown, what it is sorted by).

    Args:
        head: heading of each column.
        rows: the cells of each row.
        marks: a CSS class a row.
        sortable: whether a click on a heading sorts by it.
    """
    lines, marks = [], list(marks)
    for index, row in enumerate(rows):
        cells = []
        for column, cell in enumerate(row):
            shown, key = cell if isinstance(cell, tuple) else (cell, cell)
            key = key if sortable and key is not None and key != shown else None
            kind = "th" if column == 0 else "td"
            cells.append(tag(kind, shown, scope="row" if column == 0 else None, data_key=key))
        lines.append(tag("tr", *cells, class_=marks[index] if index < len(marks) else None))
    titles = [tag("th", title, scope="col") for title in head]
    body = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *lines), class_="sortable" if sortable else None)
    return tag("div", body, class_="scroll")


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def image(png: bytes, alt: str, dark: bytes | None = None) -> Html:
    """A picture in the page itself; `dark` is shown instead where the reader's system is dark."""
    shown = tag("img", src=_data_uri(png), alt=alt)
    if dark is None:
        return shown
    return tag("picture", tag("source", srcset=_data_uri(dark), media="(prefers-color-scheme: dark)"), shown)


def section(title: str, *children, anchor: str) -> Html:
    return tag("section", tag("h2", title), *children, id=anchor)


def notice(*children) -> Html:
    return tag("p", *children, class_="notice")


def tiles(values: Iterable[tuple[str, str, str]]) -> Html:
    """The few numbers a reader came for: (name, value, what it compares with)."""
    made = [
        tag("div", tag("span", name, class_="name"), tag("strong", value), tag("span", beside, class_="beside"))
        for name, value, beside in values
    ]
    return tag("div", *made, class_="tiles")


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str, Html]]) -> str:
    """A whole document; sections are (anchor, name in the navigation, markup that has the anchor)."""
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    head = [tag("meta", charset="utf-8"), tag("meta", name="viewport", content="width=device-width, initial-scale=1")]
    head += [tag("meta", name="color-scheme", content="light dark"), tag("title", title), tag("style", Html(STYLE))]
    body = [tag("header", tag("h1", title), tag("p", subtitle), id="top"), tag("nav", *links)]
    body += [tag("main", *(markup for _, _, markup in sections)), tag("script", Html(SCRIPT))]
    return "<!doctype html>\n" + tag("html", tag("head", *head), tag("body", *body), lang="en") + "\n"
