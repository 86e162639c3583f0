"""The focal loss."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from .references import mmops, same


@pytest.mark.parametrize(
    ('reduction', 'gamma', 'alpha', 'weighted'),
    [('none', 2.0, 0.25, True), ('sum', 1.5, 0.6, False), ('mean', 0.0, 0.5, True)],
)
def test_sigmoid_focal_loss(reduction, gamma, alpha, weighted):
    target = torch.randint(0, 4 if weighted else 5, (12,))  # 4 is background
    weight = torch.rand(4, dtype=torch.float64) if weighted else None

    def reference(x):
        losses = sigmoid_focal_loss(x, F.one_hot(target, 5)[:, :4].double(), alpha, gamma)
        losses = losses if weight is None else losses * weight[target, None]
        return {'none': losses, 'sum': losses.sum(), 'mean': losses.sum() / len(losses)}[reduction]

    logits = torch.randn(12, 4, dtype=torch.float64) * 3
    same(lambda x: mmops.sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction), reference, logits)


def test_sigmoid_focal_loss_of_certain_answers():
    logits = torch.tensor([[100.0, -100.0, 100.0]], requires_grad=True)
    loss = mmops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'none')
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([[75.0, 25.0, 75.0]]))
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25, 0.75]]))
    with pytest.raises(ValueError, match='target holds label 5, but there are 4 classes'):
        mmops.sigmoid_focal_loss(torch.zeros(2, 4), torch.tensor([0, 5]))


def test_half_precision_and_no_samples():
    loss = mmops.sigmoid_focal_loss
    logits, target = torch.randn(12, 4).half(), torch.randint(0, 4, (12,))
    ours, wide = logits.clone().requires_grad_(), logits.double().requires_grad_()
    for x in (ours, wide):
        loss(x, target, 2.0, 0.25, None, 'sum').backward()
    assert ours.grad.dtype == torch.float16
    torch.testing.assert_close(ours.grad.double(), wide.grad, atol=4e-3, rtol=4e-3)
    logits = torch.zeros(0, 4, requires_grad=True)
    total = loss(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, 'sum')
    total.backward()
    assert total == 0 and logits.grad.shape == (0, 4)
