"""Feature maps against naive references, evidence against known gradients, and the command by its files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.models import resnet18

from ghost_det import GhostNet, commands
from ghost_det.errors import UserError
from ghost_det.visualization import (
    Network,
    cam,
    detect,
    draw_ghosts,
    eigen_cam,
    fit_kernel,
    ghost_maps,
    ghost_modules,
    html_page,
    layers,
    maps_at,
    open_network,
    overlay,
    pyramid,
    redundancy,
)
from ghost_det.visualization.cams import component, evidence
from ghost_det.weights.imagenet import preprocess
from ghost_det.weights.zoo import classifier
from tests.conftest import ROOT

LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')
Array = np.ndarray[Any, Any]


def picture(seed: int = 0, height: int = 96, width: int = 128) -> Array:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return noise.repeat(8, 0).repeat(8, 1)


def filtered(maps: Array, kernel: Array) -> Array:
    weight = torch.from_numpy(kernel)[None, None]
    return F.conv2d(torch.from_numpy(maps)[None, None], weight, padding=len(kernel) // 2)[0, 0].numpy()


def naive_fit(sources: list[Array], targets: list[Array], size: int) -> Array:
    """Weights of the best kernel and bias, from a table with a row for each pixel."""
    return np.linalg.lstsq(naive_rows(sources, size), np.concatenate([t.ravel() for t in targets]))[0]


def naive_rows(sources: list[Array], size: int) -> Array:
    rows = []
    for source in sources:
        padded = np.pad(source, size // 2)
        for i in range(source.shape[0]):
            for j in range(source.shape[1]):
                rows.append([*padded[i : i + size, j : j + size].ravel(), 1.0])
    return np.array(rows)


def naive_error(sources: list[Array], targets: list[Array], weights: Array, size: int) -> float:
    expected = np.concatenate([t.ravel() for t in targets])
    return float(np.mean((naive_rows(sources, size) @ weights - expected) ** 2) / expected.var())


def test_errors_equal_those_of_a_naive_reference() -> None:
    random = np.random.default_rng(0)
    maps = np.maximum(random.standard_normal((2, 3, 13, 11)), 0) + 0.3
    maps[:, 2] += 3 * np.roll(maps[:, 0], 1, 2)
    other = random.random((1, 3, 9, 14))
    found = redundancy(maps, (1, 3), other)
    for size in (1, 3):
        for i in range(3):
            for j in range(3):
                if i == j:
                    assert found.errors[size][i, j] == found.unseen[size][i, j] == np.inf
                    continue
                sources, targets = list(maps[:, i]), list(maps[:, j])
                weights = naive_fit(sources, targets, size)
                expected = naive_error(sources, targets, weights, size)
                assert found.errors[size][i, j] == pytest.approx(expected, abs=1e-9)
                expected = naive_error(list(other[:, i]), list(other[:, j]), weights, size)
                assert found.unseen[size][i, j] == pytest.approx(expected, rel=1e-6)
    flat = maps.swapaxes(0, 1).reshape(3, -1)
    np.testing.assert_allclose(found.cosines, np.corrcoef(flat), atol=1e-9)
    np.testing.assert_allclose((1 - found.cosines**2)[0, 1:], found.errors[1][0, 1:], atol=1e-9)


@pytest.mark.parametrize('size', [1, 3, 5, 7])
def test_a_known_kernel_is_found(size: int) -> None:
    random = np.random.default_rng(size)
    source, kernel = random.random((40, 37)), random.standard_normal((size, size))
    fit = fit_kernel(source, filtered(source, kernel) + 0.7, size)
    np.testing.assert_allclose(fit.kernel, kernel, atol=1e-8)
    assert fit.bias == pytest.approx(0.7) and fit.error < 1e-12
    np.testing.assert_allclose(fit.made, filtered(source, kernel) + 0.7, atol=1e-8)


def test_ghosts_among_maps_are_distinguished_from_others() -> None:
    random = np.random.default_rng(0)
    kernels = random.standard_normal((2, 5, 5))

    def image() -> Array:
        base, other = random.random((2, 50, 50))
        ghosts = [filtered(base, kernel) for kernel in kernels]
        return np.stack([ghosts[0], base, np.full((50, 50), 2.5), other, ghosts[1]])

    found = redundancy(image(), held_out=image())
    assert found.alive.tolist() == [True, True, False, True, True]
    assert found.share(5) == found.share(7) == found.share(5, unseen=True) == pytest.approx(2 / 4)
    assert found.share(1) == 0.0
    assert sorted(found.intrinsic(5)) == [1, 3] and sorted(found.intrinsic(1)) == [0, 1, 3, 4]
    best = found.pairs(5, 9)
    assert len(best) == 2 and best[0].source == 1 and best[0].target in (0, 4) and best[0].error < 1e-9
    assert '2 of 4 (s = 2.00)' in found.table().splitlines()[5]
    swapped = image()
    swapped[[0, 4]] = swapped[[4, 0]]
    assert redundancy(image(), (5,), swapped).share(5, unseen=True) == 0.0


def test_kernels_too_large_for_the_maps_are_left_out() -> None:
    maps = np.random.default_rng(0).random((4, 10, 12))
    assert list(redundancy(maps).errors) == [1, 3]
    for faulty in (maps[:, :3, :3], maps[:1], np.full_like(maps, np.nan), maps[0]):
        with pytest.raises(UserError, match='expected'):
            redundancy(faulty)


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
    np.testing.assert_array_equal(
        maps_at(resnet, image, 'bn1').values, stem[0]
    )  # the ReLU behind is in place
    assert found.values.std() > 0.1
    shapes = layers(resnet, image)
    assert shapes['layer4.1.conv2'] == (512, 7, 7) and 'avgpool' not in shapes and 'fc' not in shapes
    with pytest.raises(UserError, match=r'--layer layer9: no layer.*layer4\.1\.conv2 \(512, 7 x 7\)'):
        maps_at(resnet, image, 'layer9')
    with pytest.raises(UserError, match='--layer fc'):
        maps_at(resnet, image, 'fc')


def test_files_of_weights_are_loaded_completely_or_refused(tmp_path: Path) -> None:
    path, trained = tmp_path / 'six.pth', resnet18(num_classes=6).eval()
    torch.save({'state_dict': {f'module.{key}': value for key, value in trained.state_dict().items()}}, path)
    opened = open_network('resnet18', str(path))
    assert not opened.random and opened.title == 'resnet18'
    with torch.no_grad():
        expected = trained(preprocess(Image.fromarray(picture()))[None])
        np.testing.assert_array_equal(opened.run(picture()), expected)
    with pytest.raises(UserError, match=r'six.pth: not of resnet34: layer'):
        open_network('resnet34', str(path))
    for settings in (dict(num_classes=7), {}):
        ghost = GhostNet(width=0.5, **settings)
        torch.save(ghost.state_dict(), path)
        opened = open_network('ghostnet_050', str(path))
        assert torch.equal(opened.module.conv_stem.weight, ghost.conv_stem.weight)
    with pytest.raises(UserError, match='does not fit GhostNet of width 1'):
        open_network('ghostnet_1x', str(path))


@pytest.mark.parametrize('name', ['ghostnet_050', 'ghostnetv3_050'])
def test_the_halves_of_a_ghost_module_are_its_output(name: str) -> None:
    network = open_network(name, pretrained='none')
    found = ghost_maps(network, picture(), 'blocks.1.0.ghost2')
    whole = maps_at(network, picture(), 'blocks.1.0.ghost2').values
    np.testing.assert_allclose(np.concatenate([found.intrinsic, found.ghosts]), whole, atol=1e-5)
    # Without activation, ghosts are what the measurement looks for.
    measured = redundancy(whole, (1, 3))
    places = found.sources, len(found.intrinsic) + np.arange(len(found.ghosts))
    assert measured.errors[3][places].max() < 1e-9
    assert measured.share(3, 1e-6) >= 0.5 > measured.share(1, 1e-6)
    assert ghost_maps(network, picture()).layer == ghost_modules(network.module)[2]


@pytest.mark.parametrize('ratio', [2, 3, 4])
def test_each_ghost_has_its_own_source(ratio: int) -> None:
    module = GhostNet(width=0.5, ratio=ratio, num_classes=5).eval()
    network = Network('mine', module, False, ())
    for layer in ('blocks.1.0.ghost1', 'blocks.0.0.ghost2'):
        found = ghost_maps(network, picture(), layer)
        conv, norm = list(module.get_submodule(layer).cheap_operation)[:2]
        for ghost in range(len(found.ghosts)):
            source = torch.from_numpy(found.intrinsic[found.sources[ghost]])
            made = F.conv2d(source[None, None], conv.weight[ghost : ghost + 1], padding='same')
            made = made / (1 + norm.eps) ** 0.5
            if layer.endswith('ghost1'):
                made = made.relu()
            np.testing.assert_allclose(found.ghosts[ghost], made[0, 0].detach(), atol=1e-5)


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


def test_the_first_component_is_the_pattern_of_rank_one_maps() -> None:
    pattern = torch.rand(6, 7)
    found = component(torch.tensor([0.2, -1.0, 0.5])[:, None, None] * pattern)
    expected = (pattern - pattern.mean()).clamp(min=0) * (0.04 + 1 + 0.25) ** 0.5
    assert torch.allclose(found.float(), expected, atol=1e-5)


@pytest.fixture(scope='module')
def detector() -> Network:
    torch.manual_seed(0)
    return open_network(LITE, pretrained='none')


def test_the_evidence_for_a_box_follows_its_score_back(detector: Network) -> None:
    image = picture(height=160, width=320)
    found = detect(detector, image, score=0.0)
    assert (np.diff(found.scores) <= 0).all()
    for index in (0, 3):
        seen = cam(detector, image, index)
        np.testing.assert_allclose(seen.found.boxes[0], found.boxes[index], atol=1e-3)
        assert seen.found.scores[0] == pytest.approx(found.scores[index])
        assert seen.heat.shape == (160, 320) and seen.heat.min() >= 0 and seen.heat.max() == 1
        assert sum(seen.levels) == pytest.approx(1) and len(seen.levels) == 5
    with pytest.raises(UserError, match=rf'--index {len(found)}: .* finds {len(found)} objects'):
        cam(detector, image, len(found))
    with pytest.raises(UserError, match='--level 5: .* has 5'):
        eigen_cam(detector, image, 5)
    assert eigen_cam(detector, image).shape == (160, 320)


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


def test_pages_need_nothing_else(resnet: Network) -> None:
    network = Network('<b>', GhostNet(width=0.5).eval(), False, ())
    figure = draw_ghosts(ghost_maps(network, picture()), 2)
    page = html_page('<b> & co', [('<i>', figure)], '1 < 2')
    assert '<b>' not in page and '&lt;b&gt; &amp; co' in page and '1 &lt; 2' in page
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 1 and sources[0].startswith('data:image/png;base64,') and '://' not in page


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr('sys.argv', ['ghost-det', 'visualize', *map(str, words)])
    commands.run()


@pytest.mark.parametrize(
    ('words', 'printed'),
    [
        (
            ('redundancy', 'resnet18', '{image}'),
            ('layer1, 64 maps of 56 x 56', '3 x 3'),
        ),
        (('ghost', 'ghostnetv2_100', '{image}'), ('blocks.1.0.ghost1, 24 intrinsic maps and 24 ghosts',)),
        (('cam', LITE, '{image}', '--index', '1'), ('class ', 'evidence by level, finest first: ')),
        (('pyramid', LITE, '{image}', '--part', 'backbone'), ('backbone 0: ', 'mean ')),
    ],
)
def test_commands_write_a_figure(
    words: tuple[str, ...],
    printed: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, out = tmp_path / 'image.png', tmp_path / 'out/a.png'
    Image.fromarray(picture()).save(image)
    words = tuple(word.format(image=image) for word in words)
    run(monkeypatch, *words, '-o', out, '--pretrained', 'none')
    output = capsys.readouterr().out
    assert '(random weights)' in output and all(text in output for text in printed)
    assert Image.open(out).format == 'PNG'
    assert sorted(path.name for path in out.parent.iterdir()) == ['a.png']


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('redundancy', 'resnet51', '{image}'), 'resnet51: no such network; near are resnet50'),
        (('pyramid', 'detector.xml', '{image}'), 'detector.xml: an exported file gives only boxes'),
        (('redundancy', LITE, '{image}'), 'name its checkpoint after it, or --pretrained none'),
        (('redundancy', 'resnet18', 'nowhere.pth', '{image}'), 'nowhere.pth'),
        (('redundancy', 'resnet18', 'nowhere.jpg'), 'nowhere.jpg: expected an image, got nothing'),
        (('cam', 'resnet18', '{image}', '--pretrained', 'none'), 'resnet18: expected a detector'),
        (
            ('redundancy', 'resnet18', '{image}', '--pretrained', 'none', '--layer', 'layer3', '--size', '7'),
            '--size 7: the maps of layer3 are too small',
        ),
    ],
)
def test_user_errors_write_nothing(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = tmp_path / 'image.png', tmp_path / 'out/a.png'
    Image.fromarray(picture()).save(image)
    with pytest.raises(UserError, match=re.escape(message)):
        run(monkeypatch, *(word.format(image=image) for word in words), '-o', out)
    assert not any(path.is_file() for path in tmp_path.glob('out/*'))
    with pytest.raises(UserError, match=r'a\.jpg: expected a name that ends in \.png'):
        run(monkeypatch, 'ghost', 'ghostnet_1x', image, '-o', tmp_path / 'a.jpg')
    with pytest.raises(UserError, match='would replace what is read'):
        run(monkeypatch, 'ghost', 'ghostnet_1x', image, '-o', image)


def test_published_weights_are_asked_for_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stand_in(name: str, pretrained: bool) -> Any:
        asked.append((name, pretrained))
        return classifier(name)

    monkeypatch.setattr('ghost_det.visualization.networks.classifier', stand_in)
    assert not open_network('ghostnet_050').random and open_network('ghostnet_050', pretrained='none').random
    assert asked == [('ghostnet_050', True), ('ghostnet_050', False)]
    with pytest.raises(UserError, match="'published' or 'none'"):
        open_network('ghostnet_050', pretrained='some.pth')
