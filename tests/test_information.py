"""Entropy and divergence are SciPy's for any probabilities; a text's price is the same however it is cut."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_course.information import (bits_per_character, entropy, kl_divergence, mean_absolute_error, spelling_nats,
                                    tempered_softmax)

some = settings(max_examples=100, deadline=None, derandomize=True)


@st.composite
def distributions(draw, count: int = 2):
    "Some distributions over the same classes, with zeros among them"
    size = draw(st.integers(2, 5))
    found = []
    for _ in range(count):
        amounts = draw(st.lists(st.just(0.0) | st.floats(1e-9, 1), min_size=size, max_size=size).filter(any))
        found.append(np.array(amounts) / sum(amounts))
    return found


@some
@given(pair=distributions())
def test_entropy_and_divergence_are_scipys(pair):
    q, p = pair
    assert math.isclose(entropy(q), scipy.special.entr(q).sum(), abs_tol=1e-12)
    assert -1e-12 <= entropy(q) <= math.log(len(q)) + 1e-12
    expected = scipy.special.rel_entr(q, p).sum()
    assert math.isclose(kl_divergence(q, p), expected, abs_tol=1e-9) and expected > -1e-12
    assert kl_divergence(q, p, unit="bits") == kl_divergence(q, p) / math.log(2)


@some
@given(pair=distributions(1), T=st.floats(0.05, 20), warmer=st.floats(1.01, 5))
def test_a_higher_temperature_never_lowers_the_entropy(pair, T, warmer):
    logits = torch.tensor(10 * pair[0])
    assert entropy(tempered_softmax(logits, T)) <= entropy(tempered_softmax(logits, T * warmer)) + 1e-9


def test_they_have_gradients():
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([0, 2, 1, 0])

    def all_of(z):
        p = tempered_softmax(z, 2.0)
        return entropy(p).sum() + kl_divergence(p, p.flip(0)).sum() + mean_absolute_error(p, target)

    assert torch.autograd.gradcheck(all_of, logits)


def test_arguments_of_every_kind():
    p = np.array([[0.25, 0.75], [1.0, 0.0]])
    for given_ in (p, p.tolist(), torch.tensor(p), torch.tensor(p, dtype=torch.float16)):
        assert np.allclose(entropy(given_), [0.5623, 0], atol=1e-3)
        assert np.allclose(mean_absolute_error(given_, np.array([1, 1]), reduction="none"), [0.25, 1], atol=1e-3)
    assert entropy(np.zeros((0, 3))).shape == (0,) and entropy(p[None]).shape == (1, 2)


@pytest.mark.parametrize("bad", [[0.5, 0.6], [-0.5, 1.5], [math.nan, 1], [1.0], 0.5, [[0.5], [0.5]], ["a", "b"]])
def test_what_is_no_distribution_is_refused(bad):
    for function in (entropy, lambda p: kl_divergence([0.5, 0.5], p), lambda p: mean_absolute_error(p, [0])):
        with pytest.raises(ValueError, match="probabilities must be"):
            function(bad)


@some
@given(words=st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5), cut=st.integers(0, 5))
def test_the_price_of_a_text_does_not_depend_on_who_is_paid(words, cut):
    nats = spelling_nats(["movie", "film"], words).tolist()
    assert all(math.isfinite(value) and value > 0 for value in nats)
    characters, rare = sum(map(len, words)), [place >= cut for place in range(len(words))]
    all_at_once = bits_per_character(nats, characters)
    signs = [0.0 if is_rare else value for value, is_rare in zip(nats, rare, strict=True)]
    spelt = bits_per_character(signs, characters, rare=rare, spelling=nats[cut:])
    assert math.isclose(spelt, all_at_once, rel_tol=1e-9)
