from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ghost_det.engine.inference import TorchDetector, load_detector
from ghost_det.errors import UserError
from tests.demo.torch_files import save_torch
from tests.export.settled import canvases


def test_streams_and_calls_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = TorchDetector(*map(str, save_torch(tmp_path)))
    image = canvases(1)[0]
    expected = detector(image)
    assert len(expected) > 0
    for name in ('boxes', 'scores', 'labels'):
        for streamed in detector.stream([image, image, image], batch=2):
            np.testing.assert_allclose(getattr(streamed, name), getattr(expected, name), rtol=1e-3, atol=1e-2)
    with pytest.raises(UserError, match='Resize of the pipeline fails'):
        detector(np.zeros((2, 3000, 3), np.uint8))

    # Boxes without an area in the image are left out.
    boxes = torch.tensor([[-9.0, 5, -3, 20], [5, 5, 9, 9], [7, 500, 20, 600]])
    instances = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7]), labels=torch.zeros(3).long())
    sample = DetDataSample(pred_instances=instances)
    monkeypatch.setattr(detector._model, 'test_step', lambda data: [sample])
    found = detector(image)
    assert found.boxes.tolist() == [[5, 5, 9, 9]] and found.scores.tolist() == pytest.approx([0.8])


def test_the_classes_of_a_checkpoint_are_those_of_the_detector(tmp_path: Path) -> None:
    config, checkpoint = map(str, save_torch(tmp_path))
    content = torch.load(checkpoint)
    named = load_detector(config, checkpoint)
    assert named.classes == content['meta']['dataset_meta']['classes'] and not named.model.training
    count = named.model.bbox_head.num_classes
    torch.save({f'module.{key}': value for key, value in content['state_dict'].items()}, checkpoint)
    unnamed = load_detector(config, checkpoint)
    assert unnamed.classes[0] == ('person' if count == 80 else 'class 0') and len(unnamed.classes) == count
    for key, value in unnamed.model.state_dict().items():
        assert torch.equal(value, content['state_dict'][key])
    assert load_detector(config, None).classes[-1] == f'class {count - 1}'
