"""From a published name, a URL or a path to a verified local file."""

from __future__ import annotations

import hashlib
import re
import socket
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import safetensors
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.file_download import http_get

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic, sha256

from .catalog import SCHEME, Weights, named

_HUB_FILE = 'model.safetensors'


def locate(source: str | Path) -> Path:
    """Return the local file of a published name, an http(s) URL, or a path; downloaded if need be."""
    text = str(source)
    weights = named(text)
    if weights is not None:
        return fetch(weights)
    scheme = re.match(r'(\w{2,}):/', text)
    if scheme is None:
        return Path(text).expanduser()
    if scheme[1].lower() not in ('http', 'https'):
        raise UserError(f'{text}: expected {SCHEME}NAME, http://..., https://..., or a path')
    return fetch_url(text)


def by_hand(weights: Weights, suffix: str = '.safetensors') -> Path:
    """Return where the hub's file counts if somebody puts it there by hand; or the authors', ``'.pth'``."""
    return _downloads() / (weights.name + suffix)


def fetch(weights: Weights, sources: Iterable[str] = ('hub', 'upstream')) -> Path:
    """Return the file of published weights: the one put there by hand, a cached one, or a downloaded one.

    ``sources``, of ``'hub'`` and ``'upstream'`` (the authors' file), are tried one after the other. The hub's
    client caches, and obeys its own environment variables: ``HF_ENDPOINT`` (a mirror), ``HF_HOME``,
    ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``.
    """
    for path, expected, hash_of in (
        (by_hand(weights), weights.sha256, sha256),
        (by_hand(weights, '.pth'), weights.git_blob, git_blob_of),
    ):
        if path.is_file():
            if expected not in (None, found := hash_of(path)):
                raise UserError(
                    f'{path}: not the published file: expected the hash {expected}, got {found}; '
                    'move it, and to use it anyway, name its path'
                )
            return path
    fetchers: dict[str, Callable[[], Path]] = {
        'hub': lambda: _fetch_hub(weights),
        'upstream': lambda: fetch_url(weights.url, weights.git_blob),
    }
    problems = []
    for source in sources:
        try:
            return fetchers[source]()
        except UserError as error:
            problems.append(f'  {error}\n')
    page = f'https://huggingface.co/{weights.hub}/resolve/{weights.revision}/{_HUB_FILE}'
    raise UserError(
        f'{SCHEME}{weights.name}: could not be downloaded:\n{"".join(problems)}'
        f'Options: save {page} as {by_hand(weights)}'
        f', or {weights.url} as {by_hand(weights, ".pth")}; or name a file of yours '
        '(--pretrained FILE); or train from scratch (--pretrained none; in configs init_cfg=None)'
    )


def _fetch_hub(weights: Weights) -> Path:
    page = f'{constants.ENDPOINT}/{weights.hub}'
    path = None
    # The client does not look at content: a file damaged on the way or in its cache is downloaded again.
    for again in (False, True):
        try:
            path = Path(
                hf_hub_download(weights.hub, _HUB_FILE, revision=weights.revision, force_download=again)
            )
        except Exception as error:  # the client's own, its HTTP library's, and those of the file system
            damaged = f'; and the copy here is damaged: {path}' if again else ''
            raise UserError(f'{page} (to {constants.HF_HUB_CACHE}): {_reason(error)}{damaged}') from error
        blob = path.resolve().name  # which the client names after the hub's hash of large files
        expected = weights.sha256 or (blob if re.fullmatch('[0-9a-f]{64}', blob) else None)
        if expected in (None, found := sha256(path)):
            check_format(path, page)
            return path
    raise UserError(f'{page}: wrong content, in {path}: expected the SHA-256 {expected}, got {found}')


def fetch_url(url: str, git_blob: str | None = None) -> Path:
    """Download a file once, resumed after a cut; it is complete and has git's hash, or is not there."""
    try:
        path = _downloads() / _file_name(url)
        exists = path.is_file()
        if exists and git_blob in (None, git_blob_of(path)):
            return path
        if constants.HF_HUB_OFFLINE:
            damaged = f'; and the copy here is damaged: {path}' if exists else ''
            raise UserError(f'{url}: not downloaded, as HF_HUB_OFFLINE is set{damaged}')
        with atomic(path) as partial:
            with partial.open('wb') as file:
                http_get(url, file)
            check_format(partial, url)
            if git_blob not in (None, found := git_blob_of(partial)):
                raise UserError(f'{url}: wrong content: expected the git hash {git_blob}, got {found}')
    except UserError:
        raise
    except Exception as error:  # of the client, its HTTP library, or the file system
        raise UserError(f'{url} (to {_downloads()}): {_reason(error)}') from error
    return path


def _file_name(url: str) -> str:
    """Name a URL's copy: by its hash, as basenames repeat, and by what is harmless of its basename."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    name = unquote(urlsplit(url).path).rpartition('/')[2]
    return f'{digest}-{re.sub(r"[^0-9A-Za-z.-]", "_", name)[-100:] or "weights"}'


def check_format(path: Path, name: str) -> str:
    """Tell ``'safetensors'`` from ``'torch'``.

    A `UserError` is raised for what servers and repositories give in place of weights, and for cut files.
    """
    with path.open('rb') as file:
        head = file.read(256)
    if not head:
        raise UserError(f'{name}: empty')
    if head.startswith(b'version https://git-lfs'):
        raise UserError(f'{name}: a pointer of Git LFS, not weights: get the file itself, as by git lfs pull')
    if head[8:9] == b'{':
        try:
            with safetensors.safe_open(path, 'pt'):
                return 'safetensors'
        except safetensors.SafetensorError as error:
            raise UserError(f'{name}: damaged: {error}') from None
    if head.startswith(b'PK'):
        if not zipfile.is_zipfile(path):
            raise UserError(f'{name}: damaged: it ends too early')
    elif b'<html' in head.lower() or b'<!doctype' in head.lower():
        raise UserError(f'{name}: a web page, not weights (a login or an error page, as a browser will show)')
    elif not head.startswith(b'\x80'):  # of a pickle, as torch wrote until 1.6
        raise UserError(f'{name}: not weights; it begins with {head[:30]!r}')
    return 'torch'


def _reason(error: BaseException) -> str:
    """Return the innermost cause of an error, in one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = str(error).partition('\nFor more information check')[0]
    text = ' '.join(text.split())[:300] or type(error).__name__
    return f'no connection ({text})' if isinstance(error, ConnectionError | socket.gaierror) else text


def _downloads() -> Path:
    return Path(torch.hub.get_dir()) / 'checkpoints'


def git_blob_of(path: Path) -> str:
    """Return the hash that git gives to a file's content: SHA-1 over its size and its bytes."""
    digest = hashlib.sha1(f'blob {path.stat().st_size}\0'.encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()
