"""Files in the layouts of timm and of the authors, into every network; and files that must be refused."""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ghost_det.errors import UserError
from ghost_det.models import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet
from ghost_det.weights.load import describe, extract_backbone, load_pretrained
from ghost_det.weights.pickles import SAFE_TORCH
from ghost_det.weights.zoo import classifier, verify

State = dict[str, Tensor]
GROUP_NORM = functools.partial(nn.GroupNorm, 2)
CLASSIFIER = 10  # blocks.9 with its norm (6), conv_head (2), classifier (2)


def build(network: type[GhostNet] = GhostNet, folded: bool = False, **settings: Any) -> GhostNet:
    model = network(**{'width': 0.5, **settings})
    if folded:
        model.switch_to_deploy()
    return model


def filled(shapes: State) -> State:
    """Give each place of each tensor a value of its own, which half precision holds."""
    return {
        key: torch.rand(value.shape).half().float() if value.is_floating_point() else torch.tensor(7)
        for key, value in shapes.items()
    }


@functools.cache
def timms(name: str = 'ghostnet_050') -> State:
    """Return tensors for timm's network of this name."""
    with torch.device('meta'):
        shapes = timm.create_model(name).state_dict()
    torch.manual_seed(0)
    return filled(shapes)


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def holds(model: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def save(content: Any, path: Path, **settings: Any) -> Path:
    if path.suffix == '.safetensors':
        save_file(content, path)
    else:
        torch.save(content, path, **settings)
    return path


def training(state: State, prefix: str = '') -> dict[str, Any]:
    """Return a training checkpoint of timm's old trainer; its averaged weights are the ones published."""
    return {
        'arch': 'any',
        'state_dict': under(prefix, {key: value * 0 for key, value in state.items()}),
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
        'args': argparse.Namespace(lr=0.6, betas=None),
        'state_dict_ema': under(prefix, state),
    }


PROFILED = {f'{place}total_ops': torch.zeros(1).double() for place in ('', 'blocks.0.0.ghost1.')}


def ghostnetv3s(state: State) -> dict[str, Any]:
    theirs = {key.replace('.bn1.', '.bn.') if '_rpr_' in key else key: value for key, value in state.items()}
    assert sum(key not in state for key in theirs) == 1200  # as counted in the authors' code
    return training(theirs)


@pytest.mark.parametrize(
    ('name', 'count', 'file', 'layout'),
    [
        ('ghostnet_050', 512, 'model.safetensors', dict),
        ('ghostnet_050', 512, 'half.safetensors', lambda state: {k: v.half() for k, v in state.items()}),
        ('ghostnet_050', 512, 'state_dict_73.98.pth', dict),
        ('ghostnetv2_100', 764, 'ck_ghostnetv2_10.pth.tar', lambda state: PROFILED | state),
        ('ghostnetv3_050', 1956, 'ghostnetv3-1.0.pth.tar', ghostnetv3s),
        ('repghostnet_050', 672, 'repghostnet_0_5x.pth.tar', lambda state: training(state, 'module.')),
    ],
)
def test_every_tensor_is_loaded_from_the_file_of(
    name: str, count: int, file: str, layout: Callable[[State], Any], tmp_path: Path
) -> None:
    state = timms(name)
    is_zip = file != 'state_dict_73.98.pth'  # written by torch before 1.6
    path = save(layout(state), tmp_path / file, _use_new_zipfile_serialization=is_zip)
    complete, backbone = classifier(name), classifier(name, num_classes=None)
    kind, rest = type(backbone).__name__, count - CLASSIFIER
    line = f'{kind}: {rest} of {rest} tensors from {path}; classifier left out: {CLASSIFIER}'
    assert str(load_pretrained(backbone, path)) == line
    assert len(backbone.state_dict()) == rest and holds(backbone, state)
    loaded = load_pretrained(complete, path)
    assert loaded.loaded == loaded.total == count and not loaded.left_out
    assert holds(complete, state)


def test_a_file_tells_its_network_and_width() -> None:
    for name in ('ghostnet_130', 'ghostnetv2_160', 'ghostnetv3_100', 'repghostnet_058'):
        with torch.device('meta'):
            network, width = describe(timm.create_model(name).state_dict()) or ('', 0)
        assert f'{network.lower()}_{100 * width:03.0f}' == name
    assert describe(build(width=0.73).state_dict()) == ('GhostNet', 0.73)
    for kind in (GhostNetV3, RepGhostNet):
        for settings in (dict(folded=True), dict(out_indices=(1,))):
            assert describe(build(kind, **settings).state_dict()) == (kind.__name__, 0.5)
    state = {key: value for key, value in build().state_dict().items() if 'shortcut' not in key}
    for shape in ((), (0, 24, 1, 1)):  # nothing to tell a width by
        assert describe({**state, 'blocks.7.0.shortcut.2.weight': torch.zeros(shape)}) is None


def detector(state: State, prefix: str = '') -> dict[str, Any]:
    """Return a checkpoint of mmengine."""
    others = ('neck.lateral.weight', 'neck.lateral.bias', 'bbox_head.backbone.weight')
    tensors = dict.fromkeys(others, torch.rand(4)) | under('backbone.', state)
    return {'meta': {'epoch': 1}, 'state_dict': under(prefix, tensors), 'optimizer': {'state': {}}}


NECK_AND_HEAD = {'neck': 2, 'bbox_head': 1}


@pytest.mark.parametrize(
    ('wrap', 'prefix', 'left_out'),
    [
        (lambda state: {'state_dict': under('module.', state)}, None, {}),
        (lambda state: {'model_state_dict': under('model.', state) | PROFILED}, None, {}),
        (lambda state: {'model': under('module._orig_mod.', state)}, None, {}),
        (lambda state: detector(state), None, NECK_AND_HEAD),
        (lambda state: detector(state, 'module.'), 'backbone', NECK_AND_HEAD),
        (lambda state: detector(state, 'model.'), 'backbone.', NECK_AND_HEAD),
        (lambda state: under('module.mod.', state), 'mod', {}),
        (
            lambda state: under('teacher.backbone.', state) | under('student.', build().state_dict()),
            'teacher.backbone',
            {'student': 502},
        ),
    ],
)
def test_wrappers_and_prefixes_are_taken_off(
    wrap: Callable[[State], Any], prefix: str | None, left_out: dict[str, int], tmp_path: Path
) -> None:
    model = build()
    state = filled(model.state_dict())
    path = save(wrap(state), tmp_path / 'a.pth')
    loaded = load_pretrained(model, path, prefix)
    assert loaded.loaded == loaded.total == 502 and loaded.left_out == left_out
    assert holds(model, state)
    with pytest.raises(UserError, match=r"a.pth: no tensor has the prefix 'head\.'; .* \(\d+\)"):
        load_pretrained(model, path, 'head')


def with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float('nan')
    return tensor


HALF = 'the file is of GhostNet of width 0.5, 1000 classes'
FOLDED = 'fit RepGhostNet of width 0.5: the file is of RepGhostNet of width 0.5, folded for deployment. '
DEEP = 'blocks.8.3.ghost2.cheap_operation.1.running_var'
STEM = 'conv_stem.weight'


def changed(key: str, change: Callable[[Any], Any]) -> State:
    """Return timm's tensors with one of them changed, new or, if None, missing."""
    state = {**timms(), key: change(timms().get(key, 0))}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ('settings', 'content', 'message'),
    [
        (dict(width=0.35), timms, f'GhostNet of width 0.35: {HALF}. '),
        (dict(network=GhostNetV2), timms, f'{HALF}. 252 of 754 tensors differ: '),
        (dict(), lambda: timms('ghostnetv2_100'), 'of GhostNetV2 of width 1, 1000 classes. '),
        (dict(), lambda: timms('resnet10t'), 'of another kind of network. 501 of 502 tensors differ: conv_'),
        (dict(norm_layer=GROUP_NORM), timms, 'unknown: bn1.running_mean; '),
        (dict(dw_size=5), timms, '0.weight: expected (4, 1, 5, 5), got (4, 1, 3, 3)'),
        (dict(num_classes=20), timms, '2 of 512 tensors differ: classifier.weight: expected (20, '),
        (dict(), lambda: build(out_indices=(0,)).state_dict(), 'blocks.3.0.ghost1.'),
        (dict(network=RepGhostNet), lambda: build(RepGhostNet, folded=True).state_dict(), FOLDED),
        (dict(network=RepGhostNet, folded=True), lambda: timms('repghostnet_050'), 'folded for deployment:'),
        *(
            (dict(num_classes=1000), functools.partial(changed, key, change), message.replace('KEY', key))
            for key, change, message in [
                (DEEP, lambda value: None, '1 of 512 tensors differ: KEY is missing. '),
                (DEEP, with_nan, 'NaN or infinite values: 1: KEY'),
                (DEEP, lambda value: value.double() + 1e300, 'NaN or infinite values: 1: KEY'),
                (DEEP, Tensor.char, 'KEY: expected torch.float32, got torch.int8'),
                (STEM, Tensor.to_sparse, 'KEY is sparse' if SAFE_TORCH else '_rebuild_sparse_tensor'),
                (STEM, lambda value: torch.zeros(()), 'KEY: expected (8, 3, 3, 3), got ()'),
                ('blocks.8.4.extra', torch.tensor, '1 tensors of the file are unknown: KEY. '),
                ('blocks.10.0.conv.weight', torch.tensor, '1 tensors of the file are unknown: KEY. '),
                ('classifier.scale', torch.tensor, '1 tensors of the file are unknown: KEY. '),
            ]
        ),
    ],
)
def test_a_file_of_another_network_or_with_a_wrong_tensor_is_refused_and_changes_nothing(
    settings: dict[str, Any], content: Callable[[], State], message: str, tmp_path: Path
) -> None:
    model = build(**settings)
    before = copy.deepcopy(model.state_dict())
    path = save(content(), tmp_path / 'a.pth')
    with pytest.raises(UserError) as error:
        load_pretrained(model, path)
    assert f'{path}: ' in str(error.value) and message in str(error.value)
    assert holds(model, before)


def test_a_folded_file_fits_a_folded_network_and_problems_in_what_is_left_out_do_not_matter(
    tmp_path: Path,
) -> None:
    model = build(RepGhostNet, folded=True)
    state = filled(model.state_dict())
    path = save({**state, 'classifier.weight': with_nan(torch.ones(2, 2))}, tmp_path / 'a.safetensors')
    assert load_pretrained(model, path).loaded == len(state) == len(load_file(path)) - 1
    assert holds(model, state)


def test_partial_needs_something_that_fits(tmp_path: Path) -> None:
    model = build(norm_layer=GROUP_NORM)
    before = copy.deepcopy(model.state_dict())
    path = save({'a': torch.rand(2)}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='does not fit GhostNet'):
        load_pretrained(model, path, partial=True)
    both = {'a': torch.rand(2), 'bn1.weight': torch.rand(8)}
    loaded = load_pretrained(model, save(both, path), partial=True)
    assert loaded.loaded == 1 and loaded.left_out == {'others': 1} and len(loaded.missing) == loaded.total - 1
    assert holds(model, {**before, 'bn1.weight': both['bn1.weight']})


@pytest.mark.parametrize(
    ('name', 'make'),
    [
        ('nothing', lambda path: None),
        ('folder', Path.mkdir),
        ('empty', Path.touch),
        ('pickle.pth', lambda path: path.write_bytes(b'\x80\x02}')),
        ('cut.safetensors', lambda path: path.write_bytes(save(timms(), path).read_bytes()[:3000])),
        ('cut.pth', lambda path: path.write_bytes(save(timms(), path).read_bytes()[:3000])),
        ('list.pth', lambda path: save([torch.rand(2)], path)),
        ('numbered.pth', lambda path: save({1: torch.rand(2)}, path)),
        ('no_tensors.pth', lambda path: save({'state_dict': {}}, path)),
        ('none.safetensors', lambda path: save({}, path)),
        ('unreadable', lambda path: path.symlink_to('/proc/self/mem')),
    ],
)
def test_a_file_without_weights_is_named(name: str, make: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError) as error:
        load_pretrained(build(), path)
    assert str(error.value).startswith(f'{path}: ') and '\n' not in str(error.value)


def test_an_extracted_backbone_is_complete(tmp_path: Path) -> None:
    model = build()
    state = filled(model.state_dict())
    state[STEM] = state[STEM].to(memory_format=torch.channels_last)
    state['bn1.bias'] = state['bn1.weight']  # safetensors refuses what shares memory
    path, out = save(detector(state), tmp_path / 'epoch_1.pth'), tmp_path / 'new' / 'backbone.safetensors'
    assert extract_backbone(path, out).keys() == state.keys()
    assert str(load_pretrained(model, out)) == f'GhostNet: 502 of 502 tensors from {out}'
    assert holds(model, state)
    with safe_open(out, 'pt') as file:
        about = dict(source='epoch_1.pth', format='pt', network='GhostNet', width='0.5')
        assert file.metadata() == about
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert len(extract_backbone(path, out, 'neck.lateral')) == 2


def test_a_network_with_fewer_last_bottlenecks_takes_published_weights_and_is_known_by_its_own(
    tmp_path: Path,
) -> None:
    model, path = build(last_blocks=2), save(timms(), tmp_path / 'a.pth')
    assert load_pretrained(model, path).left_out == {'last bottlenecks': 52, 'classifier': 10}
    out = save(model.state_dict(), tmp_path / 'b.pth')
    assert verify(out).loaded == 450
    with pytest.raises(UserError, match='the file is of .* with last_blocks=2 .*52 of 502 tensors differ'):
        load_pretrained(build(), out)


def test_what_cannot_be_extracted_is_reported_and_nothing_written(tmp_path: Path) -> None:
    path = save(detector(timms()), tmp_path / 'epoch_1.pth')
    for out in ('backbone.pth', 'epoch_1.pth/a.safetensors'):
        with pytest.raises(UserError, match=f'-o .*{out}: '):
            extract_backbone(path, tmp_path / out)
    with pytest.raises(UserError, match=r"b.pth: .*'backbone.'; .*blocks \(502\)"):
        extract_backbone(save(timms(), tmp_path / 'b.pth'), tmp_path / 'a.safetensors')
    assert len(list(tmp_path.iterdir())) == 2
