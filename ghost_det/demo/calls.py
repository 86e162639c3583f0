"""What a client may ask the page to do: calls are checked, and made anew, before gradio sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse

from ghost_det.errors import UserError

JOIN = '/gradio_api/queue/join'
UPLOAD = '/gradio_api/upload'
LARGEST = 2**16
"""Bytes of a call: it has the path of an image, not the image."""
FORM = 2**16
"""Bytes of an upload that are not the image's."""
STORE = 500 * 2**20
"""Bytes of files with which no upload is taken until the oldest are gone."""


def checked(app: Any, page: gr.Blocks, folder: Path) -> Any:
    """Return an application that answers 400 to a call that is none of the page's, and bounds uploads.

    Of such calls gradio would print tracebacks; and it would fetch what a client calls its upload, were it
    an address. Of uploads it bounds each file, but neither the request nor what is kept.

    Args:
        app: gradio's.
        page: that it serves.
        folder: of the uploads.
    """

    async def check(scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope['path'].rstrip('/') if scope['type'] == 'http' and scope['method'] == 'POST' else None
        if path == UPLOAD:
            most = page.max_file_size + FORM
            if int(Headers(scope=scope).get('content-length', 0)) > most:
                refusal = PlainTextResponse(f'an upload is longer than {most} bytes', 413)
                await refusal(scope, receive, send)
            elif await asyncio.to_thread(_stored, folder, page.delete_cache[1]) > STORE:
                refusal = PlainTextResponse('the page holds too many images: try again in some minutes', 507)
                await refusal(scope, receive, send)
            else:
                await app(scope, _bounded(receive, most), send)
            return
        if path != JOIN:
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


def _bounded(receive: Any, most: int) -> Any:
    """Return a source of an upload's parts; where it is too long or cut short gradio removes what it wrote.

    Raises:
        MultiPartException: it is; gradio answers 413 for the words "maximum allowed size".
    """
    left, more = most, True

    async def bounded() -> Any:
        nonlocal left, more
        message = await receive()
        left -= len(message.get('body', b''))
        if left < 0:
            raise MultiPartException(f'an upload is longer than the maximum allowed size of {most} bytes')
        if more and message['type'] == 'http.disconnect':
            raise MultiPartException('an upload is cut short')
        more = message.get('more_body', False)
        return message

    return bounded


def _stored(folder: Path, kept: int) -> int:
    """Return the bytes of all files, without those that gradio forgot, which go.

    It removes only what it told the client of: a file that was sent as another field stays in the folder.
    """
    size = 0
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(FileNotFoundError):  # gradio removes and renames meanwhile
                status = path.lstat()
                if path.parent == folder and time.time() - status.st_mtime > kept:
                    path.unlink()
                else:
                    size += status.st_size
    return size


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
