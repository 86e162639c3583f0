"""From measurements to what the user keeps: tables on the console, a file, and charts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ghost_det.utils.files import require_folder

from .backbones import growth_table
from .chart import draw
from .rows import Results, Setting, describe, part, write_rows

FILE = 'RESULTS.json'


def report(measured: Iterable[Results], folder: Path | None, growth: bool = False) -> Iterator[str]:
    """Yield the lines of the tables; keep in ``folder``, after each part, what there is so far.

    Args:
        measured: the results so far, again and again.
        folder: for `FILE` and the charts; ``None`` for neither.
        growth: yield the exponents of time over pixels too.

    Raises:
        UserError: the folder cannot be written, or a measurement is not possible.
    """
    if folder is not None:
        require_folder(folder, '--output')
    last = None
    shown: set[Setting] = set()
    for last in measured:
        if folder is not None:
            write_rows(folder / FILE, last)
        if not shown:
            yield describe(last)
        for setting in dict.fromkeys(row.setting for row in last.rows if row.setting not in shown):
            yield from part(last, setting)
            shown.add(setting)
    if last is None:
        return
    if growth:
        yield ''
        yield from growth_table(last.rows)
    for name, rates in last.rates.items():
        yield ''
        yield f'Rates of this machine with {name} threads: {rates}'
    if folder is not None:
        yield ''
        yield from (str(path) for path in [folder / FILE, *draw(last, folder)])
