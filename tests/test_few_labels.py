"""Few labels from outside: values of references, what is refused, and what a killed loop still knows."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers.models.clip import modeling_clip

from llm_course.few_labels import ContrastiveLoss


def vectors(count: int, seed: int = 0, size: int = 5, **options: object) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), **options)


# --- the contrastive loss

def test_the_loss_is_that_of_clip():
    """With partners on the diagonal it is the loss of the CLIP of transformers, gradients too"""
    left, right = vectors(6).requires_grad_(), vectors(6, 1).requires_grad_()
    loss = ContrastiveLoss(0.2)
    ours = torch.autograd.grad(loss(left, right), (left, right))
    reference = next(getattr(modeling_clip, name) for name in ("image_text_contrastive_loss", "clip_loss")
                     if hasattr(modeling_clip, name))
    theirs = reference(F.normalize(right, dim=-1) @ F.normalize(left, dim=-1).T / 0.2)
    torch.testing.assert_close(loss(left, right), theirs)
    for mine, other in zip(ours, torch.autograd.grad(theirs, (left, right)), strict=True):
        torch.testing.assert_close(mine, other)


def test_several_positives_are_soft_targets():
    """Cross-entropy with targets spread evenly over the positives, for rows and for columns"""
    left, right, labels = vectors(5), vectors(5, 1), torch.tensor([0, 1, 0, 2, 1])
    positives = labels[:, None] == labels
    scores = F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T / 0.1
    spread = positives.float() / positives.sum(1, keepdim=True)
    expected = (F.cross_entropy(scores, spread) + F.cross_entropy(scores.T, spread)) / 2
    torch.testing.assert_close(ContrastiveLoss(0.1)(left, right, positives), expected)
    alone = torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(ContrastiveLoss()(left, right, alone), ContrastiveLoss()(left, right))


def test_one_sided_positives():
    """A matrix that is not symmetric counts its own rows and its own columns"""
    left, right = vectors(3), vectors(3, 1)
    positives = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    scores = ContrastiveLoss(0.5).scores(left, right)
    rows = [-scores[i].log_softmax(0)[positives[i]].mean() for i in range(3)]
    columns = [-scores[:, j].log_softmax(0)[positives[:, j]].mean() for j in range(3)]
    expected = (sum(rows) / 3 + sum(columns) / 3) / 2
    torch.testing.assert_close(ContrastiveLoss(0.5)(left, right, positives), expected)


def test_the_learned_temperature():
    """It is a weight in logarithms, has a gradient, stops at a hundredth, and comes back from there"""
    loss = ContrastiveLoss(0.07, learned=True)
    assert loss.log_scale.item() == pytest.approx(math.log(1 / 0.07)) and [*loss.parameters()] == [loss.log_scale]
    assert not [*ContrastiveLoss(0.07).parameters()]
    left = vectors(4)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e4)
    for right, sign in ((left + 0.01 * vectors(4, 1), 1), (left.flip(0), -1)):
        before = loss.log_scale.item()
        optimizer.zero_grad()
        loss(left, right).backward()
        optimizer.step()
        loss(left, right)
        assert math.copysign(1, loss.log_scale.item() - before) == sign
        assert loss.log_scale.item() <= math.log(100) + 1e-6
    torch.testing.assert_close(ContrastiveLoss(0.01, learned=True)(left, left), ContrastiveLoss(0.01)(left, left))


def test_the_length_of_vectors_does_not_count_nor_half_precision():
    """Only directions count; 16 bits are widened before anything is exponentiated"""
    left, right = vectors(4), vectors(4, 1)
    loss = ContrastiveLoss()
    torch.testing.assert_close(loss(3 * left, right / 7), loss(left, right))
    half = loss(left.bfloat16(), right.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(left.bfloat16().float(), right.bfloat16().float()))
    assert loss(torch.zeros(3, 5), vectors(3)).item() == pytest.approx(math.log(3)), "no direction, no news"
    assert loss(left, left) < loss(left, right)


@pytest.mark.parametrize(("left", "right", "positives", "said"), [
    ((1, 5), (1, 5), None, r"N at least 2, got \(1, 5\) and \(1, 5\)"),
    ((3, 5), (4, 5), None, r"got \(3, 5\) and \(4, 5\)"),
    ((3, 5), (3, 4), None, r"got \(3, 5\) and \(3, 4\)"),
    ((3, 2, 5), (3, 2, 5), None, r"two matrices \(N, D\)"),
    ((3, 5), (3, 5), torch.eye(3), "positives must be a bool matrix"),
    ((3, 5), (3, 5), torch.ones(2, 2, dtype=torch.bool), r"of the shape \(3, 3\), got torch.bool \(2, 2\)"),
    ((3, 5), (3, 5), torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]]).bool(), "a partner in each row"),
    ((3, 5), (3, 5), torch.tensor([[1, 0, 1], [1, 0, 1], [1, 0, 1]]).bool(), "and in each column"),
])
def test_what_cannot_be_contrasted_is_refused(left, right, positives, said):
    """One pair alone, shapes that differ, and vectors that have no partner"""
    with pytest.raises(ValueError, match=said):
        ContrastiveLoss()(torch.ones(left), torch.ones(right), positives)


@pytest.mark.parametrize(("temperature", "learned"), [(0, False), (-1, False), (math.nan, False), (0.005, True)])
def test_temperatures_that_are_refused(temperature, learned):
    """Above zero; and where it is learned, above the bound that it would be held to"""
    with pytest.raises(ValueError, match="temperature must be a number"):
        ContrastiveLoss(temperature, learned)
