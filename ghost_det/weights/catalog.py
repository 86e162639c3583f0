"""The published ImageNet weights: the catalogue, and their files, downloaded and verified."""

from __future__ import annotations

import hashlib
import re
import socket
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import safetensors
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.file_download import http_get

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic, sha256

SCHEME = 'ghost://'
_HUB_FILE = 'model.safetensors'


@dataclass(frozen=True)
class Weights:
    """ImageNet-1k weights as their authors published them.

    Attributes:
        name: what ``ghost://NAME`` asks for; timm's.
        network: class of `ghost_det.models`.
        width: its width.
        top1: accuracy in percent at 224 px of the hub's file, as timm measured it.
        params: parameters of the classifier in millions, folded for deployment, as the paper prints them.
        macs: multiply-adds of it at 224 px in millions, as the paper prints them.
        url: the authors' own file, the second source.
        licence: SPDX name, as timm states it for the hub's file.
        revision: commit of the hub's repository, where it is known; else its newest.
        sha256: of the hub's file, where it is known.
        git_blob: content hash of the authors' file as git names it, where it is known.
    """

    name: str
    network: str
    width: float
    top1: float
    params: float
    macs: int
    url: str
    licence: str
    revision: str = 'main'
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def hub(self) -> str:
        """The repository on the Hugging Face hub."""
        return f'timm/{self.name}.in1k'


_HUAWEI = 'https://github.com/huawei-noah/Efficient-AI-Backbones/'
_REPGHOST = 'https://github.com/ChengpengChen/RepGhost/releases/download/RepGhost/repghostnet_'
_LICENCES = {'RepGhostNet': 'MIT'}

# Top-1 of timm's results-imagenet.csv, parameters and multiply-adds of the papers and RepGhost's README.
_TABLE: tuple[tuple[str, str, float, float, float, int, str], ...] = (
    (
        *('ghostnet_100', 'GhostNet', 1.0, 73.96, 5.2, 141),
        _HUAWEI + 'raw/master/ghostnet_pytorch/models/state_dict_73.98.pth',
    ),
    (
        *('ghostnetv2_100', 'GhostNetV2', 1.0, 75.19, 6.1, 167),
        _HUAWEI + 'releases/download/GhostNetV2/ck_ghostnetv2_10.pth.tar',
    ),
    (
        *('ghostnetv2_130', 'GhostNetV2', 1.3, 76.75, 8.9, 269),
        _HUAWEI + 'releases/download/GhostNetV2/ck_ghostnetv2_13.pth.tar',
    ),
    (
        *('ghostnetv2_160', 'GhostNetV2', 1.6, 77.84, 12.3, 399),
        _HUAWEI + 'releases/download/GhostNetV2/ck_ghostnetv2_16.pth.tar',
    ),
    (
        *('ghostnetv3_100', 'GhostNetV3', 1.0, 76.94, 6.1, 167),
        _HUAWEI + 'releases/download/GhostNetV3/ghostnetv3-1.0.pth.tar',
    ),
    ('repghostnet_050', 'RepGhostNet', 0.5, 66.98, 2.3, 43, _REPGHOST + '0_5x_43M_66.95.pth.tar'),
    ('repghostnet_058', 'RepGhostNet', 0.58, 68.94, 2.5, 60, _REPGHOST + '0_58x_60M_68.94.pth.tar'),
    ('repghostnet_080', 'RepGhostNet', 0.8, 72.24, 3.3, 96, _REPGHOST + '0_8x_96M_72.24.pth.tar'),
    ('repghostnet_100', 'RepGhostNet', 1.0, 74.21, 4.1, 142, _REPGHOST + '1_0x_142M_74.22.pth.tar'),
    ('repghostnet_111', 'RepGhostNet', 1.11, 75.06, 4.5, 170, _REPGHOST + '1_11x_170M_75.07.pth.tar'),
    ('repghostnet_130', 'RepGhostNet', 1.3, 76.38, 5.5, 231, _REPGHOST + '1_3x_231M_76.37.pth.tar'),
    ('repghostnet_150', 'RepGhostNet', 1.5, 77.47, 6.6, 301, _REPGHOST + '1_5x_301M_77.45.pth.tar'),
    ('repghostnet_200', 'RepGhostNet', 2.0, 78.80, 9.8, 516, _REPGHOST + '2_0x_516M_78.81.pth.tar'),
)
# Quoted from pages of the hub and listings of git, which not all could be had of.
_KNOWN: dict[str, dict[str, Any]] = {
    'ghostnet_100': dict(
        revision='d461b859bf5f6b4f1828eb79e1902fd883194c83',
        sha256='8efbcf55d97872c828768b096d4ebebc51f8b7e29623fd3b3933d78cc230e2e2',
        git_blob='26da9f2807cd5ba95c607cec01ceb9700d94e0ae',
    ),
    'ghostnetv2_160': dict(revision='f29f8843944b3f614fbea96f3847e88080f9ed27'),
    'repghostnet_050': dict(
        revision='3ca3bfe43701348ad05da2d6cb15a11c224c9c9e',
        sha256='1113b67dd8459afa557de736b0aeab9bc07d6f6867b945fdb517608a207165d4',
    ),
    'repghostnet_058': dict(
        revision='768b326d48e3071415b4c93a30259c2248d08fa0',
        sha256='f4c02da20947575e1e7751001ea6abd35a846fd2ddf2f726a053e07629ba1406',
    ),
    'repghostnet_130': dict(revision='d7bf85682bd5cf35df2acd468160797a753c93d4'),
}
PUBLISHED: dict[str, Weights] = {
    row[0]: Weights(*row, licence=_LICENCES.get(row[1], 'Apache-2.0'), **_KNOWN.get(row[0], {}))
    for row in _TABLE
}


def published(name: str) -> Weights:
    """Return the catalogue's entry.

    Raises:
        UserError: there is none of that name.
    """
    found = PUBLISHED.get(name.removeprefix(SCHEME).replace('_1x', '_100'))
    if found is None:
        raise UserError(f'{name}: no such published weights; there are {", ".join(PUBLISHED)}')
    return found


def locate(source: str | Path) -> Path:
    """Return the local file of a published name, an http(s) URL, or a path; downloaded if need be.

    Raises:
        UserError: it cannot be had; the message says which ways there are.
    """
    text = str(source)
    weights = named(text)
    if weights is not None:
        return fetch(weights)
    scheme = re.match(r'(\w{2,}):/', text)
    if scheme is None:
        return Path(text).expanduser()
    if scheme[1].lower() not in ('http', 'https'):
        raise UserError(f'{text}: {SCHEME}NAME, http://..., https://..., or a path is wanted')
    return fetch_url(text)


def address(source: str) -> str:
    """Return ``ghost://NAME`` for a published name, and files and URLs as they are."""
    return SCHEME + source if source in PUBLISHED else source


def named(source: str | Path) -> Weights | None:
    """Return the catalogue's entry that ``ghost://NAME`` or a bare name is of, ``None`` for files and URLs.

    Raises:
        UserError: ``ghost://`` is followed by no published name.
    """
    text = str(source)
    if text.startswith(SCHEME):
        return published(text)
    is_name = text.replace('_1x', '_100') in PUBLISHED and not Path(text).exists()
    return published(text) if is_name else None


def by_hand(weights: Weights, suffix: str = '.safetensors') -> Path:
    """Return where a file that somebody put there by hand counts as these weights: first of all sources.

    Args:
        weights: an entry of the catalogue.
        suffix: of the hub's file; or ``'.pth'``, of the authors'.
    """
    return _downloads() / (weights.name + suffix)


def fetch(weights: Weights, sources: Iterable[str] = ('hub', 'upstream')) -> Path:
    """Return the file of published weights: the one put there by hand, a cached one, or a downloaded one.

    The hub's client caches, and obeys its own environment variables: ``HF_ENDPOINT`` (a mirror), ``HF_HOME``,
    ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``.

    Args:
        weights: an entry of the catalogue.
        sources: ``'hub'`` and ``'upstream'`` (the authors' file), tried one after the other.

    Raises:
        UserError: none of them has it, or its content is not what it should be.
    """
    for path, wanted, hash_of in (
        (by_hand(weights), weights.sha256, sha256),
        (by_hand(weights, '.pth'), weights.git_blob, git_blob_of),
    ):
        if path.is_file():
            if wanted not in (None, found := hash_of(path)):
                raise UserError(
                    f'{path}: not the published file: its hash is {found}, {wanted} is wanted; '
                    'move it, and if you want these weights, name its path'
                )
            return path
    ways: dict[str, Callable[[], Path]] = {
        'hub': lambda: _fetch_hub(weights),
        'upstream': lambda: fetch_url(weights.url, weights.git_blob),
    }
    faults = []
    for source in sources:
        try:
            return ways[source]()
        except UserError as error:
            faults.append(str(error))
    page = f'https://huggingface.co/{weights.hub}/resolve/{weights.revision}/{_HUB_FILE}'
    raise UserError(
        f'{SCHEME}{weights.name}: cannot be had:\n  '
        + '\n  '.join(faults)
        + f'\nWays on: save {page} as {by_hand(weights)}'
        f', or {weights.url} as {by_hand(weights, ".pth")}; or name a file of yours '
        '(tools: --pretrained FILE); or train from scratch (tools: --pretrained none; configs: init_cfg=None)'
    )


def _fetch_hub(weights: Weights) -> Path:
    def download(again: bool) -> Path:
        try:
            return Path(
                hf_hub_download(weights.hub, _HUB_FILE, revision=weights.revision, force_download=again)
            )
        except Exception as error:  # the client's own, its HTTP library's, and those of the file system
            raise UserError(f'{page} (to {constants.HF_HUB_CACHE}): {_reason(error)}') from error

    page = f'{constants.ENDPOINT}/{weights.hub}'
    # The client does not look at content: a file damaged on the way or in its cache is had once more.
    path = download(again=False)
    if not _as_promised(path, weights):
        try:
            path = download(again=True)
        except UserError as error:
            raise UserError(f'{error}; and the copy here is damaged: {path}') from error
        if not _as_promised(path, weights):
            wanted = weights.sha256 or path.resolve().name
            raise UserError(
                f'{page}: wrong content, in {path}: its SHA-256 is {sha256(path)}, {wanted} is wanted'
            )
    refuse_others(path, page)
    return path


def _as_promised(path: Path, weights: Weights) -> bool:
    """Compare the content with the known hash, or with the hub's, after which the client names its files."""
    name = path.resolve().name
    wanted = weights.sha256 or (name if re.fullmatch('[0-9a-f]{64}', name) else None)
    return wanted is None or sha256(path) == wanted


def fetch_url(url: str, git_blob: str | None = None) -> Path:
    """Download a file once, with resumption after a cut; a file is whole, of the right hash, or not there.

    Args:
        url: http or https.
        git_blob: the content's hash as git names it, where one is known.

    Raises:
        UserError: it cannot be downloaded or written, or has another hash.
    """
    try:
        path = _downloads() / _file_name(url)
        here = path.is_file()
        if here and git_blob in (None, git_blob_of(path)):
            return path
        if constants.HF_HUB_OFFLINE:
            damaged = f'; and the copy here is damaged: {path}' if here else ''
            raise UserError(f'{url}: not downloaded, as HF_HUB_OFFLINE is set{damaged}')
        with atomic(path) as partial:
            with partial.open('wb') as file:
                http_get(url, file)
            refuse_others(partial, url)
            if git_blob not in (None, found := git_blob_of(partial)):
                raise UserError(f'{url}: wrong content: its git hash is {found}, {git_blob} is wanted')
    except UserError:
        raise
    except Exception as error:  # of the client, its HTTP library, or the file system
        raise UserError(f'{url} (to {_downloads()}): {_reason(error)}') from error
    return path


def _file_name(url: str) -> str:
    """Name a URL's copy: by its hash, as basenames repeat, and by what is harmless of its basename."""
    address = hashlib.sha256(url.encode()).hexdigest()[:8]
    name = unquote(urlsplit(url).path).rpartition('/')[2]
    return f'{address}-{re.sub(r"[^0-9A-Za-z.-]", "_", name)[-100:] or "weights"}'


def refuse_others(path: Path, name: str) -> None:
    """Stop at what servers and repositories give in place of a file, and at files that were cut.

    Raises:
        UserError: the file is neither a whole safetensors file nor one of torch.
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
                return
        except safetensors.SafetensorError as error:
            raise UserError(f'{name}: damaged: {error}') from None
    if head.startswith(b'PK'):
        if not zipfile.is_zipfile(path):
            raise UserError(f'{name}: damaged: it ends too early')
    elif b'<html' in head.lower() or b'<!doctype' in head.lower():
        raise UserError(f'{name}: a web page, not weights (a login or an error page, as a browser will show)')
    elif not head.startswith(b'\x80'):  # of a pickle, as torch wrote until 1.6
        raise UserError(f'{name}: not weights; it begins with {head[:30]!r}')


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
