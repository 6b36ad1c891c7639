"""Few labels from outside: values of references, what is refused, and what a killed loop still knows."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues
from conftest import ROOT
from datasets import ClassLabel, Dataset
from skactiveml import pool
from skactiveml.classifier import SklearnClassifier
from sklearn.linear_model import LogisticRegression
from transformers.models.clip import modeling_clip

from llm_course.augmentation import RandomSwap
from llm_course.data import load_dataset
from llm_course.few_labels import ActiveLoop, Badge, Candidates, Consistency, ContrastiveLoss, ContrastiveTuning, KCentre
from llm_course.few_labels import LargestEntropy, LeastConfidence, RandomSampling, SmallestMargin, Strategy
from llm_course.few_labels import check_unlabelled, confident_classes, confident_joint, few_labelled, label_issues
from llm_course.few_labels import pseudo_labels
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.labelling.situation import TextsWithCopies
from llm_course.models import TextClassifier


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


# --- a few labels, and the rest without

ROWS = Dataset.from_dict({"text": [f"text {place}" for place in range(30)], "label": [0, 1] * 15})


@pytest.mark.parametrize(("count", "said"), [
    (31, "31 labels are asked for, but there are 30 texts"), (0, "count must be a whole number of at least 1"),
    (1, "No text of the class . is among the 1 that were drawn"), (2.5, "whole number"),
])
def test_labels_that_cannot_be_drawn(count, said):
    """More than there are, none, and too few for each class"""
    with pytest.raises(ValueError, match=said):
        few_labelled(ROWS, count)


def test_a_class_without_a_text_is_named():
    """The name that the data knows, and not the number"""
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 0]}).cast_column("label", ClassLabel(names=["bad", "good"]))
    with pytest.raises(ValueError, match="No text of the class good is among the 2"):
        few_labelled(rows, 2)


@pytest.mark.parametrize("unknown", [-1, None])
def test_rows_without_a_label_are_no_labels(unknown):
    """-1 is how a Hub set writes that there is none"""
    rows = Dataset.from_dict({"text": [f"text {place}" for place in range(20)], "label": [0, 1, unknown, 0] * 5})
    rows = rows.cast_column("label", ClassLabel(names=["bad", "good"]))
    with pytest.raises(ValueError, match="label"):
        few_labelled(rows, 20)


@pytest.mark.parametrize("labels", [[1, 2], [-1, 1], [1, 2, 3, 4, 5]])
def test_numbers_may_be_names(labels):
    """Without names, each number is a class"""
    rows = Dataset.from_dict({"text": [f"text {place}" for place in range(20)], "label": labels * (20 // len(labels))})
    assert sorted(set(few_labelled(rows, 20)[0]["label"])) == sorted(labels)


def test_unlabelled_test_texts_are_counted():
    """In whatever case or spacing; and the drawn part may hold none either, since it is judged no less"""
    judged = [ROWS["text"][3].upper(), "  text   4 ", "another"]
    with pytest.raises(ValueError, match=r"2 of 30 texts to learn from are test texts too \(places 3, 4; the first is 'text 3'\)"):
        check_unlabelled(ROWS["text"], judged)
    with pytest.raises(ValueError, match=r"10 of 30 texts to learn from are test texts too"):
        few_labelled(ROWS, 10, judged=few_labelled(ROWS, 10)[0]["text"])
    few, rest = few_labelled(ROWS, 10, judged=["another"])
    assert sorted([*few["text"], *rest]) == sorted(ROWS["text"])


# --- objectives

LABELS = ["negative", "positive"]


def tiny(seed: int = 0) -> TextClassifier:
    return TextClassifier.from_pretrained("tiny-bert", labels=LABELS, seed=seed, device="cpu")


def reviews(count: int) -> Dataset:
    return load_dataset("movies")["train"].select(range(count))


def steps_of(classifier: TextClassifier, objective: object, **options: object) -> list[float]:
    run = fine_tune(classifier, reviews(12), objective=objective, epochs=1, batch_size=4, progress=False, **options)
    return [row["loss"] for row in run.steps]


def test_contrastive_tuning_moves_the_encoder_and_leaves_the_head():
    """Its vectors come apart by label; a text that is left over alone is said, and work goes on"""
    classifier, before = tiny(), tiny().model.state_dict()
    losses = steps_of(classifier, ContrastiveTuning(), weight_decay=0.0, learning_rate=1e-3)
    moved = {name for name, weight in classifier.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert all(map(math.isfinite, losses)) and len(moved) > 10
    assert not [name for name in moved if name.startswith("classifier")]
    with pytest.raises(ValueError, match="temperature"):
        ContrastiveTuning(0)
    with pytest.warns(UserWarning, match="holds one text, and none to tell it from"):
        run = fine_tune(tiny(), reviews(5), objective=ContrastiveTuning(), epochs=1, batch_size=4, progress=False)
    assert sorted(row["loss"] > 0 for row in run.steps) == [False, True]


@pytest.mark.parametrize("kind", ["tiny-gpt", "tiny-t5"])
def test_contrastive_tuning_of_other_kinds_of_models(kind):
    """A decoder's states are read alike"""
    classifier = TextClassifier.from_pretrained(kind, labels=LABELS, device="cpu")
    assert all(map(math.isfinite, steps_of(classifier, ContrastiveTuning())))


def still(classifier: TextClassifier) -> torch.nn.Module:
    "Its model without dropout"
    return classifier.model.eval()


def losses_of(objective: object, classifier: TextClassifier, batch: dict) -> tuple[float, float]:
    "What the objective says, and the sum of what it sent backwards"
    sent = []
    torch.manual_seed(0)
    return objective(still(classifier), batch, lambda loss: sent.append(loss.item())), sum(sent)


def test_consistency_is_what_its_formula_says():
    """Cross-entropy alone where nothing is sure enough; nothing more where the copies are the texts"""
    classifier, texts = tiny(), reviews(12)
    batch = {**classifier.pad(classifier.tokenize(texts["text"][:4])[0]), "targets": torch.tensor(texts["label"][:4])}
    plain, _ = losses_of(CrossEntropy(), classifier, batch)
    twins = TextsWithCopies(classifier, texts["text"], RandomSwap(fraction=0.5), 6)
    unsure = Consistency(twins, threshold=1.0)
    assert losses_of(unsure, classifier, batch)[0] == pytest.approx(plain, abs=1e-6)
    both = losses_of(Consistency(twins, threshold=0.0), classifier, batch)
    assert both[0] == pytest.approx(both[1], abs=1e-6) and both[0] > plain
    twins.copies = [[ids] for ids in twins.tokens]
    assert losses_of(Consistency(twins, temperature=1.0, threshold=0.0), classifier, batch)[0] == pytest.approx(plain, abs=1e-5)
    heavier = losses_of(Consistency(twins, weight=3.0, threshold=0.0), classifier, batch)[0] - plain
    lighter = losses_of(Consistency(twins, weight=1.0, threshold=0.0), classifier, batch)[0] - plain
    assert heavier == pytest.approx(3 * lighter, rel=1e-3) and lighter > 0, "sharpened answers pull"


def test_consistency_in_fine_tune_is_repeatable():
    """The same seed draws the same texts; what is no TextsWithCopies is refused"""
    runs = []
    for _ in range(2):
        classifier = tiny()
        twins = TextsWithCopies(classifier, reviews(12)["text"], RandomSwap(), 4)
        runs.append(steps_of(classifier, Consistency(twins, threshold=0.0), seed=3))
    assert runs[0] == runs[1]
    with pytest.raises(TypeError, match="unlabelled must be TextsWithCopies, got list"):
        Consistency(["a text"])
    for setting in ({"weight": -1}, {"temperature": 0}, {"threshold": 1.5}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            Consistency(twins, **setting)


# --- pseudo-labels

def test_pseudo_labels_by_threshold_and_by_class():
    """The surest first; equal ones in their order; as many of each class at most"""
    p = np.array([[0.2, 0.8], [0.9, 0.1], [0.05, 0.95], [0.45, 0.55], [0.2, 0.8], [0.5, 0.5]])
    found = pseudo_labels(p, 0.8)
    assert found.places.tolist() == [2, 1, 0, 4] and found.labels.tolist() == [1, 0, 1, 1]
    assert found.confidence.tolist() == [0.95, 0.9, 0.8, 0.8]
    assert pseudo_labels(p, 0.0, per_class=2).places.tolist() == [2, 1, 0, 5]
    assert len(pseudo_labels(p, 1.0).places) == 0
    for arguments, said in (((p, 1.2), "threshold"), ((p * 2, 0.5), "sum to 1"), ((p, 0.5, 0), "per_class")):
        with pytest.raises(ValueError, match=said):
            pseudo_labels(*arguments[:2], **({"per_class": arguments[2]} if len(arguments) > 2 else {}))


# --- strategies

def candidates(count: int = 40, classes: int = 3, labelled: int = 5, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    return Candidates(rng.dirichlet(np.ones(classes), count), rng.normal(size=(count, 4)), rng.normal(size=(labelled, 4)))


STRATEGIES = [RandomSampling(), LeastConfidence(), SmallestMargin(), LargestEntropy(), KCentre(), Badge()]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_a_strategy_chooses_different_places_again_and_again_the_same(strategy):
    """All of them if so many are asked for, more never; equal texts and certain answers too"""
    given = candidates()
    places = strategy.choose(given, 15, seed=4)
    assert len(set(places.tolist())) == 15 and places.tolist() == strategy.choose(given, 15, seed=4).tolist()
    assert sorted(strategy.choose(given, 40)) == [*range(40)]
    with pytest.raises(ValueError, match="41 labels are asked for, but 40 texts are left to ask about"):
        strategy.choose(given, 41)
    alike = Candidates(np.tile([1.0, 0.0], (6, 1)), np.ones((6, 4)), np.ones((2, 4)))
    assert sorted(strategy.choose(alike, 6)) == [*range(6)], "texts that are all the same"
    nothing = Candidates(given.probabilities, given.vectors, given.labelled[:0])
    assert len(set(strategy.choose(nothing, 15).tolist())) == 15, "before anything has a label"


@pytest.mark.parametrize(("strategy", "method"), [
    (LeastConfidence(), "least_confident"), (SmallestMargin(), "margin_sampling"), (LargestEntropy(), "entropy")])
def test_uncertainty_is_that_of_scikit_activeml(strategy, method):
    """The same order of all candidates"""
    p = candidates().probabilities
    theirs = pool.uncertainty_scores(p, method=method)
    assert strategy.choose(candidates(), 40).tolist() == np.argsort(-theirs, kind="stable").tolist()


def test_the_core_set_is_that_of_scikit_activeml():
    """The same places in the same order"""
    given = candidates()
    points = np.vstack([given.labelled, given.vectors])
    labels = np.array([0] * 5 + [np.nan] * 40)
    theirs = pool.CoreSet(random_state=0).query(points, labels, batch_size=8) - 5
    assert KCentre().choose(given, 8).tolist() == theirs.tolist()


def test_badge_is_that_of_the_paper():
    """The longest gradient first, as scikit-activeml does; then by squared distance from it, and from nothing else

    (scikit-activeml 1.0.1 also counts the distance from zero; the authors' code does not.)"""
    given = candidates(classes=2)
    points, labels = np.vstack([given.labelled, given.vectors]), np.array([0, 1, 0, 1, 0] + [np.nan] * 40)
    model = SklearnClassifier(LogisticRegression(), classes=[0, 1]).fit(points, labels)
    given = Candidates(model.predict_proba(given.vectors), given.vectors, given.labelled)
    first = pool.Badge(random_state=0).query(points, labels, model, fit_clf=False, batch_size=1)[0] - 5
    assert Badge().choose(given, 1).tolist() == [first]
    gradients = Badge().gradients(given)
    squares = ((gradients - gradients[first]) ** 2).sum(1)
    drawn = np.bincount([Badge().choose(given, 2, seed)[1] for seed in range(2000)], minlength=40) / 2000
    assert np.abs(drawn - squares / squares.sum()).max() < 0.03


def test_entropy_of_a_rounding_error_is_that_of_zero():
    """-1e-9 counts as a probability; its logarithm does not"""
    p = np.array([[-1e-9, 0.5, 0.5 + 1e-9], [0, 0, 1.0]])
    assert LargestEntropy().choose(Candidates(p, p, p[:0]), 1).tolist() == [0]


@pytest.mark.parametrize(("vectors", "labelled", "said"), [
    (np.full((3, 2), np.nan), np.zeros((0, 2)), "row 0 holds NaN"), (np.zeros(3), np.zeros((0, 2)), r"shape \(3,\)"),
    (np.zeros((4, 2)), np.zeros((0, 2)), "each of 3 texts"), (np.zeros((3, 2)), np.zeros((1, 3)), "as many columns"),
    (np.array([["a"]] * 3), np.zeros((0, 1)), "got <U1"),
])
def test_candidates_are_tables_of_numbers(vectors, labelled, said):
    """Before a strategy chooses anything"""
    with pytest.raises(ValueError, match=said):
        Candidates(np.full((3, 2), 0.5), vectors, labelled)


@pytest.mark.parametrize("places", [[], [0, 0, 1], [0, 1, 40], [0.0, 1.0, 2.0], range(40)])
def test_a_strategy_of_ones_own_chooses_different_places(places):
    """As many as are asked for"""
    class Mine(Strategy):
        def chosen(self, candidates, count, rng):
            return np.array(places)

    with pytest.raises(ValueError, match=r"Mine.chosen must give 3 different places from 0 to 39"):
        Mine().choose(candidates(), 3)


# --- the loop

TEXTS = [f"text {place}" for place in range(60)]
POINTS = np.random.default_rng(0).normal(size=(60, 3))
TRUTH = [LABELS[int(x > 0)] for x in POINTS[:, 0]]


def learn(places: list[int], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return LogisticRegression().fit(POINTS[places], numbers).predict_proba(POINTS), POINTS


def truth(text: str) -> str:
    return TRUTH[int(text.split()[1])]


def loop_at(path: Path, strategy: Strategy | None = None, **options: object) -> ActiveLoop:
    return ActiveLoop(TEXTS, LABELS, learn, strategy or LeastConfidence(), path, **options)


def test_a_loop_asks_each_text_once_and_goes_on(tmp_path):
    """Stopped by an error of the oracle and taken up again it ends as one that was never stopped"""
    asked = []

    def tired(text: str) -> str:
        asked.append(text)
        if len(asked) in (3, 17):
            raise KeyboardInterrupt
        return truth(text)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            loop_at(tmp_path / "stopped.sqlite").run(tired, 30, 5)
    found = loop_at(tmp_path / "stopped.sqlite").run(tired, 30, 5)
    whole = loop_at(tmp_path / "whole.sqlite").run(truth, 30, 5)
    assert found == whole == {place: TRUTH[place] for place in whole} and len(whole) == 30
    assert sorted(asked) == sorted([TEXTS[place] for place in whole] + [asked[2], asked[16]]), "only these two twice"
    assert loop_at(tmp_path / "whole.sqlite").run(truth, 60, 7).keys() == {*range(60)}


@pytest.mark.parametrize(("answer", "said"), [
    (None, "got no answer; expected one of 'negative', 'positive'. The 4 answers before it are kept"),
    ("neutral", "got the answer 'neutral'; expected one of"), ("", "got the answer ''"), (2, "got the answer 2"),
    (0.0, "got the answer 0.0"), (["positive"], "got the answer \\['positive'\\]"), (-1, "got the answer -1"),
])
def test_an_oracle_that_answers_something_else_or_nothing(tmp_path, answer, said):
    """The answer is refused, those before it stay, and the loop goes on"""
    loop, given = loop_at(tmp_path / "kept.sqlite"), iter([0, "positive", np.int64(1), "negative", answer])
    with pytest.raises(ValueError, match=said):
        loop.run(lambda text: next(given), 10, 10)
    assert [*loop.answers.values()] == ["negative", "positive", "positive", "negative"]
    assert len(loop_at(tmp_path / "kept.sqlite").run(truth, 10)) == 10


def test_what_a_loop_refuses(tmp_path):
    """More labels than texts, answers to what was not asked, a second answer, other labels, other texts"""
    loop = loop_at(tmp_path / "kept.sqlite")
    with pytest.raises(ValueError, match="61 labels are asked for, but there are 60 texts"):
        loop.run(truth, 61)
    place = loop.ask(3)[0]
    assert loop.tell(place, "positive") and not loop.tell(place, "positive")
    with pytest.raises(ValueError, match="replace=True"):
        loop.tell(place, "negative")
    assert loop.tell(place, "negative", replace=True) and loop.answers == {place: "negative"}
    with pytest.raises(ValueError, match="There is no answer with the key"):
        loop.tell(next(other for other in range(60) if other not in loop.ask(3) and other != place), "positive")
    with pytest.raises(ValueError, match="keeps answers with the labels"):
        ActiveLoop(TEXTS, ["bad", "good"], learn, KCentre(), tmp_path / "kept.sqlite")
    with pytest.raises(ValueError, match="are of other texts"):
        ActiveLoop([f"other {text}" for text in TEXTS], LABELS, learn, KCentre(), tmp_path / "kept.sqlite")
    with pytest.raises(ValueError, match="learn must give probabilities"):
        ActiveLoop(TEXTS, LABELS, lambda places, numbers: (np.full((3, 2), 0.5), POINTS), KCentre(),
                   tmp_path / "short.sqlite").run(truth, 30)


def test_while_a_class_has_no_label_the_loop_asks_at_random(tmp_path):
    """Nothing is learnt of one class; once both are there, the strategy chooses"""
    seen = []

    def noted(places: list[int], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
        seen.append({*numbers})
        return learn(places, numbers)

    one_sided = iter(["positive"] * 12 + ["negative"] * 8)
    loop = ActiveLoop(TEXTS, LABELS, noted, LeastConfidence(), tmp_path / "kept.sqlite")
    loop.run(lambda text: next(one_sided), 20, 4)
    assert seen == [{0, 1}], "after twelve positive answers and four negative ones, once"


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_few_labels import loop_at, truth
from pathlib import Path
folder = Path(sys.argv[2])

def slow(text):
    with open(folder / "asked.txt", "a") as file:
        file.write(text + chr(10))
    time.sleep(0.02)
    return truth(text)

loop_at(folder / "killed.sqlite").run(slow, 40, 6)
"""


def test_a_killed_loop_goes_on_with_every_answer_kept(tmp_path):
    """SIGKILL again and again: no answer is lost, at most the one in flight is asked again, the end is the same"""
    asked, kept, kills = tmp_path / "asked.txt", {}, 0
    for wanted in (3, 14, 27):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)],
                                   env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])})
        while process.poll() is None and (not asked.exists() or len(asked.read_text().splitlines()) < wanted):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        found = loop_at(tmp_path / "killed.sqlite").answers
        assert kept.items() <= found.items() and len(found) >= len(asked.read_text().splitlines()) - kills
        kept = found
    assert kills == 3 and 0 < len(kept) < 40
    whole = loop_at(tmp_path / "whole.sqlite").run(truth, 40, 6)
    assert loop_at(tmp_path / "killed.sqlite").run(truth, 40, 6) == whole


def test_a_corrected_answer_stops_nothing(tmp_path):
    """While questions wait, they are the questions, whatever the classifier would say now"""
    loop = loop_at(tmp_path / "kept.sqlite")
    loop.run(truth, 12, 6)
    waiting = loop.ask(6)
    for place, name in [*loop.answers.items()][:4]:
        loop.tell(place, LABELS[1 - LABELS.index(name)], replace=True)
        assert loop.ask(6) == loop.ask(3) == waiting
    assert len(loop.run(truth, 20, 6)) == 20


def test_questions_cut_short_are_filled_up(tmp_path):
    """What was being written down when the power went off is asked as it would have been"""
    whole, cut = (loop_at(tmp_path / f"{name}.sqlite") for name in ("whole", "cut"))
    for loop in (whole, cut):
        loop.run(truth, 12, 6)
    add, left = cut.kept.add, [2]

    def breaks(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return add(*arguments, **options)

    cut.kept.add = breaks
    with pytest.raises(KeyboardInterrupt):
        cut.ask(6)
    again = loop_at(tmp_path / "cut.sqlite")
    assert len(again.waiting()) == 2 and again.ask(6) == whole.ask(6)


def test_ratings_as_names_take_names_alone(tmp_path):
    """1 may be the first class or the name of the second: neither is guessed"""
    loop = ActiveLoop(TEXTS, ["0", "1"], learn, RandomSampling(), tmp_path / "kept.sqlite")
    [place] = loop.ask(1)
    with pytest.raises(ValueError, match="got the answer 1; expected one of '0', '1'"):
        loop.tell(place, 1)
    assert loop.tell(place, "1") and loop.answers == {place: "1"}


@pytest.mark.parametrize(("given", "error"), [
    ({"strategy": Badge}, TypeError), ({"strategy": "badge"}, TypeError), ({"learn": None}, TypeError),
    ({"seed": -1}, ValueError), ({"seed": "a"}, ValueError)])
def test_a_loop_that_cannot_run_is_refused_before_its_file_is_made(tmp_path, given, error):
    """And not when people have answered"""
    path = tmp_path / "kept.sqlite"
    with pytest.raises(error):
        ActiveLoop(TEXTS, LABELS, **{"learn": learn, "strategy": Badge(), "path": path, **given})
    assert not path.exists()


@pytest.mark.parametrize("found", [None, POINTS, (POINTS, POINTS, POINTS)])
def test_a_classifier_that_returns_something_else_is_told(tmp_path, found):
    """Both things that are needed are named"""
    loop = ActiveLoop(TEXTS, LABELS, lambda *_: found, Badge(), tmp_path / "kept.sqlite")
    with pytest.raises(ValueError, match=r"learn must return two things, probabilities \(N, C\) and vectors"):
        loop.run(truth, 40, 6)


# --- labels that are wrong

def flipped(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    p = rng.dirichlet(np.ones(classes), count) + 2 * np.eye(classes)[labels] * rng.random((count, 1))
    wrong = np.where(rng.random(count) < 0.15, rng.integers(classes, size=count), labels)
    return p / p.sum(1, keepdims=True), wrong


@pytest.mark.parametrize("seed", range(3))
def test_confident_learning_is_that_of_cleanlab(seed):
    """For two classes the same counts and the same texts in the same order"""
    p, labels = flipped(400, 2, seed)
    theirs = compute_confident_joint(labels, p, calibrate=False)
    assert (confident_joint(p, labels) == theirs).all()
    ranked = find_label_issues(labels, p, filter_by="confident_learning", n_jobs=1,
                                       return_indices_ranked_by="self_confidence")
    assert label_issues(p, labels).tolist() == ranked.tolist() and len(ranked) > 10


def test_confident_learning_takes_the_likeliest_of_the_confident_classes():
    """As the paper writes; a class that is likelier and below its own threshold does not count"""
    p = np.array([[0.9, 0.05, 0.05], [0.2, 0.6, 0.2], [0.1, 0.4, 0.5], [0.5, 0.3, 0.2]])
    labels = [0, 1, 2, 1]
    assert confident_classes(p, labels).tolist() == [0, 1, 2, -1]
    assert confident_joint(p, labels).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert len(label_issues(p, labels)) == 0


@pytest.mark.parametrize(("p", "labels", "said"), [
    ([[0.5, 0.5], [0.4, 0.6]], [0, 0], "Class 1 is no text's label"), ([[0.5, 0.5]], [0, 1], "1|2"),
    ([[0.5, 0.6]], [0], "sum to 1"), ([[0.5, 0.5]], [2], "labels"),
])
def test_labels_that_cannot_be_judged(p, labels, said):
    """A class that nobody gave, lengths that differ, rows that are no probabilities"""
    with pytest.raises(ValueError, match=said):
        confident_joint(np.array(p), labels)


def test_equal_probabilities_reach_their_own_mean():
    """Whose rounding may lie above them; as cleanlab, in whatever form the arguments come"""
    p, labels = np.array([[0.72, 0.28]] * 3 + [[0.2, 0.8]]), [0, 0, 0, 1]
    for given in (p, p.tolist(), torch.tensor(p)):
        assert confident_joint(given, labels).tolist() == [[3, 0], [0, 1]]
        assert len(label_issues(given, np.array(labels, float))) == 0
