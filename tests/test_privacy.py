"""Privacy from outside: what is refused, that batches are the private ones, and that no stop and no kill makes a run spend more."""

import copy
import os
import re
import signal
import subprocess
import sys
import warnings
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np
import opacus
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from llm_course.adversarial_training import FGM, PGD, RDrop
from llm_course.augmentation import Mixup
from llm_course.callbacks import Callback
from llm_course.data import load_dataset
from llm_course.fine_tuning import CrossEntropy, FineTuningRun, MeanAbsoluteError, fine_tune, step_batches
from llm_course.models import TextClassifier
from llm_course.privacy import (
    DifferentialPrivacy,
    epsilon_after,
    exposure,
    likelihood_ratios,
    per_example_gradients,
    private_gradient,
    randomised_response,
    renyi_of_step,
    true_positives_at,
)
from llm_course.training.objective import Objective
from llm_course.training.private import ORDERS, PoissonSampler, PrivatePasses, begun, noise_for, quiet_hooks, secret_masks, spent
from llm_course.training.settings import Settings, seeded_accelerator

LABELS = ["negative", "positive"]
REVIEWS = load_dataset("movies")["train"].select(range(48)).map(  # short, of all lengths, in no order of them
    lambda row, place: {"text": row["text"][: 40 + 5 * (7 * place % 48)]}, with_indices=True)
VALIDATION = {"text": ["A fine film.", "Dull and long."], "label": [1, 0]}
BUDGET = DifferentialPrivacy(epsilon=8, delta=1e-3, seed=0)
QUICK = {"epochs": 2, "batch_size": 12, "learning_rate": 1e-3, "trainable": 1, "progress": False}


@lru_cache
def base(name: str = "tiny-bert", labels: tuple = tuple(LABELS)) -> TextClassifier:
    return TextClassifier.from_pretrained(name, labels=list(labels), device="cpu")


def new(name: str = "tiny-bert", **options: object) -> TextClassifier:
    return copy.deepcopy(base(name, **options))


def private(classifier: TextClassifier | None = None, **changed: object) -> FineTuningRun:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fine_tune(classifier or new(), REVIEWS, **{"privacy": BUDGET, **QUICK, **changed})


class Break(Callback):
    "A power cut"

    def __init__(self, step: int):
        self.step = step

    def on_step(self, run):
        if len(run.steps) == self.step:
            raise ConnectionAbortedError


class Watch(Callback):
    "Remembers what a step left"

    def __init__(self):
        self.seen = []

    def on_step(self, run):
        self.seen.append([weight.detach().clone() for weight in run.classifier.model.parameters()])


def same(a: TextClassifier, b: TextClassifier, tolerance: float = 0.0) -> bool:
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return all(torch.allclose(x, y, atol=tolerance, rtol=0) for x, y in pairs)


# --- bad input

@pytest.mark.parametrize("given,said", [
    ({"epsilon": 0}, "epsilon must be a number above 0, got 0"), ({"epsilon": -1}, "epsilon"),
    ({"epsilon": float("inf")}, "epsilon"), ({"epsilon": "8"}, "epsilon"),
    ({"delta": 0}, "delta must lie above 0 and below 1, got 0"), ({"delta": 1}, "delta"), ({"delta": -1e-5}, "delta"),
    ({"clip": 0}, "clip must be a number above 0, got 0"), ({"clip": -1}, "clip"), ({"noise": 0}, "noise"),
    ({"at_once": 0}, "at_once"), ({"seed": -1}, "seed")])
def test_numbers_that_are_no_budget(given, said):
    with pytest.raises(ValueError, match=said):
        DifferentialPrivacy(**{"epsilon": 8, **given})


@pytest.mark.parametrize("changed,said", [
    ({"noise": 0}, "noise"), ({"noise": float("nan")}, "noise"), ({"noise": float("inf")}, "noise"), ({"noise": -1}, "noise"),
    ({"rate": 1.5}, "rate"), ({"rate": float("nan")}, "rate"), ({"steps": -5}, "steps"), ({"steps": 2.5}, "steps"),
    ({"delta": 0}, "delta"), ({"delta": 2}, "delta"), ({"delta": float("nan")}, "delta")])
def test_an_account_of_nonsense_is_refused(changed, said):
    usual = {"noise": 1.0, "rate": 0.1, "steps": 10, "delta": 1e-5}
    with pytest.raises(ValueError, match=said):
        spent(**{**usual, **changed})
    with pytest.raises(ValueError, match=said):
        epsilon_after(**{**usual, **changed})
    if "noise" in changed:
        changed = {"epsilon": changed["noise"]}
    del usual["noise"]
    for more in (changed, {"steps": 0}, {"rate": 0}):
        with pytest.raises(ValueError, match=next(iter(more))):
            noise_for(**{"epsilon": 8, **usual, **more})


def test_an_account_is_never_below_zero_and_never_overflows():
    assert spent(1.0, 0.1, 0, 1e-5) == spent(1.0, 0.0, 5, 1e-5) == 0 == epsilon_after(1, 10.0, 0.01, 0.5)
    for account in (spent, lambda noise, rate, steps, delta: epsilon_after(steps, noise, rate, delta)):
        assert account(1e300, 0.1, 10, 1e-5) < 0.1 and account(1e-200, 0.1, 10, 1e-5) == float("inf")
        assert account(1e-200, 1.0, 10, 1e-5) == float("inf")
    assert 0 <= renyi_of_step(1e300, 0.1, 4) < 1e-12
    assert noise_for(1e300, 0.25, 20, 1e-5) == 1e-3 and spent(1e-3, 0.25, 20, 1e-5) < 1e300
    with pytest.raises(ValueError, match="orders must hold at least one"):
        epsilon_after(1, 1.0, 0.1, 1e-5, orders=[])
    assert epsilon_after(1, 1.0, 0.1, 1e-5, orders=iter([2, 3])) == epsilon_after(1, 1.0, 0.1, 1e-5, orders=[2, 3])


def test_a_budget_holds_plain_numbers():
    given = DifferentialPrivacy(Fraction(8), np.float32(0.25), np.int64(1), Fraction(6, 5), np.int64(4), torch.tensor(3))
    assert [type(value) for value in vars(given).values()] == [float, float, float, float, int, int]
    assert given == DifferentialPrivacy(8.0, 0.25, 1.0, 1.2, 4, 3)


@pytest.mark.parametrize("changed,said", [
    ({"privacy": DifferentialPrivacy(8, 1 / 48)}, "delta is 0.0208333, and there are 48 training texts"),
    ({"privacy": DifferentialPrivacy(1, 1e-3, noise=0.1)}, "The first step would spend"),
    ({"privacy": DifferentialPrivacy(1e-6, 1e-5)}, "Take fewer steps or a larger epsilon"),
    ({"batch_size": 49}, "batch_size is 49, but there are 48"),
    ({"gradient_accumulation": 2}, "gradient_accumulation = 2 does not go with privacy"),
    ({"max_tokens": 512}, "max_tokens = 512 does not go with privacy"),
    ({"trainable": "gradual"}, "trainable = 'gradual' does not go with privacy"),
    ({"compile": True}, "compile = True does not go with privacy"),
    ({"trainable": "all"}, "no rule for the gradient of single examples in roformer.encoder.embed_positions")])
def test_settings_that_make_the_account_false(changed, said):
    classifier = new()
    with pytest.raises(ValueError, match=said):
        private(classifier, **changed)
    assert same(classifier, base()), "nothing moved"


@pytest.mark.parametrize("wrong", [8, DifferentialPrivacy, "8"])
def test_a_budget_is_a_differential_privacy(wrong):
    with pytest.raises(TypeError, match=r"privacy must be a DifferentialPrivacy, such as"):
        private(privacy=wrong)


class Changed(CrossEntropy):
    "Inherits the promise, and may not keep it"


class Liar(CrossEntropy):
    "Says that it sees an example once, and sees it twice"

    each_alone = True

    def __call__(self, model, batch, backward):
        super().__call__(model, batch, backward)
        return super().__call__(model, batch, backward)


class Doubled(CrossEntropy):
    "Says so too, and puts each example into the batch twice"

    each_alone = True

    def __call__(self, model, batch, backward):
        twice = {name: torch.cat([part, part]) for name, part in batch.items()}
        return super().__call__(model, twice, backward)


@pytest.mark.parametrize("objective", [FGM(), PGD(), RDrop(), Mixup(), Changed(),
                                       lambda model, batch, backward: 0.0])
def test_objectives_that_see_an_example_twice_or_do_not_say(objective):
    with pytest.raises(TypeError, match="cannot be trained with privacy"):
        private(objective=objective)


@pytest.mark.parametrize("objective,kind,said", [(Liar(), TypeError, "gradients of a batch 2 times"),
                                                 (Doubled(), ValueError, "no gradient for each of 2 examples")])
def test_objectives_that_say_what_is_not_so(objective, kind, said):
    classifier = new()
    with pytest.raises(kind, match=said):
        private(classifier, objective=objective)
    assert same(classifier, base())


class Normed(torch.nn.Module):
    "A linear layer, and a normalisation over the batch"

    def __init__(self, size: int):
        super().__init__()
        self.norm, self.out = torch.nn.BatchNorm1d(size), torch.nn.Linear(size, 2)

    def forward(self, x):
        return self.out(self.norm(x))


def test_layers_that_have_no_gradient_of_one_example_are_named():
    classifier = new()
    classifier.model.classifier.out_proj = Normed(classifier.model.config.hidden_size)
    with pytest.raises(ValueError, match=r"classifier.out_proj.norm \(BatchNorm1d\) computes with averages"):
        private(classifier)
    with pytest.raises(ValueError, match=r"transformer.h.2.attn.c_attn \(Conv1D\)"):
        private(new("tiny-gpt"))
    with pytest.raises(ValueError, match="AdaLoRA cannot be trained with privacy"):
        private(base().with_adapter("adalora", rank=2), trainable="all")


class Centred(torch.nn.Module):
    "Takes the average over the batch away, without being a BatchNorm"

    def __init__(self, size: int):
        super().__init__()
        self.out = torch.nn.Linear(size, 2)

    def forward(self, x):
        return self.out(x - x.mean(0, keepdim=True))


class Summed(Centred):
    "An example sees those that stand before it"

    def forward(self, x):
        return self.out(x.cumsum(0))


class Mixing(CrossEntropy):
    "Says that it has a term for each example, and blends the answers wanted"

    each_alone = True

    def __call__(self, model, batch, backward):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        targets = F.one_hot(batch["targets"], 2).float()
        loss = F.cross_entropy(logits, 0.7 * targets + 0.3 * targets.flip(0))
        backward(loss)
        return loss.item()


@pytest.mark.parametrize("layer,objective", [(Centred, CrossEntropy()), (Summed, CrossEntropy()), (None, Mixing())])
def test_what_mixes_examples_is_found_by_trial(layer, objective):
    """The gradient of an example changes with its neighbour: no class name says so, with dropout in the model"""
    classifier = new()
    if layer:
        classifier.model.classifier.out_proj = layer(classifier.model.config.hidden_size)
    before = copy.deepcopy(classifier)
    with pytest.raises(ValueError, match="gradient of an example depends on the others in its batch, as seen in"):
        private(classifier, objective=objective, trainable="head")
    assert same(classifier, before) and not classifier.model.training


def test_one_or_two_texts_are_tried_out_too():
    few = {**QUICK, "batch_size": 1, "epochs": 1, "privacy": BUDGET, "trainable": "head"}
    assert len(fine_tune(new(), VALIDATION, **few).steps) == 2
    one, rated = {"text": ["A fine film."], "rating": [0.9]}, new(labels=("rating",))
    assert len(fine_tune(rated, one, objective=MeanAbsoluteError(), **few).steps) == 1


@pytest.mark.parametrize("wrapped,said", [(torch.nn.utils.weight_norm, "Linear, of which weight_g is trained"),
                                          (torch.nn.utils.spectral_norm, "Linear, of which weight_orig is trained")])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_in_another_place_are_named(wrapped, said):
    classifier = new()
    classifier.model.classifier.out_proj = wrapped(torch.nn.Linear(classifier.model.config.hidden_size, 2))
    with pytest.raises(ValueError, match=rf"classifier.out_proj \({said}\)") as error:
        fine_tune(classifier, REVIEWS, **{**QUICK, "privacy": BUDGET, "trainable": "head"})
    assert "get_submodule('classifier.out_proj').requires_grad_(False)" in str(error.value)
    assert "trainable='head'" not in str(error.value), "that is given already"


class Duck:
    "An objective without the base class, and without a __dict__"

    __slots__ = ()
    each_alone = True

    def __call__(self, model, batch, backward):
        return CrossEntropy()(model, batch, backward)


class Slotted(Duck):
    "Says nothing itself"

    __slots__ = ()


def test_objectives_without_the_base_class_may_say_so_too():
    assert private(objective=Duck(), epochs=1, trainable="head").steps[-1]["epsilon"] <= 8
    with pytest.raises(TypeError, match="Slotted cannot be trained with privacy"):
        private(objective=Slotted())


def test_positions_that_all_examples_share_are_named():
    classifier = TextClassifier.from_pretrained("minilm", labels=LABELS, device="cpu")
    few = REVIEWS.select(range(4))
    options = {**QUICK, "batch_size": 2, "epochs": 1, "trainable": "all", "privacy": BUDGET}
    with pytest.raises(ValueError, match=r"bert.embeddings.position_embeddings.weight.*get_submodule\(.bert.embeddings.position_embeddings"):
        fine_tune(classifier, few, **options)
    for name in ("position_embeddings", "token_type_embeddings"):
        classifier.model.bert.embeddings.get_submodule(name).requires_grad_(False)
    assert len(fine_tune(classifier, few, **options).steps) == 2


def test_several_processes_are_refused():
    settings = Settings(1, 4, None, 1, 1e-3, 1.0, 0.0, 0.0, "adamw", "no", None, None, 0).checked()
    accelerator = seeded_accelerator(settings, torch.device("cpu"))
    two = type("Two", (), {"num_processes": 2, "process_index": 0, "device": accelerator.device})()
    record = type("Record", (), {"__len__": lambda self: 48})()
    with pytest.raises(ValueError, match="privacy works in one process, and here are 2"):
        begun(BUDGET, CrossEntropy(), settings, False).batches(record, settings, two)


NAN = float("nan")
KNOWN = {"target": [1.0, 2.0], "shadows": np.arange(8.0).reshape(4, 2), "members": [[1, 0], [1, 0], [0, 1], [0, 1]]}


@pytest.mark.parametrize("function,usual,changed,said", [
    (exposure, {"surprise": 1.0, "others": [2.0]}, {"others": np.ones((2, 3))}, r"others must have 1 dimension, got the shape"),
    (exposure, {"surprise": 1.0, "others": [2.0]}, {"others": []}, "0 others"),
    (exposure, {"surprise": 1.0, "others": [2.0]}, {"others": [NAN]}, "others must be numbers; at 0 stands"),
    (exposure, {"surprise": 1.0, "others": [2.0]}, {"surprise": "1"}, "surprise"),
    (true_positives_at, {"rate": 0.1, "members": [1.0], "others": [0.0]}, {"others": [0.0, NAN]}, "at 1 stands"),
    (true_positives_at, {"rate": 0.1, "members": [1.0], "others": [0.0]}, {"members": np.ones((3, 2))}, "members must have 1"),
    (true_positives_at, {"rate": 0.1, "members": [1.0], "others": [0.0]}, {"members": [np.inf]}, "members"),
    (likelihood_ratios, KNOWN, {"target": [np.inf, 1]}, "target"),
    (likelihood_ratios, KNOWN, {"shadows": np.full((4, 2), NAN)}, "shadows"),
    (likelihood_ratios, KNOWN, {"shadows": np.ones(4)}, "shadows must have 2 dimensions"),
    (likelihood_ratios, KNOWN, {"members": [["yes", "no"]] * 4}, "members"),
    (likelihood_ratios, KNOWN, {"members": [[0.5, 1]] * 4}, "members"),
    (likelihood_ratios, KNOWN, {"members": [[1, 0]] * 3}, r"\(3, 2\)"),
    (randomised_response, {"truth": [True], "epsilon": 1}, {"truth": ["yes"]}, "truth"),
    (randomised_response, {"truth": [True], "epsilon": 1}, {"truth": [2]}, "truth"),
    (randomised_response, {"truth": [True], "epsilon": 1}, {"truth": np.zeros((3, 3))}, "truth"),
    (randomised_response, {"truth": [True], "epsilon": 1}, {"seed": None}, "seed")])
def test_what_is_no_score_is_refused(function, usual, changed, said):
    function(**usual)
    with pytest.raises(ValueError, match=said):
        function(**{**usual, **changed})


@pytest.mark.parametrize("gradients,said", [
    ({}, "one row for each of B examples"), ({"a": torch.tensor(1.0)}, "one row"),
    ({"a": torch.ones(2, 3), "b": torch.ones(1, 3)}, "one row"), ({"a": torch.tensor([[NAN], [1.0]])}, "no finite length"),
    ({"a": torch.tensor([[float("inf")], [1.0]])}, "no finite length")])
def test_what_is_no_gradient_is_refused(gradients, said):
    with pytest.raises(ValueError, match=said):
        private_gradient(gradients, 1.0, 0.0, 2, torch.Generator())


def test_lengths_of_half_precision_are_exact():
    halves = {"a": torch.full((2, 3), 300.0, dtype=torch.float16), "b": torch.tensor([0.0, 0.0])}
    found = private_gradient(halves, 1.0, 0.0, 2, torch.Generator())["a"]
    torch.testing.assert_close(found, torch.full((3,), 3 ** -0.5))
    assert private_gradient({"a": torch.zeros(0, 3)}, 1.0, 0.0, 2, torch.Generator())["a"].tolist() == [0, 0, 0]


# --- the gradient and the account

def test_gradients_of_examples_are_those_of_opacus_in_a_network():
    """What lies in the weights after a pass, against torch.func, to 1e-5"""
    network = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.GroupNorm(1, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    inputs, targets = torch.randn(9, 7, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    hooked = opacus.GradSampleModule(copy.deepcopy(network), loss_reduction="mean")
    with quiet_hooks():
        F.cross_entropy(hooked(inputs), targets).backward()
    ours = per_example_gradients(network, F.cross_entropy, inputs, targets)
    for name, weight in hooked._module.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad_sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", ["layer", "lora"])
def test_gradients_of_examples_in_a_run_are_those_of_the_classifier(monkeypatch, way):
    """Last layer and head, or LoRA beside all matrices: what a step of `fine_tune` reads, against torch.func, to 1e-5"""
    seen, real = [], PrivatePasses.read

    def noting(self, batch):
        loss = real(self, batch)
        if len(batch["targets"]) > 2:  # not the attempts with two examples
            seen.append(({name: value.clone() for name, value in batch.items()},
                         {name: (weight.detach().clone(), weight.grad_sample.clone()) for name, weight in self.weights.items()}))
        return loss

    monkeypatch.setattr(PrivatePasses, "read", noting)
    classifier = new() if way == "layer" else new().with_adapter("lora", rank=2, seed=0)
    for name, weight in classifier.model.named_parameters():
        if "lora_B" in name:  # at zero, as it begins, the other half would get no gradient
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    plain = copy.deepcopy(classifier).model.eval()
    fine_tune(classifier, REVIEWS, privacy=BUDGET, objective=Still(), **{
        **QUICK, "epochs": 1, "trainable": 1 if way == "layer" else "all"})
    batch, found = seen[-1]
    weights = {name.removeprefix("_module."): weight for name, (weight, _) in found.items()}
    assert any("attention" in name for name in weights) and set(weights) <= dict(plain.named_parameters()).keys()

    def loss_of(weights, ids, mask, target):
        given = {"input_ids": ids[None], "attention_mask": mask[None]}
        return F.cross_entropy(torch.func.functional_call(plain, weights, (), given).logits, target[None])

    each = [torch.func.grad(loss_of)(weights, ids, mask, target) for ids, mask, target in zip(
        batch["input_ids"], batch["attention_mask"], batch["targets"], strict=True)]
    for name, (_, theirs) in found.items():
        ours = torch.stack([one[name.removeprefix("_module.")] for one in each])
        apart, largest = (theirs - ours).abs().max(), ours.abs().max()
        assert apart < 1e-5 and 0 < largest and apart < 0.01 * largest, (name, apart, largest)


def test_a_private_step_is_the_plain_one_without_noise_and_with_room(monkeypatch):
    """With a clip that shortens nothing, no noise and all texts in each step, the gradient is the ordinary mean"""
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Silent())
    classifier = new()
    for part in classifier.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    classifier.model.config.hidden_dropout_prob = classifier.model.config.attention_probs_dropout_prob = 0.0
    plain = copy.deepcopy(classifier)
    options = {"epochs": 1, "batch_size": 48, "optimizer": "sgd", "learning_rate": 0.1, "warmup": 0.0,
               "weight_decay": 0.0, "trainable": "head", "progress": False}
    fine_tune(classifier, REVIEWS, privacy=DifferentialPrivacy(1e6, 1e-3, clip=1e6, noise=1e-3, at_once=7), **options)
    fine_tune(plain, REVIEWS, max_gradient_norm=1e9, **options)
    assert same(classifier, plain, 1e-5) and not same(classifier, base(), 1e-4)


class Silent:
    "Draws everybody, and no noise"

    def random(self, size):
        return np.zeros(size)

    def normal(self, scale, size):
        return np.zeros(size)

    def integers(self, below):
        return 0


def test_one_text_moves_the_sum_by_at_most_the_clip(monkeypatch):
    """The sum before noise, with and without one text, over a whole model of examples; and it is not zero"""
    sums = []
    real = PrivatePasses.clear

    def noting(self, keep=False):
        if keep:
            sums.append(torch.cat([weight.summed_grad.flatten() for weight in self.weights.values()]))
        real(self, keep)

    monkeypatch.setattr(PrivatePasses, "clear", noting)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Silent())
    budget = DifferentialPrivacy(1e6, 1e-3, clip=0.3, noise=1.0)
    for count in (12, 11):
        fine_tune(new(), REVIEWS.select(range(count)), **{**QUICK, "epochs": 1, "batch_size": count, "seed": 1,
                                                          "trainable": "head", "privacy": budget, "objective": Still()})
    assert 0.01 < (sums[0] - sums[1]).norm() <= 0.3 + 1e-5
    assert sums[0].norm() <= 12 * 0.3 + 1e-4


class Still(CrossEntropy):
    "Without dropout"

    each_alone = True

    def __call__(self, model, batch, backward):
        for part in model.modules():
            if "ropout" in type(part).__name__:
                part.eval()
        return super().__call__(model, batch, backward)


@pytest.mark.filterwarnings("ignore:Optimal order is the")
def test_epsilon_is_that_of_the_accountant():
    accountant = opacus.accountants.RDPAccountant()
    for noise, rate, steps, delta in ((0.5, 0.05, 11, 1e-4), (1.1, 0.004, 900, 1e-6), (3.0, 1.0, 2, 1e-3)):
        for _ in range(min(steps, 3)):
            accountant.step(noise_multiplier=noise, sample_rate=rate)
        accountant.history = [(noise, rate, steps)]
        assert spent(noise, rate, steps, delta) == accountant.get_epsilon(delta, alphas=ORDERS)
        whole = list(range(2, 256))
        assert np.isclose(epsilon_after(steps, noise, rate, delta), accountant.get_epsilon(delta, alphas=whole), rtol=1e-9)
        assert spent(noise, rate, steps, delta) <= epsilon_after(steps, noise, rate, delta) + 1e-9
    assert renyi_of_step(2.0, 1e-9, 8) < 1e-12
    assert spent(1e6, 0.25, 4, 1e-3) == 0.0  # Opacus would say less than nothing
    run = private()
    noise = noise_for(8, 0.25, run.total_steps, 1e-3)
    accountant.history = [(noise, 0.25, run.total_steps)]
    assert run.total_steps == 8 and 7.9 < run.steps[-1]["epsilon"] == accountant.get_epsilon(1e-3, alphas=ORDERS) <= 8
    assert "epsilon 8 spent" in repr(run) or "epsilon 7.9" in repr(run)


# --- the batches

def test_the_sampler_of_a_private_run_is_the_private_one():
    """What fine_tune trains on is drawn, text by text, whatever its length; without privacy it is by length"""
    settings = Settings(3, 12, None, 1, 1e-3, 1.0, 0.0, 0.0, "adamw", "no", None, None, 0).checked()
    accelerator = seeded_accelerator(settings, torch.device("cpu"))
    from llm_course.training.batches import text_record

    record = text_record(new(), REVIEWS["text"], torch.tensor(REVIEWS["label"]))
    batches = begun(BUDGET, CrossEntropy(), settings, False).batches(record, settings, accelerator)
    assert isinstance(batches.sampler, PoissonSampler) and batches.counts == [4, 4, 4]
    drawn = [rows for epoch in range(3) for rows in batches.steps(epoch)]
    assert drawn == [PoissonSampler(48, 0.25, 4, key=0).drawn(step) for step in range(12)]
    run = private(epochs=3)
    assert np.diff([0] + [row["examples"] for row in run.steps]).tolist() == [len(rows) for rows in drawn]
    lengths = np.array(record.lengths)
    by_length = step_batches(record, settings, accelerator).steps(0)
    spread = [np.mean([lengths[rows].std() for rows in steps if len(rows) > 1]) for steps in (drawn, by_length)]
    assert spread[0] > 0.8 * lengths.std() > spread[1]


def test_who_is_drawn_does_not_depend_on_lengths():
    """Texts of other lengths in the same places: the same rows"""
    long = REVIEWS.map(lambda row, place: {"text": row["text"][: 20 + 3 * place]}, with_indices=True)
    sizes = [[row["examples"] for row in fine_tune(new(), data, privacy=BUDGET, **QUICK).steps] for data in (REVIEWS, long)]
    assert sizes[0] == sizes[1]


def test_empty_batches_are_steps_of_noise():
    run = private(batch_size=1, epochs=1, privacy=DifferentialPrivacy(8, 1e-3, seed=1))
    counts = np.diff([0] + [row["examples"] for row in run.steps])
    assert 0 in counts and len(run.steps) == 48 and all(np.isfinite(row["loss"]) for row in run.steps)
    assert run.steps[-1]["epsilon"] <= 8


# --- stopped and resumed

def test_a_stopped_run_spends_no_more_and_never_uses_noise_twice(tmp_path):
    watch, folder = Watch(), {"checkpoints": tmp_path / "run", "resume": "auto", "checkpoint_every": 3}
    whole = private(callbacks=[watch])
    with pytest.raises(ConnectionAbortedError):
        private(callbacks=[Break(5)], **folder)
    again = private(**folder)
    assert [row["epsilon"] for row in again.steps] == [row["epsilon"] for row in whole.steps]
    assert same(again.classifier, whole.classifier, 1e-6)
    moves = [torch.cat([(b - a).flatten() for a, b in zip(x, y, strict=True)])
             for x, y in pairwise(watch.seen)]
    assert all(not torch.allclose(a, b) for a, b in pairwise(moves))
    finished = private(**folder)
    assert finished.steps == again.steps, "it is given back, not trained on"
    with pytest.raises(ValueError, match=r"privacy .*epsilon 8 there, 9 here"):
        private(privacy=DifferentialPrivacy(epsilon=9, delta=1e-3, seed=0), **folder)
    with pytest.raises(ValueError, match="privacy"):
        private(privacy=None, **folder)


KILLED = """
import os, signal, sys
import test_privacy as here

class Kill(here.Callback):
    def on_step(self, run):
        if len(run.steps) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

here.private(callbacks=[Kill()], checkpoints=sys.argv[1], resume="auto", checkpoint_every=3)
"""


def test_a_killed_run_spends_no_more(tmp_path):
    """Nothing of the process is left but its checkpoint"""
    folder = {"checkpoints": tmp_path / "run", "resume": "auto", "checkpoint_every": 3}
    rules = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder["checkpoints"])], env=rules, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    again, whole = private(**folder), private()
    assert [row["epsilon"] for row in again.steps] == [row["epsilon"] for row in whole.steps]
    assert same(again.classifier, whole.classifier, 1e-5)


def test_what_is_spent_is_shown_while_a_run_trains(capfd):
    run = private(progress=True, epochs=1)
    shown = [float(found) for found in re.findall(r"epsilon (\d+\.\d\d) spent", capfd.readouterr().err)]
    assert shown and shown == sorted(shown) and shown[-1] == round(run.steps[-1]["epsilon"], 2)


def test_a_secret_key_is_kept_for_the_run_and_drawn_for_each(tmp_path):
    """Without a seed: two runs differ, one that goes on takes the steps that it would have taken"""
    secret = DifferentialPrivacy(epsilon=8, delta=1e-3)
    assert not same(private(privacy=secret).classifier, private(privacy=secret).classifier, 1e-6)
    ends = []
    for attempt in range(2):
        folder = {"checkpoints": tmp_path / "run", "resume": "auto", "checkpoint_every": 2, "privacy": secret}
        if attempt == 0:
            with pytest.raises(ConnectionAbortedError):
                private(callbacks=[Break(5)], **folder)
            (tmp_path / "copy").mkdir()
            for path in (tmp_path / "run").rglob("*"):
                place = tmp_path / "copy" / path.relative_to(tmp_path / "run")
                place.mkdir(parents=True, exist_ok=True) if path.is_dir() else place.write_bytes(path.read_bytes())
        else:
            folder["checkpoints"] = tmp_path / "copy"
        ends.append(private(**folder))
    assert same(ends[0].classifier, ends[1].classifier, 1e-6), "both went on from the same key"
    assert [row["examples"] for row in ends[0].steps] == [row["examples"] for row in ends[1].steps]


class Told(Callback):
    "Counts what it is told"

    def __init__(self):
        self.steps = self.ends = 0

    def on_step(self, run):
        self.steps += 1
        assert run.steps[-1]["epsilon"] <= 4

    def on_end(self, run):
        self.ends += 1


@pytest.mark.filterwarnings("ignore:The budget is spent")
def test_chosen_noise_ends_the_run_before_it_overspends(tmp_path):
    budget, told = DifferentialPrivacy(epsilon=4, delta=1e-3, noise=1.2, seed=0), Told()
    options = {**QUICK, "privacy": budget, "epochs": 10}
    with pytest.warns(UserWarning, match=r"The budget is spent: the run ends after \d+ of 40 steps, with epsilon 3"):
        run = fine_tune(new(), REVIEWS, callbacks=[told], validation=VALIDATION, **options)
    count = len(run.steps)
    assert 0 < count < run.total_steps and spent(1.2, 0.25, count, 1e-3) <= 4 < spent(1.2, 0.25, count + 1, 1e-3)
    assert (told.steps, told.ends) == (count, 1), "the last step too"
    assert [row["step"] for row in run.evaluations] == sorted({*range(4, count, 4), count}), "and what it led to"
    folder = {**options, "checkpoints": tmp_path / "run", "resume": "auto", "checkpoint_every": 1}
    with pytest.raises(ConnectionAbortedError):
        fine_tune(new(), REVIEWS, callbacks=[Break(count - 1)], **folder)
    assert len(fine_tune(new(), REVIEWS, **folder).steps) == count == len(fine_tune(new(), REVIEWS, **folder).steps)


class Smooth(Objective):
    "Not a dataclass; its setting is in no field"

    each_alone = True

    def __init__(self, share: float, inner: object = None):
        self.share, self.inner = share, inner

    def __call__(self, model, batch, backward):
        return CrossEntropy(self.share)(model, batch, backward)


def plain_loss(share: float):
    def loss(model, batch, backward):
        return CrossEntropy(share)(model, batch, backward)

    loss.each_alone = True
    return loss


@pytest.mark.parametrize("made", [Smooth, plain_loss])
def test_another_setting_of_an_objective_is_another_run(tmp_path, made):
    """Also where it is no dataclass: the same noise on another gradient would tell of the texts"""
    folder = {"checkpoints": tmp_path / "run", "resume": "auto", "checkpoint_every": 1, "epochs": 1, "trainable": "head"}
    with pytest.raises(ConnectionAbortedError):
        private(objective=made(0.0), callbacks=[Break(3)], **folder)
    with pytest.raises(ValueError, match="settings of the objective"):
        private(objective=made(0.9), **folder)
    assert len(private(objective=made(0.0), **folder).steps) == 4


def test_a_run_whose_objective_cannot_be_compared_is_not_resumed(tmp_path):
    folder = {"checkpoints": tmp_path / "run", "resume": "auto", "checkpoint_every": 1, "epochs": 1, "trainable": "head"}
    with pytest.raises(ConnectionAbortedError):
        private(objective=Smooth(0.0, inner=print), callbacks=[Break(3)], **folder)
    with pytest.raises(ValueError, match="cannot be resumed: the settings of its objective are not all"):
        private(objective=Smooth(0.0, inner=print), **folder)


# --- what it leaves

def test_nothing_is_left_in_the_model_and_it_trains_on():
    classifier = new()
    run = private(classifier, objective=CrossEntropy(label_smoothing=0.1))
    assert all("epsilon" in row for row in run.steps) and not same(classifier, base(), 1e-6)
    for weight in classifier.model.parameters():
        assert not {"grad_sample", "summed_grad", "_forward_counter"} & set(vars(weight)) and weight.requires_grad
    assert not any(part._forward_hooks or part._backward_hooks for part in classifier.model.modules())
    assert "epsilon" not in fine_tune(classifier, REVIEWS, **QUICK).steps[-1]
    private(classifier), private(base().with_adapter("lora", rank=2), trainable="all")


def test_ratings_are_trained_privately():
    classifier = new(labels=("rating",))
    run = private(classifier, objective=MeanAbsoluteError())
    assert run.steps[-1]["epsilon"] <= 8 and not same(classifier, base(labels=("rating",)), 1e-6)


def test_memory_that_runs_out_changes_neither_account_nor_step(monkeypatch):
    """The step is taken again in smaller parts: the same batch, the same noise, paid once"""
    expected, real, failed = private(), PrivatePasses.add, []

    def failing(self, batch):
        if len(batch["targets"]) > 4 and not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return real(self, batch)

    monkeypatch.setattr(PrivatePasses, "add", failing)
    with pytest.warns(UserWarning, match="Memory ran out at step 1"):
        run = fine_tune(new(), REVIEWS, privacy=BUDGET, **QUICK)
    assert [row["epsilon"] for row in run.steps] == [row["epsilon"] for row in expected.steps]
    assert [row["examples"] for row in run.steps] == [row["examples"] for row in expected.steps]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_memory_that_runs_out_inside_a_layer(where):
    """What the layers have kept by then is forgotten: without dropout the weights are those of a run that had room"""
    classifier, failed = new(), []
    options = {**QUICK, "epochs": 1, "privacy": BUDGET, "objective": Still(), "trainable": "head"}

    def fail(gradient=None):
        failed.append(where)
        raise torch.OutOfMemoryError("out of memory")

    def failing(layer, given):
        if len(given[0]) > 4 and not failed:
            given[0].register_hook(fail) if where == "backward" else fail()

    hook = classifier.model.classifier.out_proj.register_forward_pre_hook(failing)
    with pytest.warns(UserWarning, match="Memory ran out at step 1"):
        run = fine_tune(classifier, REVIEWS, **options)
    hook.remove()
    expected = fine_tune(new(), REVIEWS, **options)
    assert failed == [where] and same(run.classifier, expected.classifier, 1e-5)
    assert [row["epsilon"] for row in run.steps] == [row["epsilon"] for row in expected.steps]


class Drawing(CrossEntropy):
    "Notes a number that dropout would have drawn"

    each_alone = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def __call__(self, model, batch, backward):
        self.seen.append(torch.rand(1, dtype=torch.float64).item())
        return super().__call__(model, batch, backward)


def test_masks_of_dropout_are_as_secret_as_the_noise(tmp_path):
    """They come from the key and the step, not from the public seed, and the generator outside goes on as it was"""
    def drawn(budget=BUDGET, **changed):
        objective = Drawing()
        private(objective=objective, privacy=budget, trainable="head", **{"epochs": 1, **changed})
        return objective.seen[3:]  # the first belong to the attempts with two examples

    first, folder = drawn(), {"checkpoints": tmp_path / "run", "checkpoint_every": 2, "resume": "auto"}
    assert first == drawn(seed=5) and len(set(first)) == 4
    assert not set(first) & set(drawn(DifferentialPrivacy(epsilon=8, delta=1e-3, seed=1)))
    assert drawn(DifferentialPrivacy(8, 1e-3)) != drawn(DifferentialPrivacy(8, 1e-3))
    with pytest.raises(ConnectionAbortedError):
        drawn(callbacks=[Break(3)], **folder)
    assert drawn(**folder) == first[2:], "the third step draws again what it drew before"
    before = torch.get_rng_state()
    with secret_masks(3, torch.device("cpu")):
        torch.rand(2)
    assert torch.equal(before, torch.get_rng_state())


def test_without_the_library_all_else_works():
    code = ("import sys; sys.modules['opacus'] = None\n"
            "from llm_course.fine_tuning import fine_tune\nimport llm_course.answers.privacy\n"
            "try:\n    import llm_course.privacy\nexcept ImportError as error:\n    print(error)\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert 'pip install "llm_course[lessons]"' in done.stdout, done.stderr
