from __future__ import annotations

from ghost_det.utils.html import _ENVIRONMENT, page

TEMPLATE = """{% import 'utils/templates/parts.html.j2' as parts %}
<p>{{ text }}</p>{{ parts.chart(data) }}"""


def test_pages_escape_what_is_not_theirs() -> None:
    assert '<title>&lt;t&gt;</title>' in page('utils/templates/page.html.j2', title='<t>')
    text = _ENVIRONMENT.from_string(TEMPLATE).render(text='"&<i>', data=b'\x89PNG')
    assert '<p>&#34;&amp;&lt;i&gt;</p>' in text
    assert '<img alt="" src="data:image/png;base64,iVBORw==">' in text
