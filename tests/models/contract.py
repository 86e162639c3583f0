"""What every backbone of this package must do; each network's tests are a subclass."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghost_det.models import GhostNet
from ghost_det.models.bottleneck import start_as_shortcuts


def randomise(model: nn.Module) -> nn.Module:
    # With the statistics of fresh norms, much that is wrong would stay hidden.
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    return model


def same(ones: Any, others: Any, tolerance: float) -> bool:
    return len(ones) == len(others) and all(
        a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)
        for a, b in zip(ones, others)
    )


def total(maps: tuple[Tensor, ...]) -> Tensor:
    return sum((m.square().mean() for m in maps), torch.zeros(()))


class BackboneContract:
    network: ClassVar[type[GhostNet]]
    ratios: ClassVar[tuple[int, ...]] = (2, 3, 4, 5)
    # Channels at the ends of the stages with strides 4, 8, 16, 32.
    channels: ClassVar[dict[float, tuple[int, ...]]] = {
        0.35: (8, 16, 40, 56),
        1.0: (24, 40, 112, 160),
        1.1: (28, 44, 124, 176),
        1.6: (40, 64, 180, 256),
    }

    def small(self, **settings: Any) -> GhostNet:
        return self.network(**{'width': 0.5, **settings})

    def test_every_width_has_its_channels_and_strides(self) -> None:
        for width, channels in self.channels.items():
            model = self.network(width=width).eval()
            assert model.out_channels == channels
            assert model.out_strides == (4, 8, 16, 32)
            maps = model(torch.rand(1, 3, 64, 96))
            assert [tuple(m.shape[1:]) for m in maps] == [
                (c, 64 // s, 96 // s) for c, s in zip(model.out_channels, model.out_strides)
            ]

    @pytest.mark.parametrize(('height', 'width', 'dw_size'), [(32, 32, 1), (33, 47, 4), (321, 65, 5)])
    def test_any_size_from_32_px_and_any_kernel(self, height: int, width: int, dw_size: int) -> None:
        model = self.small(dw_size=dw_size)
        for training in (False, True):
            maps = model.train(training)(torch.rand(2, 3, height, width))
            for feature, stride in zip(maps, model.out_strides):
                assert feature.shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))
                assert feature.isfinite().all()
        total(maps).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_every_ratio(self) -> None:
        for ratio in (2, 3, 5):
            if ratio in self.ratios:
                model = self.small(ratio=ratio).eval()
                assert [m.shape[1] for m in model(torch.rand(1, 3, 32, 32))] == list(model.out_channels)
            else:
                with pytest.raises(ValueError, match=f'ratio is {ratio}'):
                    self.small(ratio=ratio)

    @pytest.mark.parametrize(('deepest', 'groups'), [(0, 3), (2, 7)])
    def test_nothing_is_built_behind_the_deepest_map(self, deepest: int, groups: int) -> None:
        model = self.small(out_indices=(deepest,))
        assert len(model.blocks) == groups
        deep = self.small()
        deep.load_state_dict({**deep.state_dict(), **model.state_dict()})
        x = torch.rand(1, 3, 64, 64)
        assert torch.equal(model.eval()(x)[0], deep.eval()(x)[deepest])
        total(model.train()(torch.rand(2, 3, 64, 64))).backward()
        assert all(p.grad is not None for p in model.parameters())

    @pytest.mark.parametrize('frozen', [-1, 0, 2, 4])
    def test_frozen_stages_do_not_learn_and_keep_their_statistics(self, frozen: int) -> None:
        model = self.small(frozen_stages=frozen).train()
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        total(model(torch.rand(4, 3, 64, 64).requires_grad_())).backward()
        optimizer.step()
        groups = {-1: 0, 0: 0, 1: 3, 2: 5, 3: 7, 4: 9}[frozen]
        for key, value in model.state_dict().items():
            part = key.split('.')
            is_frozen = int(part[1]) < groups if part[0] == 'blocks' else frozen >= 0
            assert torch.equal(value, before[key]) is is_frozen, key

    def test_norm_eval_keeps_statistics_but_trains_weights(self) -> None:
        model = self.small(norm_eval=True).train()
        before = copy.deepcopy(model.state_dict())
        total(model(torch.rand(2, 3, 64, 64))).backward()
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if 'running' in k)
        assert all(p.grad is not None for p in model.parameters())
        model.eval().train()
        assert not any(m.training for m in model.modules() if isinstance(m, _BatchNorm))

    def test_checkpointing_gives_the_same_gradients(self) -> None:
        group_norm = partial(nn.GroupNorm, 2)
        plain = self.small(norm_layer=group_norm)
        saving = self.small(norm_layer=group_norm, with_cp=True)
        saving.load_state_dict(plain.state_dict())
        x = torch.rand(1, 3, 64, 64)
        for model in (plain, saving):
            total(model(x)).backward()
        assert same([p.grad for p in plain.parameters()], [p.grad for p in saving.parameters()], 1e-6)

    def test_norm_and_act_layer_make_every_norm_and_activation(self) -> None:
        model = self.small(norm_layer=partial(nn.GroupNorm, 2), act_layer=nn.Hardswish)
        kinds = {type(m) for m in model.modules()}
        assert {nn.GroupNorm, nn.Hardswish} <= kinds and not {nn.BatchNorm2d, nn.ReLU} & kinds

    def test_bottlenecks_can_start_as_their_shortcuts(self) -> None:
        model = self.small()
        start_as_shortcuts(model)
        block = model.blocks[7][0].eval()
        x = torch.rand(1, block.shortcut[0].in_channels, 4, 4)
        assert torch.equal(block(x), block.shortcut(x))

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(width=0), 'width is 0'),
            (dict(width=float('nan')), 'width is nan'),
            (dict(width='1.0'), "width is '1.0'"),
            (dict(width=True), 'width is True'),
            (dict(out_indices=(0, 4)), 'some of 0 to 3'),
            (dict(out_indices=()), 'some of 0 to 3'),
            (dict(out_indices=(1, 1)), 'in rising order'),
            (dict(out_indices=3), 'some of 0 to 3'),
            (dict(frozen_stages=5), 'frozen_stages is 5'),
            (dict(frozen_stages=-2), 'frozen_stages is -2'),
            (dict(frozen_stages=1.0), 'frozen_stages is 1.0'),
            (dict(dw_size=0), 'dw_size is 0'),
            (dict(num_classes=0), 'num_classes is 0'),
            (dict(num_classes=10, out_indices=(0, 1)), 'with 3 in out_indices'),
        ],
    )
    def test_arguments_out_of_range_are_named(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.network(**arguments)

    @pytest.mark.filterwarnings('ignore:.*torch.jit.trace')
    @pytest.mark.filterwarnings('ignore:Converting a tensor')  # of sizes below 2, which a gate guards
    def test_traced_and_exported_models_are_the_same(self) -> None:
        model = randomise(self.small(out_indices=(0, 1))).eval()  # exporting takes its time
        x = torch.rand(1, 3, 64, 96)
        with torch.no_grad():
            want = model(x)
            assert same(want, torch.jit.trace(model, x)(x), 1e-5)
            assert same(want, torch.export.export(model, (x,)).module()(x), 1e-5)

    def test_autocast_stays_close(self) -> None:
        model = randomise(self.small()).eval()
        x = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            want = model(x)
            with torch.autocast('cpu', torch.bfloat16):
                got = model(x)
        for one, other in zip(want, got, strict=True):
            assert (one - other).norm() < 0.05 * one.norm()

    @pytest.mark.parametrize('settings', [{}, {'ratio': 4}, {'dw_size': 4}])
    def test_deployed_networks_give_the_same_maps(self, settings: dict[str, int]) -> None:
        if settings.get('ratio', 2) not in self.ratios:
            settings = {}
        model = randomise(self.small(**settings)).eval()
        x = torch.rand(2, 3, 75, 64)
        with torch.no_grad():
            want = model(x)
            model.switch_to_deploy()
            assert same(want, model(x), 1e-5)
            keys = list(model.state_dict())
            model.switch_to_deploy()
            assert list(model.state_dict()) == keys
            other = self.small(**settings).eval()
            other.switch_to_deploy()
            other.load_state_dict(model.state_dict())
            assert same(want, other(x), 1e-5)
        assert not any(key.split('.')[-3:-1] == ['bn1'] for key in keys if '_rpr_' in key)

    def test_the_classifier_gives_logits(self) -> None:
        model = self.small(num_classes=7)
        assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 7)
        dropped = model.train()
        torch.manual_seed(0)
        assert not torch.equal(
            dropped.classifier(nn.functional.dropout(torch.ones(1, 1280), model.drop_rate)),
            dropped.classifier(torch.ones(1, 1280)),
        )
