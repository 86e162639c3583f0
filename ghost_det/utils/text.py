"""Text as tables and pictures have room for it."""

from __future__ import annotations

from collections.abc import Sequence


def cut(text: str, width: int = 40) -> str:
    """Return a text, an ellipsis in place of what is over a width in characters."""
    return text if len(text) <= width else f'{text[: width - 1]}…'


def plural(number: int, noun: str) -> str:
    """Return a number of things, as ``1 epoch`` or ``8 boxes``."""
    if number == 1:
        return f'1 {noun}'
    many = f'{noun[:-1]}ies' if noun[-1] == 'y' else f'{noun}es' if noun[-1] in 'sx' else f'{noun}s'
    return f'{number} {many}'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as a table of text; spaces at the start of a cell indent it."""
    from tabulate import tabulate  # which a runtime without MMDetection does not need

    style = dict(tablefmt='pretty', stralign='left', headersglobalalign='left')
    text: str = tabulate(rows, head, **style, disable_numparse=True, preserve_whitespace=True)
    return text
