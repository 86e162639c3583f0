from __future__ import annotations

from ghost_det.utils.text import cut, plural, table


def test_plurals() -> None:
    counts = [plural(number, 'category') for number in (0, 1, 2)]
    assert counts == ['0 categories', '1 category', '2 categories']
    assert [plural(3, noun) for noun in ('class', 'box', 'epoch')] == ['3 classes', '3 boxes', '3 epochs']


def test_long_texts_are_cut() -> None:
    assert (cut('abcd', 4), cut('abcde', 4)) == ('abcd', 'abc…')


def test_a_table_keeps_indents_and_numbers() -> None:
    lines = table(['', 'a'], [['b', '1.50'], ['  c', 2]]).splitlines()
    assert lines[3:5] == ['| b   | 1.50 |', '|   c | 2    |']
