"""What a client may ask the page to do: calls are checked, and made anew, before gradio sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from ..errors import UserError

JOIN = '/gradio_api/queue/join'
LARGEST = 2**16
"""Bytes of a call: it has the path of an image, not the image."""


def checked(app: Any, page: gr.Blocks, folder: Path) -> Any:
    """Return an application that answers 400 to a call that is none of the page's.

    Of those gradio would print tracebacks; and it would fetch what a client calls its upload, were it an
    address.

    Args:
        app: gradio's.
        page: that it serves.
        folder: of the uploads.
    """

    async def check(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope['type'] != 'http' or scope['method'] != 'POST' or scope['path'].rstrip('/') != JOIN:
            await app(scope, receive, send)
            return
        body = b''
        try:
            async for part in Request(scope, receive).stream():
                body += part
                if len(body) > LARGEST:
                    raise UserError(f'a call is longer than {LARGEST} bytes')
            content = json.dumps(_call(json.loads(body), page, folder)).encode()
        except ClientDisconnect:
            return
        except (UserError, ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, UserError) else 'no call of this page'
            await JSONResponse({'detail': why}, 400)(scope, receive, send)
            return
        parts = [{'type': 'http.request', 'body': content, 'more_body': False}]

        async def replay() -> Any:
            return parts.pop() if parts else await receive()

        await app(scope, replay, send)

    return check


def _call(asked: Any, page: gr.Blocks, folder: Path) -> dict[str, Any]:
    """Return a call with nothing in it but what the page sends.

    Raises:
        UserError: the page has no such function, or other values are wanted for it.
    """
    index, data, session = (
        [asked.get(key) for key in ('fn_index', 'data', 'session_hash')]
        if isinstance(asked, dict)
        else [None] * 3
    )
    function = page.fns.get(index) if isinstance(index, int) else None
    if function is None or not isinstance(session, str):
        raise UserError('a call has the fn_index of a function of this page, data, and a session_hash')
    if not isinstance(data, list) or len(data) != len(function.inputs):
        raise UserError(f'{function.api_name}: {len(function.inputs)} values are wanted')
    values = [_value(block, value, folder) for block, value in zip(function.inputs, data)]
    return {'fn_index': index, 'data': values, 'session_hash': session, 'trigger_id': asked.get('trigger_id')}


def _value(block: Any, value: Any, folder: Path) -> Any:
    if isinstance(block, gr.State):
        return None  # it is the server's
    if isinstance(block, gr.Image):
        if value is None:
            return None
        return {'path': str(_upload(folder, value)), 'meta': {'_type': 'gradio.FileData'}}
    if isinstance(block, gr.Radio):
        if value not in [name for _, name in block.choices]:
            raise UserError('no such model')
        return value
    if not isinstance(value, (int, float)) or not block.minimum <= value <= block.maximum:
        raise UserError(f'a number of {block.minimum} to {block.maximum} is wanted')
    return value


def _upload(folder: Path, value: Any) -> Path:
    """Return the path of an upload.

    Raises:
        UserError: it is not in the folder of uploads.
    """
    path = value.get('path') if isinstance(value, Mapping) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(folder):
        raise UserError('no upload: choose the image again')
    return Path(path).resolve()
