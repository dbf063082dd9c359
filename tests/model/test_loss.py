"""Compare the training loss with its formulas."""

import pytest
import torch

from model.network import Prediction
from model.training.learner import MultiTaskLoss, balanced_weights


def test_the_loss_is_the_papers_sum() -> None:
    logits, mask = torch.randn(2, 1, 6, 6), torch.randint(0, 2, (2, 6, 6))
    label_logits, labels = torch.randn(2, 3), torch.tensor([[1.0, 0, 0], [1, 0, 1]])
    weights = balanced_weights([(1, 0, 0), (1, 0, 1), (0, 0, 0), (1, 1, 0)])
    assert weights.tolist() == pytest.approx([4 / (3 * 3), 4 / (3 * 1), 4 / (3 * 1)])
    p, t = torch.sigmoid(logits[:, 0]), mask.float()
    dice = 1 - (2 * (p * t).sum() + 1e-5) / (p.sum() + t.sum() + 1e-5)
    q = torch.sigmoid(label_logits)
    bce = -(weights * (labels * q.log() + (1 - labels) * (1 - q).log())).mean()
    loss = MultiTaskLoss(1, weights)(Prediction(logits, label_logits), mask, labels)
    torch.testing.assert_close(loss, dice + 0.25 * bce)
    prediction = Prediction(logits, label_logits)
    torch.testing.assert_close(MultiTaskLoss(1, weights)(prediction, mask, labels, with_labels=False), dice)
    learned = MultiTaskLoss(1, weights, learned=True)
    torch.testing.assert_close(learned(prediction, mask, labels), loss)
    # The best log variances are those of the weighted losses themselves: the gradient is 0 there.
    assert learned.log_variances is not None and learned.label_weight == 0.25
    learned.log_variances.data = torch.stack([dice, 0.25 * bce]).log()
    learned(prediction, mask, labels).backward()
    torch.testing.assert_close(learned.log_variances.grad, torch.zeros(2), atol=1e-6, rtol=0)
    assert learned.label_weight == pytest.approx(float(dice / bce), rel=1e-4)
    learned.log_variances.grad = None
    learned(prediction, mask, labels, with_labels=False).backward()
    assert learned.log_variances.grad is not None and float(learned.log_variances.grad[1]) == 0


def test_the_loss_of_several_classes_is_dice_on_the_softmax_and_focal_on_sigmoids() -> None:
    logits, mask = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    target = torch.stack([mask == index for index in range(3)], 1).float()
    p = torch.softmax(logits, 1)
    both, each = (p * target).sum((0, 2, 3)), (p + target).sum((0, 2, 3))
    dice = (1 - (2 * both + 1e-5) / (each + 1e-5)).mean()
    right = torch.where(target > 0, torch.sigmoid(logits), torch.sigmoid(-logits))
    focal = (-((1 - right) ** 2) * right.log()).mean()
    prediction = Prediction(logits, torch.zeros(2, 1))
    loss = MultiTaskLoss(3, torch.ones(1))(prediction, mask, torch.zeros(2, 1), with_labels=False)
    torch.testing.assert_close(loss, dice + focal)
