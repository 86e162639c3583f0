from html.parser import HTMLParser


def require_self_contained(text: str) -> None:
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(text)
    assert not {tag for tag, _ in tags} & {'script', 'link', 'iframe', 'object', 'base', 'form'}
    for tag, attributes in tags:
        assert not any(name in ('href', 'srcset') or name.startswith('on') for name in attributes), tag
        assert (attributes.get('src') or 'data:image/').startswith('data:image/')
    assert 'url(' not in text and '@import' not in text and "default-src 'none'" in text
    assert len(text) < 5e6
