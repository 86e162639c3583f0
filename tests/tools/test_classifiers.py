from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tools.classifiers import main


def test_the_documented_sizes_are_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 20 and printed in (ROOT / 'docs/family.md').read_text()
