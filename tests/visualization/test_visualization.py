"""Feature maps against naive references, evidence against known gradients, and the command by its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.models import resnet18

from ghost_det import GhostNet
from ghost_det.errors import UserError
from ghost_det.visualization import (
    Network,
    cam,
    fit_kernel,
    ghost_maps,
    ghost_modules,
    layers,
    maps_at,
    open_network,
    overlay,
    pyramid,
    redundancy,
)
from ghost_det.visualization.cams import evidence
from ghost_det.weights.imagenet import preprocess
from ghost_det.weights.zoo import classifier
from tests.conftest import ROOT, Cli

LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')
Array = np.ndarray[Any, Any]


def picture(seed: int = 0, height: int = 96, width: int = 128) -> Array:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return noise.repeat(8, 0).repeat(8, 1)


def filtered(maps: Array, kernel: Array) -> Array:
    weight = torch.from_numpy(kernel)[None, None]
    return F.conv2d(torch.from_numpy(maps)[None, None], weight, padding=len(kernel) // 2)[0, 0].numpy()


def naive_columns(values: Array, size: int) -> Array:
    """Return a table with a row for each pixel: its neighbourhood, and 1."""
    padded = np.pad(values, size // 2)
    places = np.ndindex(values.shape)
    return np.array([[*padded[i : i + size, j : j + size].ravel(), 1.0] for i, j in places])


def test_errors_equal_a_naive_reference() -> None:
    random = np.random.default_rng(0)
    maps = np.maximum(random.standard_normal((3, 19, 17)), 0) + 0.3
    maps[2] += 3 * np.roll(maps[0], 1, 1)
    found = redundancy(maps, (1, 3, 5))
    for size, errors in found.errors.items():
        assert np.isinf(errors.diagonal()).all()
        for i, j in np.argwhere(~np.eye(3, dtype=bool)):
            columns, target = naive_columns(maps[i], size), maps[j].ravel()
            left = target - columns @ np.linalg.lstsq(columns, target)[0]
            assert errors[i, j] == pytest.approx(np.mean(left**2) / target.var(), abs=1e-9)
    np.testing.assert_allclose(found.cosines, np.corrcoef(maps.reshape(3, -1)), atol=1e-9)
    np.testing.assert_allclose((1 - found.cosines**2)[0, 1:], found.errors[1][0, 1:], atol=1e-9)


@pytest.mark.parametrize('size', [1, 7])
def test_a_known_kernel_is_found(size: int) -> None:
    random = np.random.default_rng(size)
    source, kernel = random.random((40, 37)), random.standard_normal((size, size))
    fit = fit_kernel(source, filtered(source, kernel) + 0.7, size)
    np.testing.assert_allclose(fit.kernel, kernel, atol=1e-8)
    assert fit.bias == pytest.approx(0.7) and fit.error < 1e-12
    np.testing.assert_allclose(fit.made, filtered(source, kernel) + 0.7, atol=1e-8)


def test_ghosts_among_maps_are_distinguished_from_others() -> None:
    random = np.random.default_rng(0)
    base, other = random.random((2, 50, 50))
    ghosts = [filtered(base, kernel) for kernel in random.standard_normal((2, 5, 5))]
    found = redundancy(np.stack([ghosts[0], base, np.full((50, 50), 2.5), other, ghosts[1]]))
    assert found.alive.tolist() == [True, True, False, True, True]
    assert found.share(5) == found.share(7) == pytest.approx(2 / 4) and found.share(1) == 0.0
    best = found.pairs(5, 9)
    assert len(best) == 2 and best[0].source == 1 and best[0].target in (0, 4) and best[0].error < 1e-9


def test_kernels_too_large_for_the_maps_are_skipped() -> None:
    maps = np.random.default_rng(0).random((4, 10, 12))
    assert list(redundancy(maps).errors) == [1, 3]
    for wrong in (maps[:, :3, :3], maps[:1], np.full_like(maps, np.nan), maps[0], np.ones_like(maps)):
        with pytest.raises(UserError, match='expected'):
            redundancy(wrong)


@pytest.fixture(scope='module')
def resnet() -> Network:
    torch.manual_seed(0)
    return open_network('resnet18', pretrained='none')


def test_maps_of_a_layer_are_those_that_pass_there(resnet: Network) -> None:
    image = picture()
    found = maps_at(resnet, image)
    assert found.layer == 'layer1' and resnet.title == 'resnet18 (random weights)'
    x, module = preprocess(Image.fromarray(image))[None], resnet.module
    with torch.no_grad():
        stem = module.bn1(module.conv1(x))
        expected = module.layer1(module.maxpool(module.relu(stem.clone())))
    np.testing.assert_array_equal(found.values, expected[0])
    # The ReLU behind is in place.
    np.testing.assert_array_equal(maps_at(resnet, image, 'bn1').values, stem[0])
    shapes = layers(resnet, image)
    assert shapes['layer4.1.conv2'] == (512, 7, 7) and 'avgpool' not in shapes and 'fc' not in shapes
    for layer in ('layer9', 'fc'):
        with pytest.raises(UserError, match=rf'--layer {layer}: .*layer4\.1\.conv2 \(512, 7 x 7\)'):
            maps_at(resnet, image, layer)


def test_files_of_weights_are_loaded_completely_or_refused(tmp_path: Path) -> None:
    path, trained = tmp_path / 'weights.pth', resnet18().eval()
    torch.save({'state_dict': {f'module.{key}': value for key, value in trained.state_dict().items()}}, path)
    opened = open_network('resnet18', str(path))
    assert opened.title == 'resnet18'
    with torch.no_grad():
        expected = trained(preprocess(Image.fromarray(picture()))[None])
        np.testing.assert_array_equal(opened.run(picture()), expected)
    for name in ('resnet34', 'ghostnet_1x'):
        with pytest.raises(UserError, match='weights.pth'):
            open_network(name, str(path))
    torch.save({**trained.state_dict(), 'extra': torch.zeros(1)}, path)
    with pytest.raises(UserError, match='extra'):
        open_network('resnet18', str(path))


@pytest.mark.parametrize('name', ['ghostnet_050', 'ghostnetv3_050'])
def test_the_halves_of_a_ghost_module_are_its_output(name: str) -> None:
    network = open_network(name, pretrained='none')
    found = ghost_maps(network, picture(), 'blocks.1.0.ghost2')
    output = maps_at(network, picture(), 'blocks.1.0.ghost2').values
    np.testing.assert_allclose(np.concatenate([found.intrinsic, found.ghosts]), output, atol=1e-5)
    # Without activation, ghosts are what the measurement looks for.
    measured = redundancy(output, (1, 3))
    places = found.sources, len(found.intrinsic) + np.arange(len(found.ghosts))
    assert measured.errors[3][places].max() < 1e-9
    assert measured.share(3, 1e-6) >= 0.5 > measured.share(1, 1e-6)
    assert ghost_maps(network, picture()).layer == ghost_modules(network.module)[2]


@pytest.mark.parametrize('layer', ['blocks.1.0.ghost1', 'blocks.0.0.ghost2'])
def test_each_ghost_has_its_own_source(layer: str) -> None:
    module = GhostNet(width=0.5, ratio=3, num_classes=5).eval()
    found = ghost_maps(Network('mine', module, False, ()), picture(), layer)
    part = module.get_submodule(layer)
    assert len(found.intrinsic) + len(found.ghosts) == part.oup  # some that the convolution makes are cut off
    conv, norm = list(part.cheap_operation)[:2]
    for ghost, values in enumerate(found.ghosts):
        source = torch.from_numpy(found.intrinsic[found.sources[ghost]])
        made = F.conv2d(source[None, None], conv.weight[ghost : ghost + 1], padding='same')
        made = made / (1 + norm.eps) ** 0.5
        if layer.endswith('ghost1'):
            made = made.relu()
        np.testing.assert_allclose(values, made[0, 0].detach(), atol=1e-5)


def test_ghosts_of_other_kinds(resnet: Network) -> None:
    network = open_network('repghostnet_100', pretrained='none')
    found = ghost_maps(network, picture())
    assert found.intrinsic.shape == found.ghosts.shape and found.sources.tolist() == list(range(24))
    with pytest.raises(UserError, match='resnet18: has no ghost modules'):
        ghost_maps(resnet, picture())
    with pytest.raises(UserError, match=r'no ghost module of .*blocks\.0\.0\.ghost1'):
        ghost_maps(network, picture(), 'blocks.0')


def test_random_weights_make_maps_that_do_not_fade() -> None:
    network = open_network('ghostnet_100', pretrained='none')
    kept = network.module.bn1.running_var.clone()
    assert maps_at(network, picture(), 'blocks.8').values.std() > 0.1
    assert torch.equal(network.module.bn1.running_var, kept)  # the next image finds the same network


def test_evidence_is_the_positive_part_of_gradient_times_map() -> None:
    used, unused = torch.randn(1, 3, 4, 5, requires_grad=True), torch.randn(1, 3, 2, 2, requires_grad=True)
    weights = torch.randn(3, 4, 5)
    cells = evidence((used[0] * weights).sum(), [used, unused])
    expected = (used[0] * weights).sum(0).clamp(min=0).detach()
    assert torch.allclose(cells[0], expected, atol=1e-6) and not cells[1].any()


@pytest.fixture(scope='module')
def detector() -> Network:
    torch.manual_seed(0)
    return open_network(LITE, pretrained='none')


def test_the_evidence_for_a_box_follows_its_score_back(detector: Network) -> None:
    image = picture(height=160, width=320)
    with torch.no_grad():
        boxes = detector.run(image).pred_instances
    best = boxes.scores.argsort(descending=True, stable=True)
    for index in (0, 3):
        seen = cam(detector, image, index)
        np.testing.assert_allclose(seen.found.boxes[0], boxes.bboxes[best[index]], atol=1e-3)
        assert seen.found.scores[0] == pytest.approx(float(boxes.scores[best[index]]))
        assert seen.heat.shape == (160, 320) and seen.heat.min() >= 0 and seen.heat.max() == 1
        assert sum(seen.levels) == pytest.approx(1) and len(seen.levels) == 5
    with pytest.raises(UserError, match=rf'--index {len(boxes)}: .* finds {len(boxes)} objects'):
        cam(detector, image, len(boxes))


def test_levels_of_the_pyramid_are_cut_to_the_image(detector: Network) -> None:
    outputs: list[tuple[Tensor, ...]] = []
    handle = detector.module.neck.register_forward_hook(lambda *all_: outputs.append(all_[2]))
    levels = pyramid(detector, picture(height=160, width=320))
    handle.remove()
    assert [each.shape for each in levels.values()] == [(20, 40), (10, 20), (5, 10), (3, 5), (2, 3)]
    for each, output in zip(levels.values(), outputs[0]):
        expected = output[0].abs().mean(0)[: each.shape[0], : each.shape[1]]
        np.testing.assert_allclose(each, expected, rtol=1e-5)
    assert len(pyramid(detector, picture(), 'backbone')) == len(detector.module.backbone.out_indices)


def test_heat_hides_the_image_and_cold_does_not() -> None:
    image, heat = picture(), np.zeros((96, 128))
    heat[:48] = 1
    covered = overlay(image, heat)
    np.testing.assert_array_equal(covered[48:], image[48:])
    assert covered[:48, :, 0].std() < 0.3 * image[:48, :, 0].std()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(picture()).save(tmp_path / 'image.png')
    return tmp_path / 'image.png'


@pytest.mark.parametrize(
    ('command', 'printed'),
    [
        (f'redundancy {LITE} IMAGE', ('backbone.blocks', 'predicted within 0.1', '3 x 3 kernel: ')),
        ('ghost ghostnetv2_100 IMAGE', ('blocks.1.0.ghost1, 24 intrinsic maps and 24 ghosts',)),
        (f'cam {LITE} IMAGE --index 1', ('class ', 'evidence by level, finest first: ')),
        (f'pyramid {LITE} IMAGE --part backbone', ('backbone 0: ', 'mean ')),
    ],
)
def test_commands_write_a_figure(command: str, printed: tuple[str, ...], image: Path, cli: Cli) -> None:
    out = image.parent / 'out'
    words = command.replace('IMAGE', str(image))
    done = cli(f'visualize {words} --pretrained none', '-o', out / 'a.png')
    assert done.returncode == 0, done.stderr
    assert '(random weights)' in done.stdout and all(text in done.stdout for text in printed)
    assert Image.open(out / 'a.png').format == 'PNG' and [path.name for path in out.iterdir()] == ['a.png']


def test_published_weights_are_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []

    def fake_classifier(name: str, pretrained: bool) -> Any:
        asked.append(pretrained)
        return classifier(name)

    monkeypatch.setattr('ghost_det.visualization.networks.classifier', fake_classifier)
    assert not open_network('ghostnet_050').random and open_network('ghostnet_050', pretrained='none').random
    assert asked == [True, False]
    with pytest.raises(UserError, match="'published' or 'none'"):
        open_network('ghostnet_050', pretrained='some.pth')

    def no_network(*_: Any, **__: Any) -> Any:
        raise OSError('no network')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('ghost_det.weights.download.http_get', no_network)
    with pytest.raises(UserError, match=r'resnet18-.*\.pth .*no network'):
        open_network('resnet18')
