"""HTML pages that need nothing else: pictures are inside, all text is escaped, and no script runs."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .text import cut, plural


def page(template: str, **values: object) -> str:
    """Return a page by a template, whose name is its path within the package.

    Templates extend ``utils/templates/page.html.j2`` and import ``utils/templates/parts.html.j2``. Values are
    escaped; bytes of a PNG or JPEG file become a picture by the filter ``picture``.
    """
    return _ENVIRONMENT.get_template(template).render(values)


def _picture(data: bytes) -> str:
    """Return the address of a picture that lies in the page itself."""
    kind = 'png' if data.startswith(b'\x89PNG') else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def _number(value: float | None, form: str = '.3f') -> str:
    return '-' if value is None else format(value, form)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(cut=cut, picture=_picture, number=_number)
_ENVIRONMENT.globals.update(plural=plural)
