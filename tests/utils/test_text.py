from __future__ import annotations

from ghost_det.utils.text import plural, table


def test_plurals() -> None:
    assert [plural(number, 'category') for number in (0, 1, 2)] == [
        '0 categories',
        '1 category',
        '2 categories',
    ]
    assert [plural(3, noun) for noun in ('class', 'box', 'image', 'epoch')] == [
        '3 classes', '3 boxes', '3 images', '3 epochs',
    ]  # fmt: skip


def test_a_table_keeps_indents_and_numbers_as_they_are() -> None:
    assert table(['', 'a'], [['b', '1.50'], ['  c', 2]]).splitlines()[3:5] == [
        '| b   | 1.50 |',
        '|   c | 2    |',
    ]
