"""What a check can find: the kinds of problems, one finding, and their order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

SHOWN = 10
SEVERITIES = ('error', 'warning', 'note')


class Kind(NamedTuple):
    """One kind of problem: its severity, what it does, how to fix it."""

    severity: str
    why: str
    fix: str


_LINES = Path(__file__).with_name('kinds.txt').read_text(encoding='utf-8').splitlines()
KINDS = {name: Kind(*texts) for name, *texts in (line.split(' | ') for line in _LINES)}


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one split."""

    kind: str  # a key of `KINDS`
    severity: str  # one of `SEVERITIES`
    split: str  # 'train', 'val', or '' for both, or the config
    what: str  # it does to a training or an evaluation
    where: tuple[str, ...]  # the first ten places
    count: int
    fix: str

    def line(self, places: int = 1) -> str:
        """Return it on one line with its first places."""
        more = f' and {self.count - places} more' if self.count > places else ''
        split = f'{self.split}: ' if self.split else ''
        return f'{split}{self.kind} ({self.count}): {"; ".join(self.where[:places])}{more}'


def found(
    kind: str, split: str, where: Iterable[str], count: int | None = None, severity: str | None = None
) -> list[Finding]:
    """Return the finding as a list of one, or an empty list; with a ``count``, only ten places are read."""
    if count is None:
        where = list(where)
        count = len(where)
    first = tuple(map(printable, islice(where, SHOWN)))
    default, why, fix = KINDS[kind]
    return [Finding(kind, severity or default, split, why, first, count, fix)] if count else []


def printable(text: str) -> str:
    """Escape characters that would control a terminal or cannot be printed."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the most severe first, otherwise in the order of `KINDS`."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.kind), f.split))
