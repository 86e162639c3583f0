"""Self-contained HTML pages: pictures are embedded, all text is escaped, no script runs."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .text import cut, plural


def page(template: str, **values: object) -> str:
    """Render a template, named by its path in the package.

    Templates extend ``utils/templates/page.html.j2`` and import ``utils/templates/parts.html.j2``. Values are
    escaped; the filter ``picture`` turns the bytes of a PNG file into a data URL.
    """
    loader = FileSystemLoader(Path(__file__).parents[1])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(cut=cut, picture=_picture, number=_number)
    environment.globals.update(plural=plural)
    return environment.get_template(template).render(values)


def _picture(data: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(data).decode()}'


def _number(value: float | None, form: str = '.3f') -> str:
    return '-' if value is None else format(value, form)
