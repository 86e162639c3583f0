from __future__ import annotations

from pathlib import Path

import pytest

from ghost_det.errors import UserError
from ghost_det.utils.files import write_or_fail


def test_a_file_that_cannot_be_written_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='^-o .*/file/a: cannot be written .File exists'):
        with write_or_fail(tmp_path / 'file/a', '-o') as partial:
            partial.touch()
    with pytest.raises(UserError, match='^/.*/b: cannot be written .No space left on device'):
        with write_or_fail(tmp_path / 'b') as partial:
            raise OSError(28, 'No space left on device')
    assert [path.name for path in tmp_path.iterdir()] == ['file']
