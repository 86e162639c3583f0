"""Show doctests under "Example:" in docstrings as code: griffe only knows "Examples:"."""

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Rename the section before docstrings are parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename it in one docstring."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace('\nExample:\n', '\nExamples:\n')
