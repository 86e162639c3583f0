from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ghost_det
from ghost_det import classifier, feature_extractor
from ghost_det.errors import UserError
from ghost_det.models import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet
from ghost_det.weights.imagenet import CLASSES, class_names
from ghost_det.weights.zoo import CLASSIFIERS, verify
from tests.conftest import ROOT


def test_each_is_a_function_of_the_package() -> None:
    assert all(callable(getattr(ghost_det, name)) for name in CLASSIFIERS)
    model = ghost_det.ghostnetv2_1x(num_classes=3, norm_eval=True)
    assert type(model) is GhostNetV2 and model.num_classes == 3 and model.norm_eval


def test_torch_hub_builds_and_loads_from_a_checkout(tmp_path: Path) -> None:
    own = classifier('repghostnet_050')
    torch.save(own.state_dict(), tmp_path / 'own.pth')
    model = torch.hub.load(str(ROOT), 'repghostnet_050', source='local', pretrained=str(tmp_path / 'own.pth'))
    assert type(model).__name__ == 'RepGhostNet'
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in model.state_dict().items())


def test_true_means_the_published_weights_if_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr('ghost_det.weights.zoo.load_pretrained', lambda model, source: asked.append(source))
    classifier('repghostnet_050', pretrained=True)
    assert asked == ['ghost://repghostnet_050']
    with pytest.raises(UserError, match='ghostnet_050: no published .*for ghostnet_100$'):
        classifier('ghostnet_050', pretrained=True)
    with pytest.raises(UserError, match='ghostnet_2x: .*ghostnet_050'):
        classifier('ghostnet_2x')


def test_a_backbone_takes_the_weights_of_a_classifier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'own.pth'
    torch.save(classifier('ghostnet_050').state_dict(), path)
    with caplog.at_level('INFO', 'ghost_det'):
        network = feature_extractor('ghostnet_050', (1, 3), pretrained=path, norm_eval=True)
    assert type(network) is GhostNet and network.norm_eval  # not mmdet's subclass
    assert (network.out_channels, network.out_strides) == ((20, 80), (8, 32))
    assert caplog.messages == [f'GhostNet: 502 of 502 tensors from {path}; classifier left out: 10']
    assert [each.shape[2] for each in network.eval()(torch.rand(1, 3, 64, 64))] == [8, 2]
    for wrong in (dict(out_indices=(1, 2, 3, 4)), dict(out_indices=-1)):  # as timm takes them
        with pytest.raises(ValueError, match='out_indices is .*; expected some of 0 to 3'):
            feature_extractor('ghostnet_050', **wrong)
    with pytest.raises(UserError, match='does not fit GhostNet of width 1: the file is of .* width 0.5'):
        feature_extractor('ghostnet_100', pretrained=path)


def test_a_file_is_verified_by_the_network_it_belongs_to(tmp_path: Path) -> None:
    path = tmp_path / 'own.pth'
    folded = GhostNetV3(width=0.5)
    folded.switch_to_deploy()
    for model, more in (
        (RepGhostNet(width=1.11, num_classes=5), ', 5 classes'),
        (GhostNet(width=0.73, dw_size=5, ratio=3), ''),
        (GhostNetV2(width=1.3, out_indices=(0, 1)), ', up to stride 8'),
        (GhostNet(last_blocks=2), ' with last_blocks=2 (not the usual 4)'),
        (GhostNet(last_blocks=0, num_classes=5), ' with last_blocks=0 (not the usual 4), 5 classes'),
        (folded, ', folded for deployment'),
    ):
        torch.save(model.state_dict(), path)
        loaded = verify(path)
        assert loaded.network == f'{type(model).__name__} of width {model.width:g}{more}'
        assert loaded.loaded == loaded.total == len(model.state_dict())
    whole = GhostNet(width=0.5, num_classes=5).state_dict()
    for part in ('blocks.7.', 'classifier.weight', 'classifier.bias'):
        torch.save({key: value for key, value in whole.items() if not key.startswith(part)}, path)
        with pytest.raises(UserError, match='incomplete|blocks.7'):
            verify(path)
    torch.save({'layer1.weight': torch.zeros(1)}, path)
    with pytest.raises(UserError, match='none of GhostNet, .*its first tensor is layer1.weight'):
        verify(path)


def test_a_published_name_stands_for_its_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save(classifier('ghostnet_050').state_dict(), tmp_path / 'a.pth')
    monkeypatch.setattr('ghost_det.weights.zoo.locate', lambda source: tmp_path / 'a.pth')
    with pytest.raises(
        UserError, match='does not fit GhostNet of width 1, 1000 .*: the file is of .* width 0.5'
    ):
        verify('ghost://ghostnet_100')


def test_weights_that_come_with_the_package(shipped: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = 'ghost://ghostnet_100.tin'
    model = classifier('ghostnet_1x', pretrained=source)
    assert 'GhostNet: 510 of 510 tensors from ghost://ghostnet_100.tin (Tiny-ImageNet, 200 ' in caplog.text
    state = load_file(shipped / 'ghostnet_100.tin.safetensors')
    assert model.num_classes == 200 and not hasattr(model, 'conv_head')
    assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in model.state_dict().items())
    with caplog.at_level('INFO', 'ghost_det'):
        feature_extractor('ghostnet_100', pretrained='gfl_ghostnet.tin', last_blocks=2)
    assert 'GhostNet: 450 of 450 tensors from gfl_ghostnet.tin (Tiny-ImageNet, 200 ' in caplog.text
    with pytest.raises(UserError, match=r'classifier.weight: expected \(7, 960\), got \(200, 960\)'):
        classifier('ghostnet_1x', pretrained=source, num_classes=7)
    with pytest.raises(UserError, match='52 tensors of the file are unknown'):
        classifier('ghostnet_1x', pretrained=source, last_blocks=2)
    assert verify('ghostnet_100.tin').loaded == verify(shipped / 'ghostnet_100.tin.safetensors').total == 510
    names = class_names('ghostnet_100.tin')
    assert len({*names}) == 200 and (names[0], names[-1]) == ('goldfish', CLASSES[988])
    assert class_names('ghostnet_100') is class_names('own.pth') is CLASSES
