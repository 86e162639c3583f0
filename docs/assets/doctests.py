"""Shows the doctests of docstrings, under "Example:", as code: griffe knows that section as "Examples:"."""

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Renames the section before docstrings are parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Do so for one object."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace('\nExample:\n', '\nExamples:\n')
