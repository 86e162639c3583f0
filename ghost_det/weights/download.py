"""From a published name, a URL or a path to a verified local file."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import safetensors
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.file_download import http_get

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic, sha256

from .catalog import CLASSIFIER, SCHEME, Shipped, Variant, find_published

_HUB_FILE = 'model.safetensors'
_TORCHVISION = re.compile(r'https://download\.pytorch\.org/models/.*-([0-9a-f]{8,})\.pth$')


def locate(source: str | Path) -> Path:
    """Return the local file of a published name, an http(s) URL or a path, downloading it if necessary."""
    text = str(source)
    weights = find_published(text)
    if weights is not None:
        return fetch(weights)
    scheme = re.match(r'(\w{2,}):/', text)
    if scheme is None:
        return Path(text).expanduser()
    if scheme[1].lower() not in ('http', 'https'):
        raise UserError(f'{text}: expected {SCHEME}NAME, http://..., https://..., or a path')
    return fetch_url(text)


def fetch(weights: Variant, sources: Iterable[str] = ('hub', 'upstream')) -> Path:
    """Return the file of published weights, cached or downloaded; or of those that come with this package.

    ``sources``, ``'hub'`` and ``'upstream'`` (the authors' file), are tried in order. The hub's client caches
    and has its own environment variables: ``HF_ENDPOINT`` (a mirror), ``HF_HOME``, ``HF_HUB_OFFLINE``, ...
    """
    if isinstance(weights, Shipped):
        return _installed(weights)
    problems = []
    for source in sources:
        try:
            return _fetch_hub(weights) if source == 'hub' else fetch_url(weights.url, weights.git_blob)
        except UserError as error:
            problems.append(f'  {error}\n')
    page = f'https://huggingface.co/{weights.hub}/resolve/{weights.revision}/{_HUB_FILE}'
    shipped = f'--pretrained {CLASSIFIER}; or ' if f'{weights.name}.tin' == CLASSIFIER else ''
    raise UserError(
        f'{SCHEME}{weights.name}: could not be downloaded:\n{"".join(problems)}'
        f'Options: download {page} or {weights.url} elsewhere and name the file '
        f'(--pretrained FILE; pretrained=FILE); or {shipped}train from scratch '
        '(--pretrained none; pretrained=False; in configs init_cfg=None)'
    )


def _installed(weights: Shipped) -> Path:
    found = sha256(weights.path) if weights.path.is_file() else 'no file'
    if found != weights.sha256:
        raise UserError(
            f'{SCHEME}{weights.name}: {weights.path}: expected the SHA-256 {weights.sha256}, found {found}: '
            'install ghost-det again (in a clone: git checkout this file)'
        )
    return weights.path


def _fetch_hub(weights: Variant) -> Path:
    page = f'{constants.ENDPOINT}/{weights.hub}'
    try:
        path = Path(hf_hub_download(weights.hub, _HUB_FILE, revision=weights.revision))
    except Exception as error:  # the client's own, its HTTP library's, and those of the file system
        raise UserError(f'{page} (to {constants.HF_HUB_CACHE}): {_cause(error)}') from error
    # The client does not verify content, but names the files in its cache after the hub's hash.
    cached = path.resolve()
    expected = weights.sha256 or (cached.name if re.fullmatch('[0-9a-f]{64}', cached.name) else None)
    if expected not in (None, found := sha256(path)):
        raise UserError(f'{page}: {cached}: expected the SHA-256 {expected}, got {found}; delete it')
    check_format(path, page)
    return path


def fetch_url(url: str, git_blob: str | None = None) -> Path:
    """Download a file once, resuming after broken connections; check its format, and its hash if known.

    ``git_blob`` is git's hash. Names of torchvision's files end in theirs.
    """
    try:
        path = _downloads() / _file_name(url)
        if path.is_file() and git_blob in (None, git_blob_of(path)):
            return path
        if constants.HF_HUB_OFFLINE:
            raise UserError(f'{url}: not downloaded, as HF_HUB_OFFLINE is set')
        with atomic(path) as partial:
            with partial.open('wb') as file:
                http_get(url, file)
            check_format(partial, url)
            if git_blob not in (None, found := git_blob_of(partial)):
                raise UserError(f'{url}: wrong content: expected the git hash {git_blob}, got {found}')
            if (named := _TORCHVISION.match(url)) and not sha256(partial).startswith(named[1]):
                raise UserError(f'{url}: wrong content: its SHA-256 is {sha256(partial)}')
    except UserError:
        raise
    except Exception as error:  # of the client, its HTTP library, or the file system
        raise UserError(f'{url} (to {_downloads()}): {_cause(error)}') from error
    return path


def _file_name(url: str) -> str:
    """Name a URL's copy by its hash, as basenames repeat, and the harmless characters of its basename.

    Torchvision's names are unique, and kept, as torch has cached them.
    """
    name = re.sub(r'[^0-9A-Za-z.-]', '_', urlsplit(url).path.rpartition('/')[2])[-100:]
    return name if _TORCHVISION.match(url) else f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}'


def check_format(path: Path, name: str) -> str:
    """Return ``'safetensors'`` or ``'torch'``; a `UserError` for cut files and what is not weights."""
    with path.open('rb') as file:
        head = file.read(256)
    if not head:
        raise UserError(f'{name}: an empty file')
    if head[8:9] == b'{':
        try:
            with safetensors.safe_open(path, 'pt'):
                return 'safetensors'
        except safetensors.SafetensorError as error:
            raise UserError(f'{name}: damaged: {error}') from None
    if head.startswith(b'PK'):
        if not zipfile.is_zipfile(path):
            raise UserError(f'{name}: damaged: it ends too early')
    elif not head.startswith(b'\x80'):  # of a pickle, as written by torch before 1.6
        raise UserError(f'{name}: not weights (a web page? a Git LFS pointer?); it begins with {head[:40]!r}')
    return 'torch'


def _cause(error: BaseException) -> str:
    """Return the innermost cause of an error, in one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = ' '.join(str(error).partition('\nFor more information check')[0].split())
    return text[:300] or type(error).__name__


def _downloads() -> Path:
    return Path(torch.hub.get_dir()) / 'checkpoints'


def git_blob_of(path: Path) -> str:
    """Return git's hash of a file's content: SHA-1 over its size and its bytes."""
    digest = hashlib.sha1(f'blob {path.stat().st_size}\0'.encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()
