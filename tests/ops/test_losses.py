"""Focal losses."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from .references import mmops, same, stand_ins

pytestmark = stand_ins


def sigmoid_focal_reference(logits, target, gamma, alpha, weight):
    p = 1 / (1 + (-logits).exp())
    rows = []
    for i, label in enumerate(target.tolist()):
        for c in range(logits.shape[1]):
            right, share = (p[i, c], alpha) if c == label else (1 - p[i, c], 1 - alpha)
            loss = -share * (1 - right) ** gamma * right.log()
            rows.append(loss * (1 if weight is None else weight[label]))
    return torch.stack(rows).view_as(logits)


def softmax_focal_reference(logits, target, gamma, alpha, weight):
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    rows = []
    for i, label in enumerate(target.tolist()):
        loss = -alpha * (1 - p[i, label]) ** gamma * p[i, label].log()
        rows.append(loss * (0 if label < 0 else 1 if weight is None else weight[label]))
    return torch.stack(rows)


def reduce(losses, reduction):
    return {'none': losses, 'sum': losses.sum(), 'mean': losses.sum() / len(losses)}[reduction]


@pytest.mark.parametrize(
    ('reduction', 'gamma', 'alpha', 'weighted'),
    [('none', 2.0, 0.25, True), ('sum', 1.5, 0.6, False), ('mean', 0.0, 0.5, True)],
)
def test_sigmoid_focal_loss(reduction, gamma, alpha, weighted):
    target = torch.randint(0, 4 if weighted else 5, (12,))  # 4 is background
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    logits = torch.randn(12, 4, dtype=torch.float64) * 3

    def loss(x):
        return mmops.sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction)

    def reference(x):
        return reduce(sigmoid_focal_reference(x, target, gamma, alpha, weight), reduction)

    same(loss, reference, logits)
    assert gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize(
    ('reduction', 'gamma', 'alpha', 'weighted'),  # mmcv's own backward does not broadcast 'none'
    [('sum', 2.0, 0.25, False), ('mean', 0.5, 0.6, True), ('sum', 0.0, 0.5, True)],
)
def test_softmax_focal_loss(reduction, gamma, alpha, weighted):
    target = torch.cat((torch.randint(0, 4, (11,)), torch.tensor([-1])))
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    logits = torch.randn(12, 4, dtype=torch.float64) * 3

    def loss(x):
        return mmops.softmax_focal_loss(x, target, gamma, alpha, weight, reduction)

    def reference(x):
        return reduce(softmax_focal_reference(x, target, gamma, alpha, weight), reduction)

    same(loss, reference, logits)
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


@pytest.mark.parametrize('loss', [mmops.sigmoid_focal_loss, mmops.softmax_focal_loss])
def test_focal_losses_of_another_dtype(loss):
    dtype = torch.float16
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
