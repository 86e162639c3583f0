import pytest
import torch

from ghost_det import GhostNet
from ghost_det.deploy.backends import openvino_core
from ghost_det.deploy.int8 import quantization_settings
from ghost_det.deploy.rewrite import rewrite

from ..models.contract import randomise

nncf = pytest.importorskip('nncf')
openvino = pytest.importorskip('openvino')


class Detector(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = rewrite(randomise(GhostNet(width=0.35, out_indices=(0, 1))).eval())
        self.head = torch.nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[1]).flatten(2).exp() * 2


@pytest.fixture(scope='module')
def model() -> 'openvino.Model':
    with torch.no_grad():
        return openvino.convert_model(Detector().eval(), example_input=torch.rand(1, 3, 64, 64))


def test_what_follows_the_last_convolution_stays_in_floating_point(model: 'openvino.Model') -> None:
    model.reshape([1, 3, 64, 64])
    ignored = set(quantization_settings(model)['ignored_scope'].names)
    kinds = {op.get_friendly_name(): op.get_type_name() for op in model.get_ordered_ops()}
    assert {'Exp', 'Multiply'} <= {kinds[name] for name in ignored}
    assert not {'Convolution', 'GroupConvolution', 'Concat', 'ReduceMean'} & {kinds[name] for name in ignored}


def test_the_quantised_network_stays_close(model: 'openvino.Model') -> None:
    model.reshape([1, 3, 64, 64])
    samples = [torch.rand(1, 3, 64, 64).numpy() for _ in range(4)]
    small = nncf.quantize(model.clone(), nncf.Dataset(samples), subset_size=4, **quantization_settings(model))
    quantisers = [op for op in small.get_ops() if op.get_type_name() == 'FakeQuantize']
    settings = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    core = openvino_core()
    want, got = (
        torch.from_numpy(core.compile_model(one, 'CPU', settings)(samples[0])[0]).log()
        for one in (model, small)
    )
    assert quantisers
    assert (want - got).norm() < 0.2 * (want - want.mean()).norm()
