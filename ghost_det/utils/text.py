"""Short texts and tables."""

from __future__ import annotations

from collections.abc import Sequence


def cut(text: str, width: int = 40) -> str:
    """Shorten a text to a width in characters, with an ellipsis."""
    return text if len(text) <= width else f'{text[: width - 1]}…'


def plural(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 epoch`` or ``8 boxes``."""
    if number == 1:
        return f'1 {noun}'
    many = f'{noun[:-1]}ies' if noun[-1] == 'y' else f'{noun}es' if noun[-1] in 'sx' else f'{noun}s'
    return f'{number} {many}'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows as a text table."""
    from tabulate import tabulate

    left = ['left'] * len(head) if rows else ()
    text: str = tabulate(rows, head, tablefmt='pretty', colalign=left, disable_numparse=True)
    return text
