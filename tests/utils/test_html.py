from __future__ import annotations

from ghost_det.utils.html import page


def test_values_are_escaped() -> None:
    assert '<title>&lt;t&gt; &amp; co</title>' in page('utils/templates/page.html.j2', title='<t> & co')
