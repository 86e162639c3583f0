from __future__ import annotations

from ghost_det.utils.text import cut, plural, table


def test_plurals_and_cut_texts() -> None:
    counts = [plural(*each) for each in ((0, 'category'), (1, 'category'), (3, 'class'), (3, 'epoch'))]
    assert counts == ['0 categories', '1 category', '3 classes', '3 epochs']
    assert (cut('abcd', 4), cut('abcde', 4)) == ('abcd', 'abc…')


def test_a_table_keeps_numbers_as_they_are() -> None:
    assert table(['', 'a'], [['b', '1.50'], ['c', 2]]).splitlines()[3:5] == ['| b | 1.50 |', '| c | 2    |']
    assert len(table(['', 'a'], []).splitlines()) == 4
