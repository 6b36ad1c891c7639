"""Our losses and gradients equal torch's, for any logits, targets and options."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_course.cross_entropy import (binary_cross_entropy, binary_cross_entropy_gradient, cross_entropy,
                                      cross_entropy_gradient, linear_cross_entropy, log_softmax, perplexity)

some = settings(max_examples=150, deadline=None, derandomize=True)
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])
SMOOTHING = st.sampled_from([0.0, 0.1, 0.9])
HUGE = [0.0, -0.0, 1e-300, 88.7, -104.0, 709.8, -745.2, 1e16, 1e150, -1e150, 1e300, -1e300]
NUMBERS = st.floats(-30, 30) | st.sampled_from(HUGE)
SHARES = st.sampled_from([0.0, 1.0]) | st.floats(0.01, 0.99)
EXACT = {"rtol": 1e-6, "atol": 1e-6, "equal_nan": True}
BARE = {"reduction": "none"}


def tensors(draw, shape, numbers=NUMBERS) -> torch.Tensor:
    "A float64 tensor of this shape"
    count = math.prod(shape)
    return torch.tensor(draw(st.lists(numbers, min_size=count, max_size=count)), dtype=torch.float64).reshape(shape)


@st.composite
def many_classes(draw):
    "Logits, targets of each kind and options that suit them"
    C, places = draw(st.integers(1, 4)), tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    shape = (*places[:1], C, *places[1:])
    logits, options = tensors(draw, shape), {"reduction": draw(REDUCTIONS), "label_smoothing": draw(SMOOTHING)}
    if draw(st.booleans()):  # positive: the mean of weights that are all 0 is another test
        options["weight"] = tensors(draw, (C,), st.floats(0.01, 5))
    if draw(st.booleans()):
        return logits, tensors(draw, shape, st.floats(0, 1)), options
    options["ignore_index"] = draw(st.sampled_from([-100, -1, 0]))
    choices = st.integers(0, C - 1) if draw(st.booleans()) else st.just(options["ignore_index"])  # all ignored
    count = math.prod(places)
    numbers = draw(st.lists(choices | st.just(options["ignore_index"]), min_size=count, max_size=count))
    return logits, torch.tensor(numbers, dtype=torch.long).reshape(places), options


def with_gradient(function, logits, *arguments, **options):
    "A loss, and the gradient of its sum"
    logits = logits.clone().requires_grad_()
    loss = function(logits, *arguments, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


@some
@given(case=many_classes())
def test_cross_entropy_and_its_gradients_are_torchs(case):
    logits, targets, options = case
    theirs = with_gradient(F.cross_entropy, logits, targets, **options)
    torch.testing.assert_close(with_gradient(cross_entropy, logits, targets, **options), theirs, **EXACT)
    torch.testing.assert_close(cross_entropy_gradient(logits, targets, **options), theirs[1], **EXACT)


@some
@given(data=st.data(), shape=st.lists(st.integers(0, 3), max_size=3).map(tuple), reduction=REDUCTIONS)
def test_binary_cross_entropy_and_its_gradients_are_torchs(data, shape, reduction):
    # Shares of 1e-40 times logits of 1e150 are where torch's own form differs from the exact value
    logits, targets = tensors(data.draw, shape), tensors(data.draw, shape, SHARES)
    options = {"reduction": reduction}
    for name in data.draw(st.sets(st.sampled_from(["weight", "pos_weight"]))):
        # torch computes 1 + (weight - 1) · target, which turns a weight of 1e-80 into 0; ours keeps it
        options[name] = tensors(data.draw, shape[-1:], st.just(0.0) | st.floats(0.01, 5))
    theirs = with_gradient(F.binary_cross_entropy_with_logits, logits, targets, **options)
    torch.testing.assert_close(with_gradient(binary_cross_entropy, logits, targets, **options), theirs, **EXACT)
    torch.testing.assert_close(binary_cross_entropy_gradient(logits, targets, **options), theirs[1], **EXACT)


@some
@given(data=st.data(), shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
def test_log_softmax_is_torchs(data, shape):
    logits, dim = tensors(data.draw, shape), data.draw(st.integers(-len(shape), len(shape) - 1))
    torch.testing.assert_close(with_gradient(log_softmax, logits, dim), with_gradient(torch.log_softmax, logits, dim),
                               **EXACT)


@some
@given(data=st.data(), N=st.integers(0, 6), V=st.integers(1, 5), smoothing=SMOOTHING, chunk_size=st.integers(1, 8),
       reduction=st.sampled_from(["mean", "sum"]), ignored=st.sampled_from(["none", "some", "all"]))
def test_chunks_do_not_change_loss_and_gradients(data, N, V, smoothing, chunk_size, reduction, ignored):
    small = st.floats(-30, 30)
    hidden, weight = tensors(data.draw, (N, 3), small), tensors(data.draw, (V, 3), small)
    choices = {"none": st.integers(0, V - 1), "some": st.integers(0, V - 1) | st.just(-1), "all": st.just(-1)}[ignored]
    targets = torch.tensor(data.draw(st.lists(choices, min_size=N, max_size=N)), dtype=torch.long)
    options = {"ignore_index": -1, "label_smoothing": smoothing, "reduction": reduction}
    results = []
    for function in (lambda h, w: linear_cross_entropy(h, w, targets, chunk_size=chunk_size, **options),
                     lambda h, w: F.cross_entropy(h @ w.T, targets, **options)):
        inputs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = function(*inputs)
        results.append((loss.detach(), *torch.autograd.grad(-2 * loss, inputs)))
    torch.testing.assert_close(*results, **EXACT)


@some
@given(data=st.data(), N=st.integers(1, 5), C=st.integers(1, 5), smoothing=SMOOTHING,
       dtype=st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_is_rounded_once(data, N, C, smoothing, dtype):
    logits = tensors(data.draw, (N, C), st.floats(-100, 100)).to(dtype)
    targets = torch.tensor(data.draw(st.lists(st.integers(0, C - 1), min_size=N, max_size=N)))
    ours = with_gradient(cross_entropy, logits, targets, label_smoothing=smoothing)
    exact = with_gradient(F.cross_entropy, logits.double(), targets, label_smoothing=smoothing)
    one_rounding = torch.finfo(dtype).eps
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=one_rounding, atol=2e-5)
    by_hand = cross_entropy_gradient(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(by_hand.double(), exact[1], rtol=one_rounding, atol=2e-5)


@some
@given(data=st.data(), shape=st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
def test_binary_in_bfloat16_is_rounded_once(data, shape):
    logits = tensors(data.draw, shape, st.floats(-100, 100)).bfloat16()
    targets = tensors(data.draw, shape, st.sampled_from([0.0, 0.5, 1.0])).bfloat16()
    exact = F.binary_cross_entropy_with_logits(logits.double(), targets.double(), **BARE)
    ours = binary_cross_entropy(logits, targets, **BARE).double()
    torch.testing.assert_close(ours, exact, rtol=2**-8, atol=1e-12)  # torch's takes 29 from 29


def test_what_torch_says_of_nothing():
    logits, silent = torch.zeros(3, 2, dtype=torch.float64), torch.full((3,), -100)
    assert cross_entropy(logits, silent).isnan() and cross_entropy(logits, silent, reduction="sum") == 0
    assert cross_entropy(logits[:0], silent[:0]).isnan() and perplexity(logits, silent).isnan()
    assert binary_cross_entropy(logits[:0, 0], logits[:0, 0]).isnan()
    hidden, weight = torch.ones(3, 4), torch.ones(5, 4)
    assert linear_cross_entropy(hidden, weight, silent).isnan()
    assert linear_cross_entropy(hidden[:0], weight, silent[:0], reduction="sum") == 0
    none = torch.zeros(2, dtype=torch.float64)  # all weights 0: the loss is NaN, as torch's; our gradient stays 0
    loss, gradient = with_gradient(cross_entropy, logits, torch.zeros(3, dtype=torch.long), weight=none)
    assert loss.isnan() and not gradient.any()


def test_one_class_has_no_loss():
    logits, only = torch.tensor([[3.0], [-1e30]]), torch.zeros(2, dtype=torch.long)
    assert cross_entropy(logits, only) == 0 and perplexity(logits, only) == 1
    assert not cross_entropy_gradient(logits, only, label_smoothing=0.5).any()


def test_the_chunked_gradient_can_be_used_twice_but_not_differentiated():
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.arange(4), chunk_size=2)
    loss.backward(retain_graph=True)
    once = weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(weight.grad, 2 * once)
    loss = linear_cross_entropy(hidden, weight, torch.arange(4))
    (first,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()


def test_autocast_does_not_lower_the_precision():
    hidden, weight, targets = torch.randn(6, 3), torch.randn(7, 3), torch.arange(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.T, targets))


def test_perplexity_takes_more_dimensions():
    logits, targets = torch.randn(2, 5, 3), torch.tensor([[0, 1, -100], [4, 4, 2]])
    torch.testing.assert_close(perplexity(logits, targets), F.cross_entropy(logits, targets).exp())


@pytest.mark.parametrize("function", [cross_entropy, cross_entropy_gradient])
def test_bad_targets_are_told_with_their_place(function):
    logits = torch.zeros(2, 3, 2)
    with pytest.raises(ValueError, match=r"from 0 to 2 .*got 7 at \(1, 0\)"):
        function(logits, torch.tensor([[0, 1], [7, 0]]))
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        function(logits, torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"1 NaN, the first at \(1, 2, 0\)"):
        function(logits.index_put(tuple(torch.tensor([[1], [2], [0]])), torch.tensor(math.nan)),
                 torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(TypeError, match="whole numbers"):
        function(logits, torch.zeros(2, 2))


def test_infinities_of_both_signs_are_no_nan():
    ruled_out = torch.tensor([[0.0, -math.inf, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(cross_entropy(ruled_out, torch.tensor([2])),
                               F.cross_entropy(ruled_out, torch.tensor([2])))
    both = torch.tensor([[math.inf, -math.inf]])  # their sum is NaN; none of them is
    assert cross_entropy(both, torch.tensor([0])).isnan()  # infinity less infinity, as torch's
    assert F.cross_entropy(both, torch.tensor([0])).isnan()
