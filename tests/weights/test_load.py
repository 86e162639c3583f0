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
from ghost_det.weights.download import by_hand
from ghost_det.weights.load import describe, extract_backbone, load_pretrained, read_tensors

from .hub import Hub, running
from .test_checkpoint import Canary

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
        'version': 2,
        'args': argparse.Namespace(lr=0.6, betas=None),
        'amp_scaler': {'scale': 65536.0},
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
        *((name, hubs) for name in NETWORKS),
        ('ghostnet_050', ghostnets),
        ('ghostnetv2_100', ghostnetv2s),
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


def test_a_file_tells_its_network_and_width() -> None:
    for name in timm.list_models('*ghostnet*'):
        with torch.device('meta'):
            network, width = describe(timm.create_model(name).state_dict()) or ('', 0)
        assert f'{network.lower()}_{100 * width:03.0f}' == name
    for width in (0.35, 1.1):
        assert describe(of(GhostNet, width=width)) == ('GhostNet', width)
    for network in (GhostNetV3, RepGhostNet):
        for settings in ({}, {'folded': True}, {'out_indices': (1,)}, {'num_classes': 2}):
            assert describe(of(network, **settings)) == (network.__name__, 0.5)
    assert describe({'conv_stem.weight': torch.rand(2)}) is None


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


@pytest.mark.parametrize('outer', ['', 'module.', 'model.'])
@pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
def test_of_a_detector_the_backbone_is_loaded(outer: str, prefix: str | None, tmp_path: Path) -> None:
    model, state = trained()
    path = save(detector(state, outer), tmp_path / 'epoch_1.pth')
    loaded = load_pretrained(model, path, prefix)
    assert str(loaded) == f'GhostNet: 502 of 502 tensors from {path}; neck left out: 2; bbox_head left out: 1'
    assert holds(model, state)


def test_another_prefix_is_obeyed_and_a_wrong_one_named(tmp_path: Path) -> None:
    model, state = trained()
    both = {**under('teacher.backbone.', state), **under('student.backbone.', timms('ghostnet_050', 3))}
    path = save(both, tmp_path / 'a.pth')
    loaded = load_pretrained(model, path, 'teacher.backbone')
    assert loaded.loaded == loaded.total == 502 and loaded.left_out == {'student': 512}
    assert holds(model, state)
    wrapped = save(under('module.mod.', state), tmp_path / 'b.pth')
    assert load_pretrained(model, wrapped, 'mod').loaded == 502
    with pytest.raises(
        UserError, match=r"no tensor has the prefix 'neck.'; .* student \(512\), teacher \(502\)$"
    ):
        load_pretrained(model, path, 'neck')
    assert holds(model, state)


def test_half_precision_is_loaded_as_it_is(tmp_path: Path) -> None:
    state = timms('ghostnet_050')
    half = {key: value.half() for key, value in state.items()}
    model = build('ghostnet_050')
    assert load_pretrained(model, hubs(half, tmp_path)).loaded == 502
    assert holds(model, {key: value.to(state[key].dtype) for key, value in half.items()})


def without(state: State, *keys: str) -> State:
    return {key: value for key, value in state.items() if key not in keys}


def changed(state: State, key: str, change: Callable[[Tensor], Tensor]) -> State:
    return {**state, key: change(state[key])}


def with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float('nan')
    return tensor


def of(network: type[GhostNet], folded: bool = False, **settings: Any) -> State:
    model = network(**{'width': 0.5, **settings})
    if folded:
        model.switch_to_deploy()
    return dict(model.state_dict())


DEEP = 'blocks.8.3.ghost2.cheap_operation.1.running_var'
HALF = 'the file is of GhostNet of width 0.5. '


@pytest.mark.parametrize(
    ('model', 'content', 'messages'),
    [
        (
            lambda: GhostNet(width=0.35),
            lambda: timms('ghostnet_050'),
            [
                f'does not fit GhostNet of width 0.35: {HALF}',
                'of 502 tensors differ: blocks.1.0.',
                ': expected (8, 8, 1, 1), got (12, 8, 1, 1)',
                'init_cfg=None',
                'partial=True',
            ],
        ),
        (
            lambda: GhostNet(),
            lambda: timms('ghostnetv2_100'),
            [
                'GhostNet of width 1: the file is of GhostNetV2 of width 1. 252 of the file have no place: ',
                ': blocks.2.0.ghost1.short_conv.0.weight; ',
            ],
        ),
        (
            lambda: GhostNetV2(width=0.5),
            lambda: timms('ghostnet_050'),
            [
                f'does not fit GhostNetV2 of width 0.5: {HALF}252 of 754 tensors differ: ',
                'short_conv.0.weight is missing',
            ],
        ),
        (
            lambda: GhostNet(width=0.5),
            lambda: timms('repghostnet_050'),
            ['the file is of RepGhostNet of width 0.5. ', 'have no place', 'fusion_bn'],
        ),
        (
            lambda: GhostNet(width=0.5),
            lambda: timm.create_model('resnet10t').state_dict(),
            [
                'the file is of another kind of network. ',
                '501 of 502 tensors differ: conv_stem.weight is missing',
                'of the file have no place: conv1.0.weight; ',
            ],
        ),
        (
            lambda: GhostNet(width=0.5),
            lambda: without(timms('ghostnet_050'), DEEP),
            [f'1 of 502 tensors differ: {DEEP} is missing. '],
        ),
        *(
            (
                lambda: GhostNet(width=0.5, num_classes=1000),
                functools.partial(lambda key: {**timms('ghostnet_050'), key: torch.zeros(1)}, key),
                [f'GhostNet of width 0.5: {HALF}1 of the file have no place: {key}. '],
            )
            for key in ('blocks.8.4.extra', 'blocks.10.0.conv.weight', 'classifier.scale')
        ),
        (
            lambda: GhostNet(width=0.5),
            lambda: changed(timms('ghostnet_050'), DEEP, with_nan),
            [f'tensors with NaN or infinite values: 1: {DEEP}'],
        ),
        (
            lambda: GhostNet(width=0.5),
            lambda: changed(timms('ghostnet_050'), DEEP, lambda value: value.double() + 1e300),
            [f'tensors with NaN or infinite values: 1: {DEEP}'],
        ),
        (
            lambda: GhostNet(width=0.5),
            lambda: changed(timms('ghostnet_050'), DEEP, Tensor.char),
            [f'1 of 502 tensors differ: {DEEP}: expected torch.float32, got torch.int8'],
        ),
        (
            lambda: GhostNet(width=0.5, norm_layer=GROUP_NORM),
            lambda: timms('ghostnet_050'),
            ['of the file have no place: bn1.running_mean; bn1.running_var; '],
        ),
        (
            lambda: GhostNet(width=0.5),
            lambda: of(GhostNet, norm_layer=GROUP_NORM),
            ['of 502 tensors differ: bn1.running_mean is missing; '],
        ),
        (lambda: GhostNet(width=0.5, ratio=4), lambda: timms('ghostnet_050'), ['primary_conv.0.weight: ']),
        (
            lambda: GhostNet(width=0.5, dw_size=5),
            lambda: timms('ghostnet_050'),
            ['cheap_operation.0.weight: expected (4, 1, 5, 5), got (4, 1, 3, 3)'],
        ),
        (
            lambda: GhostNet(width=0.5, num_classes=20),
            lambda: timms('ghostnet_050'),
            ['2 of 512 tensors differ: classifier.weight: expected (20, 1280), got (1000, 1280); '],
        ),
        (
            lambda: GhostNet(width=1.1, out_indices=(0, 1, 2, 3)),
            lambda: of(GhostNet, width=1.1, out_indices=(0,)),
            ['blocks.3.0.ghost1.primary_conv.0.weight is missing'],
        ),
        (
            lambda: GhostNetV3(width=0.5),
            lambda: of(GhostNetV3, folded=True),
            ['fit GhostNetV3 of width 0.5: ', 'of GhostNetV3 of width 0.5, folded for deployment. '],
        ),
        (
            lambda: RepGhostNet(width=0.5),
            lambda: of(RepGhostNet, folded=True),
            ['fit RepGhostNet of width 0.5: ', 'of RepGhostNet of width 0.5, folded for deployment. '],
        ),
        (
            lambda: nn.Linear(2, 2),
            lambda: timms('ghostnet_050'),
            [f'does not fit Linear: {HALF}2 of 2 tensors differ'],
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    model: Callable[[], nn.Module], content: Callable[[], State], messages: list[str], tmp_path: Path
) -> None:
    network = model()
    before = copy.deepcopy(network.state_dict())
    path = save(content(), tmp_path / 'a.pth')
    with pytest.raises(UserError) as error:
        load_pretrained(network, path)
    for message in (f'{path}: ', *messages):
        assert message in str(error.value), (message, str(error.value))
    assert holds(network, before)


def test_a_folded_network_takes_only_a_folded_file(tmp_path: Path) -> None:
    model = RepGhostNet(width=0.5)
    model.switch_to_deploy()
    folded = hubs(of(RepGhostNet, folded=True), tmp_path)
    loaded = load_pretrained(model, folded)
    assert loaded.loaded == loaded.total == len(load_file(folded))
    with pytest.raises(
        UserError,
        match='folded for deployment: the file is of RepGhostNet of width 0.5. ',
    ):
        load_pretrained(model, save(of(RepGhostNet), tmp_path / 'a.pth'))


@pytest.mark.parametrize('key', ['classifier.weight', 'blocks.9.0.bn1.running_var', 'conv_head.bias'])
def test_problems_in_what_is_left_out_do_not_matter(key: str, tmp_path: Path) -> None:
    state = changed(timms('ghostnet_050'), key, with_nan)
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
    ('make', 'message'),
    [
        (lambda path: None, 'expected a checkpoint file, found nothing'),
        (Path.mkdir, 'expected a checkpoint file, found a folder'),
        (write(b''), 'empty'),
        (write(b'<!DOCTYPE html>\n<p>'), 'a web page, not weights (a login or an error page, as a browser'),
        (write(b'\xef\xbb\xbf<html lang="en">'), 'a web page, not weights'),
        (
            write(b'version https://git-lfs.github.com/spec/v1\n'),
            'a pointer of Git LFS, not weights: get the',
        ),
        (write(b'Not Found'), "not weights; it begins with b'Not Found'"),
        (write(b'\x80\x02}'), 'not a checkpoint that torch can read, or a damaged one'),
        (write(b'PK\x03\x04'), 'damaged: it ends too early'),
        (cut(save_file, 3000), 'damaged: Error while deserializing header: incomplete metadata'),
        (cut(save_file, 20), 'damaged: Error while deserializing header'),
        (cut(torch.save, 3000), 'damaged: it ends too early'),
        (lambda path: save([torch.rand(2)], path), 'expected a dictionary of weights, found list'),
        (lambda path: save({1: torch.rand(2)}, path), 'expected a dictionary of named weights'),
        (lambda path: save({'state_dict': {}}, path), 'holds no tensors'),
        (lambda path: save({'epoch': 3}, path), 'holds no tensors'),
        (lambda path: save_file({}, path), 'holds no tensors'),
        (lambda path: path.symlink_to('/proc/self/mem'), 'cannot be read (Input/output error)'),
    ],
)
def test_a_file_without_weights_is_named_with_what_it_is(
    make: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / 'weights.pth'
    make(path)
    model = build('ghostnet_050')
    with pytest.raises(UserError) as error:
        load_pretrained(model, path)
    assert str(error.value).startswith(f'{path}: {message}')


def test_a_file_of_torch_under_the_other_name_is_answered_by_its_own(tmp_path: Path) -> None:
    path = save(timms('ghostnet_050'), tmp_path / 'a.safetensors')
    with pytest.raises(UserError, match=f'^{path}: named .safetensors, .* rename it to a.pth$'):
        read_tensors(path)
    assert read_tensors(hubs(timms('ghostnet_050'), tmp_path).rename(tmp_path / 'b.pth'))


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


@pytest.mark.parametrize('place', ['file', 'url', 'by hand', 'upstream'])
@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_file_is_never_run(hub: Hub, place: str, zipped: bool, tmp_path: Path) -> None:
    trap = tmp_path / 'executed'
    content = {**timms('ghostnet_050'), 'trap': Canary(trap)}
    path = save(content, tmp_path / 'evil.pth', _use_new_zipfile_serialization=zipped)
    source = 'ghost://ghostnet_100'
    if place == 'file':
        source = str(path)
    elif place == 'url':
        source = hub.serve('/evil.pth', path.read_bytes())
    elif place == 'by hand':
        by_hand(PUBLISHED['ghostnet_100']).parent.mkdir(parents=True)
        by_hand(PUBLISHED['ghostnet_100'], '.pth').write_bytes(path.read_bytes())
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


def test_a_published_name_promises_its_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, 'ghostnet_100', replace(PUBLISHED['ghostnet_100'], width=1.3))
    with pytest.raises(UserError, match='of width 1.3, got GhostNet of width 0.5 in .*; delete it'):
        load_pretrained(GhostNet(width=0.5), 'ghost://ghostnet_100')


@pytest.mark.parametrize(
    ('tensor', 'message'),
    [
        (torch.zeros(1, device='meta').expand(8, 3, 3, 3), 'no plain tensor'),
        (torch.zeros(8, 3, 3, 3).to_sparse(), 'no plain tensor'),
        (torch.zeros(1).expand(10**9, 1280), 'has fewer numbers in the file'),
        (torch.zeros(()), r'conv_stem.weight: expected \(8, 3, 3, 3\), got \(\)'),
    ],
)
def test_odd_tensors_are_named(tensor: torch.Tensor, message: str, tmp_path: Path) -> None:
    content = {**GhostNet(width=0.5).state_dict(), 'conv_stem.weight': tensor}
    torch.save(content, tmp_path / 'odd.pth')
    with pytest.raises(UserError, match=message):
        load_pretrained(GhostNet(width=0.5), tmp_path / 'odd.pth')


@pytest.mark.parametrize('shape', [(), (0, 24, 1, 1)])
def test_a_width_is_not_guessed_from_nothing(shape: tuple[int, ...]) -> None:
    state = {key: value for key, value in GhostNet(width=0.5).state_dict().items() if 'shortcut' not in key}
    assert describe({**state, 'blocks.7.0.shortcut.2.weight': torch.zeros(shape)}) is None


@pytest.mark.parametrize('width', [0.35, 0.5, 0.58, 0.72, 0.73, 1.0, 1.11, 1.3, 2.0])
def test_widths_are_told_apart(width: float) -> None:
    for network in (GhostNet, RepGhostNet):
        found = describe(network(width=width).state_dict())
        assert found is not None and found[0] == network.__name__
        assert network(width=found[1]).out_channels == network(width=width).out_channels


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
    (tmp_path / 'folder.safetensors').mkdir()
    for out, message in (
        ('backbone.pth', '-o .*backbone.pth: expected a name that ends in .safetensors'),
        ('epoch_1.pth/a.safetensors', r'-o .*a.safetensors: cannot be written \(.+\)'),
        ('folder.safetensors', r'-o .*folder.safetensors: cannot be written \(Is a directory\)'),
    ):
        with pytest.raises(UserError, match=message):
            extract_backbone(path, tmp_path / out)
    out = tmp_path / 'a.safetensors'
    with pytest.raises(
        UserError, match=r"epoch_1.pth: no tensor has the prefix 'head.'; .* backbone \(502\), neck"
    ):
        extract_backbone(path, out, 'head')
    with pytest.raises(UserError, match=r"b.pth: no tensor has the prefix 'backbone.'; .*blocks \(496\)"):
        extract_backbone(save(state, tmp_path / 'b.pth'), out)
    assert not out.exists()
    assert len(extract_backbone(path, out, 'neck.lateral_convs')) == 2
