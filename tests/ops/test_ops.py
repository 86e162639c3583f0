"""Every operator is held against a twin written here from its definition, through mmcv's public functions."""

import math
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.autograd import gradcheck

from ghost_det import ops

MODE = ops.ensure_ops()

import mmcv  # noqa: E402
import mmcv.ops as mmops  # noqa: E402
from mmcv.utils.ext_loader import check_ops_exist  # noqa: E402

pytestmark = pytest.mark.skipif(
    PathFinder.find_spec('mmcv._ext', mmcv.__path__) is not None, reason='this mmcv has compiled operators'
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_boxes(n, size=40, dtype=torch.float32):
    """Whole-numbered, so that equal overlaps and touching boxes occur."""
    corner = torch.randint(0, size, (n, 2))
    return torch.cat((corner, corner + torch.randint(1, size, (n, 2))), 1).to(dtype)


def tied_scores(n):
    return torch.randint(1, 8, (n,)) / 8


def iou_twin(a, b, offset=0, over='union'):
    def area(x1, y1, x2, y2):
        return (x2 - x1 + offset) * (y2 - y1 + offset)

    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(width, 0) * max(height, 0)
    return shared / (area(*a) + area(*b) - shared if over == 'union' else area(*a))


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_bbox_overlaps(mode, offset):
    a, b = random_boxes(9), random_boxes(9)
    over = 'union' if mode == 'iou' else 'first'
    twin = torch.tensor([[iou_twin(x, y, offset, over) for y in b.tolist()] for x in a.tolist()])
    torch.testing.assert_close(mmops.bbox_overlaps(a, b, mode, offset=offset), twin)
    torch.testing.assert_close(mmops.bbox_overlaps(a, b[:4], mode, offset=offset), twin[:, :4])
    torch.testing.assert_close(mmops.bbox_overlaps(a, b, mode, aligned=True, offset=offset), twin.diagonal())


def nms_twin(boxes, scores, threshold, offset=0):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    keep = []
    for i in order:
        if all(iou_twin(boxes[j], boxes[i], offset) <= threshold for j in keep):
            keep.append(i)
    return keep


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.7])
def test_nms(threshold, offset):
    boxes, scores = random_boxes(60), tied_scores(60)
    dets, keep = mmops.nms(boxes, scores, threshold, offset=offset)
    twin = nms_twin(boxes.tolist(), scores.tolist(), threshold, offset)
    assert 5 < len(twin) < 60
    assert keep.tolist() == twin
    assert dets.equal(torch.cat((boxes, scores[:, None]), 1)[twin])


def test_nms_score_threshold_and_max_num():
    boxes, scores = random_boxes(60), tied_scores(60)
    twin = [i for i in nms_twin(boxes.tolist(), scores.tolist(), 0.5) if scores[i] > 0.5]
    assert len(twin) > 4
    assert mmops.nms(boxes, scores, 0.5, score_threshold=0.5)[1].tolist() == twin
    assert mmops.nms(boxes, scores, 0.5, score_threshold=0.5, max_num=4)[1].tolist() == twin[:4]


@pytest.mark.parametrize('tenths', range(1, 10))
def test_nms_keeps_an_iou_equal_to_the_threshold(tenths):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, tenths]], dtype=torch.float32)
    assert mmops.nms(boxes, torch.tensor([0.9, 0.8]), tenths / 10)[1].tolist() == [0, 1]


def test_nms_takes_numpy_and_scores_of_another_dtype():
    boxes, scores = random_boxes(30), tied_scores(30)
    twin = nms_twin(boxes.tolist(), scores.tolist(), 0.5)
    assert mmops.nms(boxes.numpy(), scores.numpy(), 0.5)[1].tolist() == twin
    assert mmops.nms(boxes, scores.half(), 0.5)[1].tolist() == twin


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_boxes_of_other_dtypes(dtype):
    boxes, scores = random_boxes(40, size=200, dtype=dtype), tied_scores(40).to(dtype)
    assert ((boxes[:, 2:] - boxes[:, :2]).double().prod(1) > 1e4).sum() > 10  # past what float16 counts
    twin = nms_twin(boxes.tolist(), scores.tolist(), 0.4)
    assert mmops.nms(boxes, scores, 0.4)[1].tolist() == twin
    dets = torch.cat((boxes, scores[:, None]), 1)
    assert [group[0] for group in mmops.nms_match(dets, 0.4)] == [group[0] for group in match_twin(dets, 0.4)]
    assert sorted(mmops.soft_nms(boxes, scores, 0.4, method='naive', min_score=0.01)[1].tolist()) == sorted(
        soft_nms_twin(boxes.tolist(), scores.tolist(), 0.4, 0.5, 0.01, 'naive', 0)[0]
    )
    whole = torch.tensor([[iou_twin(x, y) for y in boxes.tolist()] for x in boxes.tolist()])
    torch.testing.assert_close(mmops.bbox_overlaps(boxes, boxes), whole.to(dtype))


@pytest.mark.parametrize('cfg', [{}, {'split_thr': 10}, {'max_num': 6}, {'split_thr': 10, 'max_num': 6}])
def test_batched_nms(cfg):
    boxes, scores, classes = random_boxes(60), torch.rand(60), torch.randint(0, 3, (60,))
    twin = []
    for label in range(3):
        own = (classes == label).nonzero()[:, 0].tolist()
        twin += [own[i] for i in nms_twin(boxes[own].tolist(), scores[own].tolist(), 0.5)]
    twin = sorted(twin, key=lambda i: -scores[i])[: cfg.get('max_num')]
    dets, keep = mmops.batched_nms(boxes, scores, classes, {'type': 'nms', 'iou_threshold': 0.5, **cfg})
    assert keep.tolist() == twin
    assert dets.equal(torch.cat((boxes, scores[:, None]), 1)[twin])


def soft_nms_twin(boxes, scores, threshold, sigma, min_score, method, offset):
    """The published loop: swap the best to the front, decay the rest, fill a dropped place with the last."""
    rows = [[box, score, i] for i, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    front = 0
    while front < len(rows):
        best = max(range(front, len(rows)), key=lambda i: rows[i][1])
        rows[front], rows[best] = rows[best], rows[front]
        i = front + 1
        while i < len(rows):
            iou = iou_twin(rows[front][0], rows[i][0], offset)
            if method == 'gaussian':
                rows[i][1] *= math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                rows[i][1] *= 1 - iou if method == 'linear' else 0
            if rows[i][1] < min_score:
                last = rows.pop()
                if i < len(rows):
                    rows[i] = last
            else:
                i += 1
        front += 1
    return [row[2] for row in rows], [row[1] for row in rows]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(method, offset):
    boxes, scores = random_boxes(60), tied_scores(60)
    dets, keep = mmops.soft_nms(boxes, scores, 0.3, 0.4, 0.15, method, offset)
    twin, twin_scores = soft_nms_twin(boxes.tolist(), scores.tolist(), 0.3, 0.4, 0.15, method, offset)
    assert 5 < len(twin) < 60
    assert keep.tolist() == twin
    assert dets[:, :4].equal(boxes[twin])
    torch.testing.assert_close(dets[:, 4], torch.tensor(twin_scores))


@pytest.mark.parametrize(('method', 'expected'), [('naive', [1.0]), ('linear', [1.0, 0.8 * 0.4])])
def test_soft_nms_decays_at_the_threshold(method, expected):
    boxes, scores = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 6.0]]), torch.tensor([1.0, 0.8])
    dets, _ = mmops.soft_nms(boxes, scores, 0.6, method=method)
    torch.testing.assert_close(dets[:, 4], torch.tensor(expected))


def test_soft_nms_leaves_its_input():
    boxes, scores = random_boxes(20), tied_scores(20)
    before = boxes.clone(), scores.clone()
    mmops.soft_nms(boxes, scores)
    assert boxes.equal(before[0]) and scores.equal(before[1])


def test_soft_nms_of_boxes_without_area():
    boxes = [[5, 5, 5, 5], [0, 0, 10, 10], [30, 30, 40, 40], [7, 7, 7, 9], [60, 60, 70, 70], [1, 0, 10, 10]]
    scores = torch.tensor([0.95, 0.9, 0.6, 0.5, 0.7, 0.8])
    dets, keep = mmops.soft_nms(torch.tensor(boxes).float(), scores, method='gaussian')
    # What compiled mmcv gives: two of them overlap by 0 / 0, and the score that follows stays where it is.
    assert keep.tolist() == [0, 1, 4, 3, 2, 5]
    expected = torch.tensor([0.95, 0.9, 0.7, math.nan, 0.6, 0.8 * math.exp(-(0.9**2) / 0.5)])
    torch.testing.assert_close(dets[:, 4], expected, equal_nan=True)


def match_twin(dets, threshold):
    rows = dets.tolist()
    order = sorted(range(len(rows)), key=lambda i: -rows[i][4])
    groups = []
    while order:
        best = order[0]
        groups.append([best] + [i for i in order[1:] if iou_twin(rows[best][:4], rows[i][:4]) >= threshold])
        order = [i for i in order if i not in groups[-1]]
    return groups


@pytest.mark.parametrize('threshold', [0.3, 0.5])
def test_nms_match(threshold):
    dets = torch.cat((random_boxes(60), tied_scores(60)[:, None]), 1)
    twin = match_twin(dets, threshold)
    assert 1 < max(map(len, twin))
    assert [group.tolist() for group in mmops.nms_match(dets, threshold)] == twin


def test_nms_match_takes_an_iou_equal_to_the_threshold():
    dets = torch.tensor([[0, 0, 10, 10, 0.9], [0, 0, 10, 6, 0.8]])
    assert [group.tolist() for group in mmops.nms_match(dets, 0.6)] == [[0, 1]]


def test_no_boxes():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for dets, keep in (
        mmops.nms(boxes, scores, 0.5),
        mmops.nms(boxes, scores, 0.5, offset=1),
        mmops.nms(torch.ones(3, 4), torch.ones(3), 0.5, score_threshold=2.0),
        mmops.soft_nms(boxes, scores),
    ):
        assert dets.shape == (0, 5) and keep.shape == (0,) and keep.dtype == torch.long
    assert mmops.nms_match(torch.zeros(0, 5), 0.5) == []
    assert mmops.bbox_overlaps(boxes, torch.ones(3, 4)).shape == (0, 3)


def bilinear_twin(plane, y, x):
    """Value of a ``(c, h, w)`` map at a point; beyond one cell outside it is zero."""
    height, width = plane.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.new_zeros(len(plane))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    return (
        plane[:, top, left] * (1 - y + top) * (1 - x + left)
        + plane[:, top, right] * (1 - y + top) * (x - left)
        + plane[:, down, left] * (y - top) * (1 - x + left)
        + plane[:, down, right] * (y - top) * (x - left)
    )


def roi_align_twin(features, rois, size, scale, ratio, aligned):
    out = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (corner * scale - 0.5 * aligned for corner in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        bin_h, bin_w = height / size[0], width / size[1]
        grid_h, grid_w = ratio or math.ceil(bin_h), ratio or math.ceil(bin_w)
        for row in range(size[0]):
            for col in range(size[1]):
                total = features.new_zeros(features.shape[1])
                for i in range(grid_h):
                    for j in range(grid_w):
                        y = y1 + bin_h * (row + (i + 0.5) / grid_h)
                        x = x1 + bin_w * (col + (j + 0.5) / grid_w)
                        total = total + bilinear_twin(features[int(image)], y, x)
                out.append(total / max(grid_h * grid_w, 1))
    return torch.stack(out).view(len(rois), *size, -1).permute(0, 3, 1, 2)


def roi_pool_twin(features, rois, size, scale):
    height, width = features.shape[2:]

    def cells(start, end, count, index, limit):
        step = (end - start) / count
        low, high = math.floor(start + index * step), math.ceil(start + (index + 1) * step)
        return range(min(max(low, 0), limit), min(max(high, 0), limit) if step > 0 else 0)

    out = []
    for image, x1, y1, x2, y2 in rois.tolist():
        for plane in features[int(image)]:
            for row in range(size[0]):
                for col in range(size[1]):
                    best = None
                    for y in cells(y1 * scale, (y2 + 1) * scale, size[0], row, height):
                        for x in cells(x1 * scale, (x2 + 1) * scale, size[1], col, width):
                            if best is None or plane[y, x] > best:
                                best = plane[y, x]
                    out.append(plane.new_zeros(()) if best is None else best)
    return torch.stack(out).view(len(rois), -1, *size)


# On a (2, 3, 7, 9) map at scale 1/4: inside, hanging over each side, beyond it, thin, of no size, whole.
ROIS = torch.tensor(
    [
        [0, 3.3, 5.1, 21.7, 17.2],
        [1, -9.5, 2.2, 8.4, 40.0],
        [0, 25.0, -7.3, 60.0, 11.9],
        [1, 80.0, 80.0, 96.0, 90.0],
        [0, 10.2, 4.4, 10.9, 25.5],
        [1, 12.0, 12.0, 12.0, 12.0],
        [1, 0.0, 0.0, 36.0, 28.0],
    ],
    dtype=torch.float64,
)


def same_as_twin(op, twin, features):
    """Hold output and gradient of both against each other."""
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    output, expected = op(ours), twin(theirs)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    weight = torch.rand_like(expected)
    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)
    return output


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align(aligned, ratio):
    layer = mmops.RoIAlign((2, 3), 0.25, ratio, aligned=aligned)
    same_as_twin(
        lambda x: layer(x, ROIS),
        lambda x: roi_align_twin(x, ROIS, (2, 3), 0.25, ratio, aligned),
        torch.randn(2, 3, 7, 9, dtype=torch.float64),
    )
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: layer(x, ROIS), features, fast_mode=True)


def test_roi_pool():
    rois = torch.cat((ROIS, torch.tensor([[0, 20.0, 4.0, 12.0, 16.0]])))
    layer = mmops.RoIPool((2, 3), 0.25)
    features = torch.randperm(2 * 3 * 7 * 9).view(2, 3, 7, 9).double() - 50
    output = same_as_twin(lambda x: layer(x, rois), lambda x: roi_pool_twin(x, rois, (2, 3), 0.25), features)
    assert (output[-1] == 0).all() and (output[0] != 0).all()
    assert gradcheck(lambda x: layer(x, rois), features.requires_grad_(), fast_mode=True)


def test_roi_pool_gives_the_gradient_of_a_tie_to_the_first_cell():
    features = torch.zeros(1, 2, 7, 9).index_fill(2, torch.tensor([0, 2, 5]), 1)
    same_as_twin(
        lambda x: mmops.roi_pool(x, ROIS[-1:].float() * torch.tensor([0, 1, 1, 1, 1]), (2, 3), 0.25),
        lambda x: roi_pool_twin(x, ROIS[-1:] * torch.tensor([0, 1, 1, 1, 1]), (2, 3), 0.25),
        features,
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_regions_of_other_dtypes_and_memory_formats(dtype):
    features = torch.randn(2, 3, 7, 9).to(dtype)
    rois = ROIS.round().to(dtype)  # exact in every dtype
    tolerance = {'atol': 4 * torch.finfo(dtype).eps, 'rtol': 4 * torch.finfo(dtype).eps}
    for op in (mmops.RoIAlign((2, 3), 0.25, 2), mmops.RoIPool((2, 3), 0.25)):
        gradients = []
        for x in (features.double(), features, features.to(memory_format=torch.channels_last)):
            leaf = x.detach().clone().requires_grad_()
            output = op(leaf, rois.to(x.dtype))
            output.sum().backward()
            gradients.append((output.detach(), leaf.grad))
        for output, grad in gradients[1:]:
            assert output.dtype == grad.dtype == dtype
            torch.testing.assert_close(output.double(), gradients[0][0], **tolerance)
            torch.testing.assert_close(grad.double(), gradients[0][1], **tolerance)


@pytest.mark.parametrize('layer', [mmops.RoIAlign((2, 3), 0.25), mmops.RoIPool((2, 3), 0.25)])
def test_no_regions(layer):
    features = torch.randn(2, 3, 7, 9, requires_grad=True)
    output = layer(features, torch.zeros(0, 5))
    assert output.shape == (0, 3, 2, 3)
    output.sum().backward()
    assert features.grad.shape == features.shape and not features.grad.any()


@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_refuses_negative_sides(pool_mode):
    with pytest.raises(ValueError, match=r'\[0.0, 3.0, 1.0, 2.0, 4.0\] has a negative side'):
        mmops.RoIAlign(2, pool_mode=pool_mode)(
            torch.randn(1, 1, 4, 4), torch.tensor([[0, 0, 0, 2, 2], [0, 3, 1, 2, 4.0]])
        )


def sigmoid_focal_twin(logits, target, gamma, alpha, weight):
    p = 1 / (1 + (-logits).exp())
    rows = []
    for i, label in enumerate(target.tolist()):
        for c in range(logits.shape[1]):
            right, share = (p[i, c], alpha) if c == label else (1 - p[i, c], 1 - alpha)
            loss = -share * (1 - right) ** gamma * right.log()
            rows.append(loss * (1 if weight is None else weight[label]))
    return torch.stack(rows).view_as(logits)


def softmax_focal_twin(logits, target, gamma, alpha, weight):
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    rows = []
    for i, label in enumerate(target.tolist()):
        loss = -alpha * (1 - p[i, label]) ** gamma * p[i, label].log()
        rows.append(loss * (0 if label < 0 else 1 if weight is None else weight[label]))
    return torch.stack(rows)


def reduce(losses, reduction):
    return {'none': losses, 'sum': losses.sum(), 'mean': losses.sum() / len(losses)}[reduction]


@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
def test_sigmoid_focal_loss(reduction, gamma, alpha, weighted):
    target = torch.randint(0, 4 if weighted else 5, (12,))  # 4 is background
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    logits = torch.randn(12, 4, dtype=torch.float64) * 3

    def loss(x):
        return mmops.sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction)

    def twin(x):
        return reduce(sigmoid_focal_twin(x, target, gamma, alpha, weight), reduction)

    same_as_twin(loss, twin, logits)
    assert gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.5, 0.6), (0.0, 0.5)])
@pytest.mark.parametrize('reduction', ['sum', 'mean'])  # mmcv's own backward does not broadcast 'none'
def test_softmax_focal_loss(reduction, gamma, alpha, weighted):
    target = torch.cat((torch.randint(0, 4, (11,)), torch.tensor([-1])))
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    logits = torch.randn(12, 4, dtype=torch.float64) * 3

    def loss(x):
        return mmops.softmax_focal_loss(x, target, gamma, alpha, weight, reduction)

    def twin(x):
        return reduce(softmax_focal_twin(x, target, gamma, alpha, weight), reduction)

    same_as_twin(loss, twin, logits)
    assert gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_softmax_focal_loss_of_certain_answers(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = mmops.softmax_focal_loss(logits, torch.tensor([0, 0]), gamma, 0.25, None, 'sum')
    loss.backward()
    floor = math.log(torch.finfo(torch.float32).tiny)
    torch.testing.assert_close(loss.detach(), torch.tensor(-0.25 * floor))
    torch.testing.assert_close(logits.grad[0], torch.zeros(2))
    torch.testing.assert_close(logits.grad[1], torch.tensor([-0.25, 0.25]))


def test_sigmoid_focal_loss_of_certain_answers():
    logits = torch.tensor([[100.0, -100.0, 100.0]], requires_grad=True)
    loss = mmops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'none')
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([[75.0, 25.0, 75.0]]))
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25, 0.75]]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('loss', [mmops.sigmoid_focal_loss, mmops.softmax_focal_loss])
def test_focal_losses_of_other_dtypes(loss, dtype):
    logits, target = torch.randn(12, 4).to(dtype), torch.randint(0, 4, (12,))
    tolerance = {'atol': 4 * torch.finfo(dtype).eps, 'rtol': 4 * torch.finfo(dtype).eps}
    ours, wide = logits.clone().requires_grad_(), logits.double().requires_grad_()
    for x in (ours, wide):
        loss(x, target, 2.0, 0.25, None, 'sum').backward()
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad.double(), wide.grad, **tolerance)


@pytest.mark.parametrize('loss', [mmops.sigmoid_focal_loss, mmops.softmax_focal_loss])
def test_no_samples(loss):
    logits = torch.zeros(0, 4, requires_grad=True)
    total = loss(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, 'sum')
    total.backward()
    assert total == 0 and logits.grad.shape == (0, 4)


def test_sigmoid_focal_loss_refuses_labels_without_a_class():
    with pytest.raises(ValueError, match='target holds label 5, but there are 4 classes'):
        mmops.sigmoid_focal_loss(torch.zeros(2, 4), torch.tensor([0, 5]))


def test_the_module_is_found():
    assert MODE == 'stand-in'
    spec = find_spec('mmcv._ext')
    assert spec.origin == ops.__file__
    assert check_ops_exist()
    assert mmcv._ext is sys.modules['mmcv._ext']
    assert mmops.get_compiler_version() == mmops.get_compiling_cuda_version() == 'n/a'


def test_ensure_ops_again_changes_nothing():
    module, finders = sys.modules['mmcv._ext'], list(sys.meta_path)
    assert ops.ensure_ops() == 'stand-in'
    assert sys.modules['mmcv._ext'] is module and sys.meta_path == finders


def test_a_module_that_someone_else_registered_is_left_alone(monkeypatch):
    theirs = ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', theirs)
    assert ops.ensure_ops() == 'compiled'
    assert sys.modules['mmcv._ext'] is theirs and not hasattr(theirs, 'nms')


def test_an_operator_without_stand_in_fails_when_called():
    with pytest.raises(NotImplementedError) as error:
        mmops.box_iou_rotated(torch.ones(2, 5), torch.ones(3, 5))
    message = str(error.value)
    for part in ("'box_iou_rotated'", 'no compiled operators', 'mmcv', 'docs/operators.md'):
        assert part in message
    module = sys.modules['mmcv._ext']
    assert module.box_iou_rotated.__name__ == 'box_iou_rotated'
    for name in ('__path__', '__wrapped__', '_private'):
        with pytest.raises(AttributeError, match=name):
            getattr(module, name)


LOAD_OPS = f"""
import sys, types
package = sys.modules['ghost_det'] = types.ModuleType('ghost_det')  # whose own import does more
package.__path__ = [{str(Path(ops.__file__).parents[1])!r}]
from ghost_det import ops
"""


def run(code, *path):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, path)), 'OMP_NUM_THREADS': '1'}
    result = subprocess.run([sys.executable, '-c', LOAD_OPS + code], env=env, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_mmdet_imports_after_ensure_ops_alone():
    output = run("""
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    print(error)
print(ops.ensure_ops())
import mmdet.models
print(mmdet.models.MaskRCNN.__name__)
""")
    assert "No module named 'mmcv._ext'" in output  # as it would be without
    assert output.split()[-2:] == ['stand-in', 'MaskRCNN']


@pytest.fixture
def fake_mmcv(tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    return tmp_path / 'mmcv'


def test_compiled_operators_win(fake_mmcv):
    (fake_mmcv / '_ext.py').write_text('nms = "compiled"')
    output = run(
        """
print(ops.ensure_ops(), ops.ensure_ops())
import mmcv._ext
print(mmcv._ext.nms, mmcv._ext.__file__, hasattr(mmcv._ext, 'softnms'), len(sys.meta_path))
print(sum(type(finder).__name__ == '_StandInFinder' for finder in sys.meta_path))
""",
        fake_mmcv.parent,
    )
    assert output.split()[:5] == ['compiled', 'compiled', 'compiled', str(fake_mmcv / '_ext.py'), 'False']
    assert output.split()[-1] == '0'


def test_broken_compiled_operators_are_reported(fake_mmcv):
    library = fake_mmcv / f'_ext{EXTENSION_SUFFIXES[0]}'
    library.write_bytes(b'not a library')
    output = run(
        """
try:
    ops.ensure_ops()
except ImportError as error:
    print(error)
""",
        fake_mmcv.parent,
    )
    for part in ('do not load', torch.__version__, str(library), 'Rebuild', 'ghost-det[mm]'):
        assert part in output


def test_a_missing_stack_is_reported(tmp_path):
    (tmp_path / 'mmdet').mkdir()  # as an uninstall may leave it
    output = run(f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
for absent in ('mmcv',), ('mmengine', 'mmcv', 'mmdet'):
    PathFinder.find_spec = lambda name, path=None, target=None: (
        find(name, [{str(tmp_path)!r}] if name in absent else path, target))
    try:
        ops.ensure_ops()
    except ImportError as error:
        print(error)
""")
    first, second = output.split('ghost_det needs')[1:]
    assert 'not installed here: mmcv.' in first
    assert 'not installed here: mmengine, mmcv, mmdet.' in second
    for part in ('pip install "ghost-det[mm]"', 'pip install "ghost-det[official]"', 'mmcv-lite 2.1.0'):
        assert part in first
