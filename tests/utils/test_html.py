from __future__ import annotations

from ghost_det.utils.html import page


def test_pages_escape_what_is_not_theirs() -> None:
    picture = ('<i>', b'\x89PNG')
    text = page('visualization/figures.html.j2', title='<t>', text='"&', pictures=[picture])
    assert '<title>&lt;t&gt;</title>' in text and '<h1>&lt;t&gt;</h1>' in text
    assert '<pre>&#34;&amp;</pre>' in text and '<p>&lt;i&gt;</p>' in text
    assert '<img alt="" src="data:image/png;base64,iVBORw==">' in text
