"""Words as tables and pictures have room for them."""

from __future__ import annotations


def cut(text: str, width: int = 40) -> str:
    """Return a text, an ellipsis in place of what is over a width in characters."""
    return text if len(text) <= width else f'{text[: width - 1]}…'


def count(number: int, noun: str) -> str:
    """Return a number of things, as ``1 epoch`` or ``8 epochs``."""
    return f'{number} {noun}{"s" * (number != 1)}'
