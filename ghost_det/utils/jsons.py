"""JSON files of any origin, read without surprises."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, 16 or 32, if its text fits into half of this machine's memory.

    Raises:
        UserError: it is no regular file, cannot be read, is too large, or is no JSON; with the line.
    """
    try:
        if not path.is_file():
            raise UserError(f'{path}: cannot be read: expected a json file, got {_kind(path)}')
        # The bytes and their text are in memory at once, and then what they say.
        size, half = path.stat().st_size, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2
        if size > half:
            raise UserError(
                f'{path}: {size / 1e9:.1f} GB of json; this machine has memory for {half / 1e9:.1f} GB: '
                'split it'
            )
        data = path.read_bytes()
        return json.loads(data.decode(json.detect_encoding(data)))  # as pycocotools, no halves of characters
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    except json.JSONDecodeError as error:
        raise UserError(f'{path}: not json: {error.msg} in line {error.lineno}') from None
    except MemoryError:
        raise UserError(f'{path}: too large for the memory of this machine: split it') from None
    except RecursionError:
        raise UserError(f'{path}: not json that can be read: nested too deep') from None
    except UnicodeError as error:
        raise UserError(f'{path}: not json in UTF-8: {str(error)[:100]}') from None
    except ValueError:  # Python's own limit
        raise UserError(f'{path}: not json: a number of thousands of digits') from None


def _kind(path: Path) -> str:
    return 'a folder' if path.is_dir() else 'a pipe or a device' if path.exists() else 'nothing'
