"""Files in the layouts of timm and of the authors, into every network; and files that must be refused."""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.logging import MessageHub
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ghost_det.errors import UserError
from ghost_det.models import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet
from ghost_det.weights.catalog import PUBLISHED
from ghost_det.weights.load import describe, extract_backbone, load_pretrained

from .hub import Hub, running
from .test_checkpoint import canary

State = dict[str, Tensor]
GROUP_NORM = functools.partial(nn.GroupNorm, 2)
NETWORKS: dict[str, tuple[type[GhostNet], float]] = {  # by timm's names, the smallest of each
    'ghostnet_050': (GhostNet, 0.5),
    'ghostnetv2_100': (GhostNetV2, 1.0),
    'ghostnetv3_050': (GhostNetV3, 0.5),
    'repghostnet_050': (RepGhostNet, 0.5),
}
TENSORS = {'ghostnet_050': 512, 'ghostnetv2_100': 764, 'ghostnetv3_050': 1956, 'repghostnet_050': 672}
CLASSIFIER = 10  # blocks.9 with its norm (6), conv_head (2), classifier (2)


def build(name: str, **settings: Any) -> GhostNet:
    network, width = NETWORKS[name]
    return network(**{'width': width, **settings})


@functools.cache
def timms(name: str, seed: int = 0) -> State:
    """Return the tensors of timm's network, each place with a value of its own."""
    with torch.device('meta'):
        shapes = timm.create_model(name).state_dict()
    torch.manual_seed(seed)
    return {
        key: torch.rand(value.shape) if value.is_floating_point() else torch.tensor(seed + 7)
        for key, value in shapes.items()
    }


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def holds(model: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def save(content: Any, path: Path, **settings: Any) -> Path:
    torch.save(content, path, **settings)
    return path


def hubs(state: State, folder: Path) -> Path:
    save_file(state, folder / 'model.safetensors', {'format': 'pt'})
    return folder / 'model.safetensors'


def ghostnets(state: State, folder: Path) -> Path:
    return save(state, folder / 'state_dict_73.98.pth', _use_new_zipfile_serialization=False)


def ghostnetv2s(state: State, folder: Path) -> Path:
    junk = {
        f'{place}{name}': torch.zeros(1, dtype=torch.float64)
        for place in ('', 'conv_stem.', 'blocks.0.0.ghost1.primary_conv.0.', 'blocks.3.0.ghost1.')
        for name in ('total_ops', 'total_params')
    }
    return save({**junk, **state}, folder / 'ck_ghostnetv2_10.pth.tar')


def training(state: State, prefix: str = '') -> dict[str, Any]:
    """Return a training checkpoint of timm's old trainer; its averaged weights are the ones published."""
    return {
        'epoch': 400,
        'arch': 'any',
        'state_dict': under(prefix, {key: value * 0 for key, value in state.items()}),
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
        'args': argparse.Namespace(lr=0.6, betas=None),
        'state_dict_ema': under(prefix, state),
        'metric': 77.1,
    }


def ghostnetv3s(state: State, folder: Path) -> Path:
    upstream = {
        key.replace('.bn1.', '.bn.') if '_rpr_' in key else key: value for key, value in state.items()
    }
    assert sum(key not in state for key in upstream) == 1200  # as counted in the authors' code
    return save(training(upstream), folder / 'ghostnetv3-1.0.pth.tar')


def repghosts(state: State, folder: Path) -> Path:
    return save(training(state, 'module.'), folder / 'repghostnet_0_5x_43M_66.95.pth.tar')


@pytest.mark.parametrize(
    ('name', 'layout'),
    [
        ('ghostnet_050', hubs),
        ('ghostnet_050', ghostnets),
        ('ghostnetv2_100', ghostnetv2s),
        ('ghostnetv3_050', hubs),
        ('ghostnetv3_050', ghostnetv3s),
        ('repghostnet_050', repghosts),
    ],
)
def test_every_tensor_is_loaded_from_the_file_of(
    name: str, layout: Callable[[State, Path], Path], tmp_path: Path
) -> None:
    state = timms(name)
    path = layout(state, tmp_path)
    backbone = build(name)
    count = TENSORS[name] - CLASSIFIER
    network = type(backbone).__name__
    line = f'{network}: {count} of {count} tensors from {path}; classifier left out: {CLASSIFIER}'
    assert str(load_pretrained(backbone, path)) == line
    assert len(backbone.state_dict()) == count and holds(backbone, state)
    complete = build(name, num_classes=1000)
    loaded = load_pretrained(complete, path)
    assert loaded.loaded == loaded.total == TENSORS[name] and not loaded.left_out
    assert holds(complete, state)


def of(network: type[GhostNet], folded: bool = False, **settings: Any) -> State:
    model = network(**{'width': 0.5, **settings})
    if folded:
        model.switch_to_deploy()
    return dict(model.state_dict())


def test_a_file_tells_its_network_and_width() -> None:
    for name in timm.list_models('*ghostnet*'):
        with torch.device('meta'):
            network, width = describe(timm.create_model(name).state_dict()) or ('', 0)
        assert f'{network.lower()}_{100 * width:03.0f}' == name
    for width in (0.35, 0.72, 0.73, 1.1):
        assert describe(of(GhostNet, width=width)) == ('GhostNet', width)
    for network in (GhostNetV3, RepGhostNet):
        for settings in ({}, {'folded': True}, {'out_indices': (1,)}, {'num_classes': 2}):
            assert describe(of(network, **settings)) == (network.__name__, 0.5)
    assert describe({'conv_stem.weight': torch.rand(2)}) is None
    state = {key: value for key, value in of(GhostNet).items() if 'shortcut' not in key}
    for shape in ((), (0, 24, 1, 1)):  # nothing to tell a width by
        assert describe({**state, 'blocks.7.0.shortcut.2.weight': torch.zeros(shape)}) is None


@pytest.mark.parametrize(
    ('prefix', 'key'),
    [
        ('module.', 'state_dict'),
        ('_orig_mod.', 'model'),
        ('model.', 'model_state_dict'),
        ('module._orig_mod.', 'state_dict_ema'),
        ('_orig_mod.module.', None),
    ],
)
def test_wrappers_are_taken_off(prefix: str, key: str | None, tmp_path: Path) -> None:
    state = timms('ghostnet_050')
    wrapped = {**under(prefix, state), 'total_ops': torch.zeros(1)}
    path = save({key: wrapped} if key else wrapped, tmp_path / 'a.pth')
    model = build('ghostnet_050')
    assert 'GhostNet: 502 of 502 tensors' in str(load_pretrained(model, path))
    assert holds(model, state)


def detector(backbone: State, prefix: str = '') -> dict[str, Any]:
    """Return a checkpoint of mmengine."""
    hub = MessageHub.get_instance('test_loading')
    hub.update_scalar('train/loss', 1.0)
    others = {
        'neck.lateral_convs.0.conv.weight': torch.rand(4, 4, 1, 1),
        'neck.lateral_convs.0.conv.bias': torch.rand(4),
        'bbox_head.backbone.weight': torch.rand(4),
    }
    return {
        'meta': {'epoch': 1, 'dataset_meta': {'classes': ('cat',)}},
        'state_dict': under(prefix, {**others, **under('backbone.', backbone)}),
        'message_hub': hub.state_dict(),
        'optimizer': {'state': {}, 'param_groups': []},
    }


def trained(seed: int = 0, **settings: Any) -> tuple[GhostNet, State]:
    model = build('ghostnet_050', **settings)
    torch.manual_seed(seed)
    state = {
        key: torch.rand_like(value) if value.is_floating_point() else value + 5
        for key, value in model.state_dict().items()
    }
    return model, state


@pytest.mark.parametrize(('outer', 'prefix'), [('', None), ('module.', 'backbone'), ('model.', 'backbone.')])
def test_the_backbone_of_a_detector_is_loaded(outer: str, prefix: str | None, tmp_path: Path) -> None:
    model, state = trained()
    path = save(detector(state, outer), tmp_path / 'epoch_1.pth')
    loaded = load_pretrained(model, path, prefix)
    assert str(loaded) == f'GhostNet: 502 of 502 tensors from {path}; neck left out: 2; bbox_head left out: 1'
    assert holds(model, state)


def test_another_prefix_is_used_and_a_wrong_one_named(tmp_path: Path) -> None:
    model, state = trained()
    both = {**under('teacher.backbone.', state), **under('student.backbone.', timms('ghostnet_050', 3))}
    path = save(both, tmp_path / 'a.pth')
    loaded = load_pretrained(model, path, 'teacher.backbone')
    assert loaded.loaded == loaded.total == 502 and loaded.left_out == {'student': 512}
    assert holds(model, state)
    wrapped = save(under('module.mod.', state), tmp_path / 'b.pth')
    assert load_pretrained(model, wrapped, 'mod').loaded == 502
    with pytest.raises(UserError, match=r"prefix 'neck.'; .* student \(512\), teacher \(502\)$"):
        load_pretrained(model, path, 'neck')
    assert holds(model, state)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    state = timms('ghostnet_050')
    half = {key: value.half() for key, value in state.items()}
    model = build('ghostnet_050')
    assert load_pretrained(model, hubs(half, tmp_path)).loaded == 502
    assert holds(model, {key: value.to(state[key].dtype) for key, value in half.items()})


def changed(key: str, change: Callable[[Tensor], Tensor]) -> State:
    state = timms('ghostnet_050')
    return {**state, key: change(state[key])}


def with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float('nan')
    return tensor


def with_more(key: str) -> State:
    return {**timms('ghostnet_050'), key: torch.zeros(1)}


DEEP = 'blocks.8.3.ghost2.cheap_operation.1.running_var'
HALF = 'the file is of GhostNet of width 0.5. '
REFUSED: list[tuple[Callable[[], nn.Module], Callable[[], State], str]] = [
    (lambda: GhostNet(width=0.35), lambda: timms('ghostnet_050'), f'fit GhostNet of width 0.35: {HALF}'),
    (
        lambda: GhostNet(),
        lambda: timms('ghostnetv2_100'),
        'of GhostNetV2 of width 1. 252 tensors of',
    ),
    (lambda: GhostNetV2(width=0.5), lambda: timms('ghostnet_050'), f'{HALF}252 of 754 tensors differ: '),
    (lambda: build('ghostnet_050'), lambda: timms('repghostnet_050'), 'of RepGhostNet of width 0.5. '),
    (
        lambda: build('ghostnet_050'),
        lambda: timm.create_model('resnet10t').state_dict(),
        'of another kind of network. 501 of 502 tensors differ: conv_stem.weight is missing',
    ),
    (
        lambda: build('ghostnet_050'),
        lambda: {key: value for key, value in timms('ghostnet_050').items() if key != DEEP},
        f'1 of 502 tensors differ: {DEEP} is missing. ',
    ),
    *(
        (
            lambda: build('ghostnet_050', num_classes=1000),
            functools.partial(with_more, key),
            f'{HALF}1 tensors of the file are unknown: {key}. ',
        )
        for key in ('blocks.8.4.extra', 'blocks.10.0.conv.weight', 'classifier.scale')
    ),
    (lambda: build('ghostnet_050'), lambda: changed(DEEP, with_nan), f'NaN or infinite values: 1: {DEEP}'),
    (
        lambda: build('ghostnet_050'),
        lambda: changed(DEEP, lambda value: value.double() + 1e300),
        f'NaN or infinite values: 1: {DEEP}',
    ),
    (
        lambda: build('ghostnet_050'),
        lambda: changed(DEEP, Tensor.char),
        f'{DEEP}: expected torch.float32, got torch.int8',
    ),
    (
        lambda: build('ghostnet_050', norm_layer=GROUP_NORM),
        lambda: timms('ghostnet_050'),
        'unknown: bn1.running_mean; ',
    ),
    (
        lambda: build('ghostnet_050', dw_size=5),
        lambda: timms('ghostnet_050'),
        'cheap_operation.0.weight: expected (4, 1, 5, 5), got (4, 1, 3, 3)',
    ),
    (
        lambda: build('ghostnet_050', num_classes=20),
        lambda: timms('ghostnet_050'),
        '2 of 512 tensors differ: classifier.weight: expected (20, 1280), got (1000, 1280); ',
    ),
    (lambda: build('ghostnet_050'), lambda: of(GhostNet, out_indices=(0,)), 'blocks.3.0.ghost1.'),
    (
        lambda: RepGhostNet(width=0.5),
        lambda: of(RepGhostNet, folded=True),
        'fit RepGhostNet of width 0.5: the file is of RepGhostNet of width 0.5, folded for deployment. ',
    ),
    (
        lambda: build('ghostnet_050'),
        lambda: {**of(GhostNet), 'conv_stem.weight': torch.zeros(8, 3, 3, 3).to_sparse()},
        'conv_stem.weight is sparse',
    ),
    (
        lambda: build('ghostnet_050'),
        lambda: {**of(GhostNet), 'conv_stem.weight': torch.zeros(1).expand(10**9, 1280)},
        'conv_stem.weight is sparse, quantized, expanded',
    ),
    (
        lambda: build('ghostnet_050'),
        lambda: {**of(GhostNet), 'conv_stem.weight': torch.zeros(())},
        'conv_stem.weight: expected (8, 3, 3, 3), got ()',
    ),
    (lambda: nn.Linear(2, 2), lambda: timms('ghostnet_050'), f'does not fit Linear: {HALF}2 of 2 tensors'),
]


@pytest.mark.parametrize(('model', 'content', 'message'), REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    model: Callable[[], nn.Module], content: Callable[[], State], message: str, tmp_path: Path
) -> None:
    network = model()
    before = copy.deepcopy(network.state_dict())
    path = save(content(), tmp_path / 'a.pth')
    with pytest.raises(UserError) as error:
        load_pretrained(network, path)
    assert f'{path}: ' in str(error.value) and message in str(error.value)
    assert holds(network, before)


def test_a_folded_network_takes_only_a_folded_file(tmp_path: Path) -> None:
    model = RepGhostNet(width=0.5)
    model.switch_to_deploy()
    folded = hubs(of(RepGhostNet, folded=True), tmp_path)
    loaded = load_pretrained(model, folded)
    assert loaded.loaded == loaded.total == len(load_file(folded))
    with pytest.raises(UserError, match='folded for deployment: the file is of RepGhostNet of width 0.5. '):
        load_pretrained(model, save(of(RepGhostNet), tmp_path / 'a.pth'))


@pytest.mark.parametrize('key', ['classifier.weight', 'blocks.9.0.bn1.running_var'])
def test_problems_in_what_is_left_out_do_not_matter(key: str, tmp_path: Path) -> None:
    state = changed(key, with_nan)
    model = build('ghostnet_050')
    load_pretrained(model, save(state, tmp_path / 'a.pth'))
    assert holds(model, state)


def write(content: bytes) -> Callable[[Path], None]:
    return lambda path: Path.write_bytes(path, content) and None


def cut(save_to: Callable[[Any, Path], Any], size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        save_to({'a': torch.rand(1000)}, path)
        path.write_bytes(path.read_bytes()[:size])

    return make


@pytest.mark.parametrize(
    'make',
    [
        lambda path: None,
        Path.mkdir,
        write(b''),
        write(b'<!DOCTYPE html>\n<p>'),
        write(b'version https://git-lfs.github.com/spec/v1\n'),
        write(b'\x80\x02}'),
        write(b'PK\x03\x04'),
        cut(save_file, 3000),
        cut(save_file, 20),
        cut(torch.save, 3000),
        lambda path: save([torch.rand(2)], path),
        lambda path: save({1: torch.rand(2)}, path),
        lambda path: save({'state_dict': {}}, path),
        lambda path: save({'epoch': 3}, path),
        lambda path: save_file({}, path),
        lambda path: path.symlink_to('/proc/self/mem'),
    ],
)
def test_a_file_without_weights_is_named(make: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    make(path)
    with pytest.raises(UserError) as error:
        load_pretrained(build('ghostnet_050'), path)
    assert str(error.value).startswith(f'{path}: ') and '\n' not in str(error.value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub, with small ``ghostnet_100``."""
    with running(monkeypatch, tmp_path) as server:
        entry = replace(
            PUBLISHED['ghostnet_100'],
            width=0.5,
            revision='main',
            sha256=None,
            git_blob=None,
            url=f'{server.url}/raw/a.pth',
        )
        monkeypatch.setitem(PUBLISHED, 'ghostnet_100', entry)
        server.publish(entry, hubs(timms('ghostnet_050'), tmp_path).read_bytes())
        yield server


@pytest.mark.parametrize(('place', 'zipped'), [('file', True), ('url', False), ('upstream', True)])
def test_code_in_a_file_is_never_run(hub: Hub, place: str, zipped: bool, tmp_path: Path) -> None:
    trap = tmp_path / 'executed'
    content = {**timms('ghostnet_050'), 'trap': canary(trap)}
    path = save(content, tmp_path / 'evil.pth', _use_new_zipfile_serialization=zipped)
    source = 'ghost://ghostnet_100'
    if place == 'file':
        source = str(path)
    elif place == 'url':
        source = hub.serve('/evil.pth', path.read_bytes())
    else:
        hub.files.clear()
        hub.serve('/raw/a.pth', path.read_bytes())
    model, _ = trained()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match='refused: it holds posix.mkdir, which is not weights'):
        load_pretrained(model, source)
    assert holds(model, before) and not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.is_dir()  # the trap works


def test_partial_needs_something_that_fits(tmp_path: Path) -> None:
    model, before = trained(norm_layer=GROUP_NORM)
    model.load_state_dict(before)
    path = save({'a': torch.rand(2)}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='does not fit GhostNet'):
        load_pretrained(model, path, partial=True)
    both = {'a': torch.rand(2), 'bn1.weight': torch.rand(8)}
    loaded = load_pretrained(model, save(both, path), partial=True)
    assert loaded.loaded == 1 and loaded.left_out == {'others': 1} and len(loaded.missing) == loaded.total - 1
    assert holds(model, {**before, 'bn1.weight': both['bn1.weight']})


def test_an_extracted_backbone_is_complete(tmp_path: Path) -> None:
    model, state = trained()
    state['conv_stem.weight'] = state['conv_stem.weight'].to(memory_format=torch.channels_last)
    state['bn1.bias'] = state['bn1.weight']  # safetensors refuses what shares memory
    out = tmp_path / 'new' / 'backbone.safetensors'
    written = extract_backbone(save(detector(state), tmp_path / 'epoch_1.pth'), out)
    assert written.keys() == state.keys()
    loaded = load_pretrained(model, out)
    assert str(loaded) == f'GhostNet: 502 of 502 tensors from {out}'
    assert holds(model, state)
    with safe_open(out, 'pt') as file:
        about = dict(source='epoch_1.pth', format='pt', network='GhostNet', width='0.5')
        assert file.metadata() == about
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_what_cannot_be_extracted_is_reported(tmp_path: Path) -> None:
    _, state = trained()
    path = save(detector(state), tmp_path / 'epoch_1.pth')
    for out in ('backbone.pth', 'epoch_1.pth/a.safetensors'):
        with pytest.raises(UserError, match=f'-o .*{out}: '):
            extract_backbone(path, tmp_path / out)
    out = tmp_path / 'a.safetensors'
    with pytest.raises(UserError, match=r"epoch_1.pth: .*'head.'; .* backbone \(502\), neck"):
        extract_backbone(path, out, 'head')
    with pytest.raises(UserError, match=r"b.pth: .*'backbone.'; .*blocks \(496\)"):
        extract_backbone(save(state, tmp_path / 'b.pth'), out)
    assert not out.exists()
    assert len(extract_backbone(path, out, 'neck.lateral_convs')) == 2
