from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ghost_det_main
from ghost_det.benchmarks import backbones, chart, detectors, roofline, untrained
from ghost_det.benchmarks.engines import ENGINES, choose
from ghost_det.benchmarks.roofline import Layer, Rates
from ghost_det.benchmarks.rows import Results, Row, read_rows, table, timed, write_rows
from ghost_det.benchmarks.training import LAYOUTS, TRAINED, backbone_training_table
from ghost_det.config.load import load_config
from ghost_det.errors import UserError
from ghost_det.swap.probe import count_macs
from ghost_det.utils import timing
from ghost_det.utils.timing import Sample, Spread, interleave
from tests.conftest import ROOT

CONFIGS = detectors.CONFIGS
ROW = Row(
    'net', 'eager', 32, 64, 2, 1, 3, Spread(1.0, 2.0, 3.0), Spread(0.5, 1.0, 1.5), 4.0, 10, 20, (1.0, 2.0)
)


def results_of(*rows: Row) -> Results:
    return Results('backbones', 'net: eager', rows)


def test_contenders_take_turns_that_rotate() -> None:
    order: list[str] = []
    samples = interleave({name: lambda name=name: order.append(name) for name in 'abc'}, 3, calls=2, warm=1)
    assert ''.join(order[::3]) == 'abcbcacab' and all(len(each) == 3 for each in samples.values())
    assert len(order) == 3 * 3 * (1 + 2)


def test_seconds_are_of_one_call_and_cpu_of_every_thread() -> None:
    def work() -> None:
        sum(range(200_000))

    (found,) = interleave({'work': work}, rounds=5, calls=10).values()
    (once,) = interleave({'work': work}, rounds=5, calls=1).values()
    assert 0 < min(each.seconds for each in found) < 5 * max(each.seconds for each in once)
    assert sum(each.cpu for each in found) > 0


def test_a_ratio_is_of_rounds_not_of_medians() -> None:
    ours, theirs = ([Sample(second, 0.0) for second in seconds] for seconds in ((1, 4, 9), (2, 2, 3)))
    assert timing.ratio(ours, theirs) == Spread(1.25, 2.0, 2.5)
    row = timed(ours, theirs, batch=2)
    assert row['milliseconds'].middle == 4000 and row['rounds'] == 3 and row['ratio'].middle == 2
    assert timing.spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_call_apart_is_in_another_process() -> None:
    assert timing.apart(os.getpid) != os.getpid()


@pytest.mark.parametrize('name', backbones.NETWORKS)
def test_every_network_has_settled_maps_at_the_four_strides(name: str) -> None:
    network = backbones.network(name)
    with torch.no_grad():
        maps = network(torch.randn(1, 3, 64, 96))
    macs = count_macs(network, torch.randn(1, 3, 64, 96))
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert [tuple(each.shape[2:]) for each in maps] == [(64 // s, 96 // s) for s in backbones.STRIDES]
    assert all(0.05 < each.std() < 100 for each in maps) and not network.training
    layers = [name for name, each in network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert all(macs[name] > 0 for name in layers)


def test_timms_network_at_full_depth_is_ours() -> None:
    ours, theirs = (backbones.network(name) for name in ('GhostNet 1.0', 'timm ghostnet_100'))
    short = backbones.network('timm ghostnet_100 features_only')
    count = [sum(each.numel() for each in net.parameters()) for net in (ours, theirs, short)]
    assert count[0] == count[1] > 2 * count[2]


def test_rows_of_every_engine_agree_with_their_times(tmp_path: Path) -> None:
    contenders = backbones.chosen(['GhostNet 1.0: '], [each for each in ENGINES if 'compiled' not in each])
    contenders = [each for each in contenders if each.startswith(('timm ghostnet_100:', 'GhostNet 1.0'))]
    rates = Rates(1e9, 4e9, ((1 << 20, 1e10), (1 << 28, 1e9)))
    rows = backbones.measure(contenders, (2, 3, 32, 32), 1, 0, tmp_path, rates)
    assert [row.engine for row in rows] == [
        *('eager', 'eager', 'fast', 'onnxruntime', 'openvino', 'openvino streams'),
        *('openvino int8', 'openvino int8 streams'),
    ]
    assert rows[0].ratio == Spread(1.0, 1.0, 1.0) and len({row.macs for row in rows}) == 1
    for row in rows:
        low, middle, high = row.milliseconds
        assert 0 < low <= middle <= high and row.rounds == 3 and row.cpu > 0
        assert row.ratio.low <= high / rows[0].milliseconds.low
        assert row.ratio.high >= low / rows[0].milliseconds.high
        assert row.bound is not None and row.bound[0] <= row.bound[1]
    assert rows[-1].bound[0] < rows[0].bound[0]  # type: ignore[index]
    assert {path.suffix for path in tmp_path.iterdir()} == {'.onnx', '.xml', '.bin'}


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is read in /proc')
def test_memory_is_of_the_contender() -> None:
    found = timing.apart(backbones.footprint, 'GhostNet 1.0', 'eager', None, (8, 3, 256, 256), 1)
    assert 8 * 3 * 256 * 256 * 4 / 1e6 < found < 1000


@pytest.fixture
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, 'SECONDS', 0.01)
    monkeypatch.setattr(roofline, 'GEMM_SIDES', (64,))
    monkeypatch.setattr(roofline, 'WORKING_SETS', (1 << 16, 1 << 20))


def test_what_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match='--only nothing: no such contender; there are GhostNet 1.0: eager'):
        backbones.chosen(['nothing'], ['eager'])
    assert choose(['a: x', 'b: x'], ['B'], 'a: x') == ['a: x', 'b: x']
    monkeypatch.setitem(sys.modules, 'timm', None)
    backbones.network.cache_clear()
    with pytest.raises(UserError, match='timm is not installed: pip install timm'):
        backbones.network('timm lcnet_100')
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(UserError, match='openvino is not installed'):
        next(backbones.backbone_results([32], [1], [1], ['MobileNetV2: openvino'], 0))


def test_exponents_are_fitted_over_three_sizes() -> None:
    sizes = [
        replace(ROW, height=side, width=side, milliseconds=Spread(0, 5 * (side * side / 1e6) ** 1.5, 0))
        for side in (100, 200, 400)
    ]
    ((label, (factor, exponent)),) = backbones.exponents(sizes).items()
    assert label == 'net: eager, batch 2, 1 threads'
    assert math.isclose(factor, 5) and math.isclose(exponent, 1.5)
    assert not backbones.exponents(sizes[:2])


def test_a_bound_takes_the_larger_of_arithmetic_and_bytes() -> None:
    rates = Rates(1e9, None, ((1000, 1e9), (10_000, 1e8)))
    assert roofline.bound([Layer(2_000_000, 10)], rates) == (2.0, 2.0)
    assert roofline.bound([Layer(0, 250)], rates) == (0.001, 0.01)
    assert roofline.bound([Layer(0, 25_000)], rates) == (1.0, 1.0)
    assert roofline.bound([Layer(0, 250)], rates, int8=True) is None
    assert roofline.bound([Layer(2_000_000, 250)], replace(rates, int8=4e9), int8=True) == (0.5, 0.5)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4))
    first, second = roofline.layers(network.eval(), torch.zeros(2, 3, 8, 8))
    assert first == Layer(2 * 4 * 64 * 27, 2 * 3 * 64 + 2 * 4 * 64 + 4 * 27)
    assert second == Layer(2 * 4 * 36 * 9, 2 * 4 * 64 + 2 * 4 * 36 + 4 * 9)


@pytest.mark.usefixtures('quick_rates')
def test_this_machines_rates_are_measured() -> None:
    rates = Rates.measured(1)
    assert rates.float32 > 1e6 and [size for size, _ in rates.bandwidths] == [1 << 16, 1 << 20]
    assert rates.told()['float32_gflops'] == round(2 * rates.float32 / 1e9, 1)


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / 'RESULTS.json'
    results = results_of(ROW, replace(ROW, engine='fast', bound=None, memory=12.5, note='two'))
    write_rows(path, results)
    assert read_rows(path) == results
    assert 'processor' in json.loads(path.read_text())['machine']
    lines = list(table(results))
    (line,) = (line for line in lines if '| fast |' in line)
    assert '| 2 (1-3) | 1 (0.5-1.5) | 1,000 | 4 | 0.00 | 0.000 |  |  | 12.5 | two |' in line
    (line,) = (line for line in lines if '| eager |' in line)
    assert '| 2.0 | 1.0 |' in line


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'format': 2}, 'not the results'),
        ({'rows': [{'network': 'a'}]}, 'not whole'),
        ({'rows': None}, 'not whole'),
        ({'more': 1}, 'not whole'),
        ({'machine': 'mine'}, 'machine is of the wrong kind'),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / 'RESULTS.json'
    write_rows(path, results_of(ROW))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=message):
        read_rows(path)
    content['rows'][0]['batch'] = 'two'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="batch is 'two'"):
        read_rows(path)


def test_charts_are_drawn_for_each_setting(tmp_path: Path) -> None:
    rows = [replace(ROW, height=side, engine=engine) for side in (32, 64, 96) for engine in ENGINES]
    paths = chart.draw(results_of(*rows), tmp_path)
    assert [path.name for path in paths] == [
        *(f'backbones-{side}x64-batch2-threads1.png' for side in (32, 64, 96)),
        'backbones-growth.png',
    ]
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in paths)


@pytest.mark.parametrize('name', ['retinanet_ghostnet_fpn_lite', *detectors.SHIPPED])
def test_scores_are_shifted_until_so_many_pass_the_threshold(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    cfg = detectors.contenders(CONFIGS)[name]()
    detector, candidates = untrained.build(cfg, image, 50)
    assert candidates == 50
    found = detectors.in_torch('eager', detector, image.repeat(2, 0).repeat(2, 1), 96)()
    assert 0 < len(found.scores) <= 50 and found.scores.min() > detector.test_cfg.score_thr
    _, every = untrained.build(cfg, image, None)
    assert every > 60


def test_detectors_of_two_stages_are_refused() -> None:
    cfg = load_config(str(ROOT / 'configs/faster-rcnn_ghostnet_fpn.py'))
    with pytest.raises(UserError, match='faster-rcnn_ghostnet_fpn.py: the config of a one-stage detector'):
        untrained.build(cfg, np.zeros((64, 64, 3), np.uint8))


def test_detectors_are_timed_from_pixels_to_boxes() -> None:
    measured = detectors.detector_results(CONFIGS[:1], 64, [1], ['fpn_lite'], ['eager'], 0)
    (results,) = measured
    assert [row.network for row in results.rows] == [
        'retinanet_ghostnet_fpn_lite',
        'retinanet_ghostnet_fpn_lite with ResNet-50',
        'retinanet_ghostnet_fpn_lite, untrained scores',
    ]
    assert results.baseline == 'retinanet_ghostnet_fpn_lite: eager'
    assert [row.note.split()[0] for row in results.rows[:2]] == ['200', '200']
    assert int(results.rows[2].note.split()[0].replace(',', '')) > 1000


def test_a_training_step_of_backbones_has_a_row_for_each_layout() -> None:
    heading, head, _, *rows = backbone_training_table(2, (64, 64), 1)
    assert heading.startswith('2 images of 64 x 64') and len(rows) == len(TRAINED) * len(LAYOUTS)
    assert rows[0].endswith('| 1.00 (1.00-1.00) |')


@pytest.mark.usefixtures('quick_rates')
def test_tool_writes_results_charts_and_the_same_table_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(*words: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['benchmark.py', *words])
        ghost_det_main.main('benchmark')
        return capsys.readouterr().out

    options = (
        '--sizes',
        '32',
        '64',
        '96',
        '--seconds',
        '0.1',
        '--threads',
        '1',
        '--growth',
        '-o',
        str(tmp_path),
    )
    out = run('backbones', '--only', 'GhostNet 1.0: eager', *options)
    assert '| contender | ms at one megapixel (fitted) | exponent over pixels |' in out
    assert (tmp_path / 'backbones-growth.png').exists()
    assert run('table', str(tmp_path / 'RESULTS.json')).strip() in out
