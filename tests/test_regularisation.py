"""Callbacks that remember weights, killed and resumed, alone and on two processes; other dropout; Adam with switches; bad input."""

import copy
import math
import os
import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from conftest import ROOT, run_tool
from test_checkpoints import RECIPE, Die, classifier, few_reviews, same_weights, without_time
from test_scaling_out import BIN, free_port, launched

from llm_course.callbacks import Callback, EarlyStopping, Stop
from llm_course.checkpoints import newest_checkpoint
from llm_course.data import load_dataset
from llm_course.fine_tuning import MeanAbsoluteError, fine_tune, validation_scores
from llm_course.models import TextClassifier
from llm_course.regularisation import (
    AdamVariant,
    HeadRecipe,
    WeightAverage,
    dropout_probabilities,
    kept_by_decay,
    kept_by_stopping,
    seed_spread,
    train_heads,
    with_dropout,
)
from llm_course.training.loop import Listeners

RESULT = ROOT / "benchmarks/results/regularisation.json"
KEEPERS = {"average": lambda: WeightAverage(start=0.3), "stopping": lambda: EarlyStopping(patience=2)}
LONG = {**RECIPE, "epochs": 8}  # 40 steps; looked at after every third


@pytest.fixture(scope="module")
def few():
    return few_reviews()


@pytest.fixture
def one_thread():
    "As in the children: sums over threads differ in their last bits"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def killed(folder: Path, name: str, step: int):
    "A child that dies at a step"
    number = os.fork()
    if not number:
        try:
            torch.set_num_threads(1)
            fine_tune(classifier(), *few_reviews(), checkpoints=folder, callbacks=[KEEPERS[name](), Die(step)], **LONG)
        finally:
            os._exit(1)
    _, status = os.waitpid(number, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


# What a callback remembers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("name", KEEPERS)
def test_killed_and_resumed_it_ends_with_the_same_weights(few, tmp_path, one_thread, name):
    whole, mine = classifier(), classifier()
    wanted = fine_tune(whole, *few, callbacks=[KEEPERS[name]()], **LONG)
    assert name == "average" or len(wanted.steps) < wanted.total_steps
    bare = classifier()
    fine_tune(bare, *few, callbacks=[StopsAfter(len(wanted.steps))], **LONG)
    assert not same_weights(whole, bare)  # the callback changed something
    killed(tmp_path / "run", name, len(wanted.steps) - 1)
    run = fine_tune(mine, *few, checkpoints=tmp_path / "run", resume="auto", callbacks=[KEEPERS[name]()], **LONG)
    assert same_weights(mine, whole) and without_time(run.steps) == without_time(wanted.steps)
    assert newest_checkpoint(tmp_path / "run").record["finished"]
    again = classifier()  # the same call gives the finished run back
    fine_tune(again, *few, checkpoints=tmp_path / "run", resume="auto", callbacks=[KEEPERS[name]()], **LONG)
    assert same_weights(again, whole)


class StopsAfter(Callback):
    "Ends the run after some steps"

    def __init__(self, steps: int, error: type[BaseException] = Stop):
        self.steps, self.error = steps, error

    def on_step(self, run):
        if len(run.steps) == self.steps:
            raise self.error


def test_both_at_once_and_used_twice(few):
    """The later one in the list decides; nothing of the first run is left in the second"""
    stopping, average = EarlyStopping(patience=2), WeightAverage(start=0.0)
    first, second, alone = classifier(), classifier(), classifier()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine_tune(first, *few, callbacks=[average, stopping], **LONG)
        fine_tune(second, *few, callbacks=[average, stopping], **LONG)
        fine_tune(alone, *few, callbacks=[EarlyStopping(patience=2)], **LONG)
    assert same_weights(first, second) and same_weights(first, alone)


def test_a_run_tells_the_scores_of_the_weights_that_it_ended_with(few):
    """Not those of its last look, which were other weights"""
    stopped, averaged, both = classifier(), classifier(), classifier()
    run = fine_tune(stopped, *few, callbacks=[EarlyStopping(patience=2)], **LONG)
    seen = validation_scores(stopped, few[1])
    assert run.final_scores["step"] < run.evaluations[-1]["step"]
    assert math.isclose(run.final_scores["loss"], seen["loss"], rel_tol=1e-5)
    assert f"validation loss {seen['loss']:.3f}" in repr(run)
    run = fine_tune(averaged, *few, callbacks=[WeightAverage(0.3)], **LONG)
    assert run.final_scores == {} and run.evaluations and "validation" not in repr(run)
    run = fine_tune(both, *few, callbacks=[WeightAverage(0.3), EarlyStopping(patience=2)], **LONG)
    assert run.final_scores["step"] == min(run.evaluations, key=lambda row: row["loss"])["step"]


def test_what_was_not_seen_is_said(few, tmp_path):
    with pytest.warns(UserWarning, match="saw 0 of 0 steps since its start; the weights stay as they are"):
        fine_tune(classifier(), *few, callbacks=[StopsAfter(3), WeightAverage(start=0.9)], **LONG)
    with pytest.raises(ZeroDivisionError):
        fine_tune(classifier(), *few, checkpoints=tmp_path, callbacks=[StopsAfter(37, ZeroDivisionError)], **LONG)
    with pytest.warns(UserWarning, match="saw 4 of 28 steps") as caught:
        fine_tune(classifier(), *few, resume_from=tmp_path, checkpoints=tmp_path / "a", callbacks=[WeightAverage(0.3)], **LONG)
    assert len(caught) == 1


def test_best_weights_of_before_a_resumption_are_not_made_up(few, tmp_path):
    """A run without the callback, resumed with it: the best look was earlier, and its weights are gone"""
    looks = iter([0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0] * 3)
    given = {**LONG, "learning_rate": 1e-3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_course.fine_tuning.validation_scores", lambda *_: {"loss": next(looks), "accuracy": 0.5})
        with pytest.raises(ZeroDivisionError):
            fine_tune(classifier(), *few, checkpoints=tmp_path, callbacks=[StopsAfter(9, ZeroDivisionError)], **given)
        with pytest.warns(UserWarning, match="weights of step 3, the best, are not in the checkpoint"):
            run = fine_tune(classifier(), *few, resume_from=tmp_path, callbacks=[EarlyStopping(patience=5)], **given)
    assert len(run.steps) < run.total_steps


def test_an_interruption_leaves_the_weights_of_the_last_step(few):
    mine, other = classifier(), classifier()
    with pytest.warns(UserWarning, match="Interrupted after 9"):
        fine_tune(mine, *few, callbacks=[StopsAfter(9, KeyboardInterrupt), WeightAverage(0.0)], **LONG)
    fine_tune(other, *few, callbacks=[StopsAfter(9)], **LONG)
    assert same_weights(mine, other)


def test_stopping_by_errors_and_by_what_is_not_there(few):
    rated = load_dataset("movies")["train"].select(range(12))
    columns = {"text": [text[:40] for text in rated["text"]], "rating": rated["rating"]}
    scored = TextClassifier.from_pretrained("tiny-bert", labels=["rating"], device="cpu")
    settings = {"objective": MeanAbsoluteError(), "epochs": 2, "progress": False}
    run = fine_tune(scored, columns, columns | {"text": [text[::-1] for text in columns["text"]]},
                    callbacks=[EarlyStopping(1, measure="error")], **settings)
    assert run.evaluations
    with pytest.raises(ValueError, match="cannot go by the accuracy: an evaluation of this run has loss, error"):
        fine_tune(scored, columns, columns | {"text": [text[::-1] for text in columns["text"]]},
                  callbacks=[EarlyStopping(1, measure="accuracy")], **settings)
    before = copy.deepcopy(scored.model.state_dict())
    with pytest.raises(ValueError, match="EarlyStopping goes by the validation part: give one"):
        fine_tune(scored, columns, callbacks=[EarlyStopping()], **settings)
    assert all(torch.equal(value, before[name]) for name, value in scored.model.state_dict().items())


def test_pieces_of_a_model_are_refused(monkeypatch):
    monkeypatch.setattr("llm_course.training.loop.is_initialized", lambda: True)
    monkeypatch.setattr("llm_course.training.loop.PartialState", lambda: SimpleNamespace(distributed_type=DistributedType.FSDP))
    Listeners([StopsAfter(3)], SimpleNamespace())
    with pytest.raises(ValueError, match="WeightAverage 0 and EarlyStopping 1: weights that are cut over processes"):
        Listeners([WeightAverage(), EarlyStopping()], SimpleNamespace())


# Several processes


def in_each_process(folder: str):
    "Each process measures another loss; they must stop at the same step, with the same weights"
    torch.set_num_threads(1)
    rank, rows = int(os.environ["RANK"]), few_reviews()
    losses = iter([[0.5, 0.4, 0.6, 0.7], [0.5, 0.4, 0.3, 0.2]][rank] + [0.9] * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_course.fine_tuning.validation_scores", lambda *_: {"loss": next(losses), "accuracy": 0.5})
        mine = classifier(dropout=False)
        recipe = {**LONG, "batch_size": 2, "evaluate_every": 2}
        run = fine_tune(mine, *rows, callbacks=[WeightAverage(0.0), EarlyStopping(patience=2)], **recipe)
    assert [row["loss"] for row in run.evaluations] == [0.5, 0.4, 0.6, 0.7], run.evaluations
    torch.save(mine.model.state_dict(), f"{folder}/{rank}.pt")


def test_two_processes_stop_together(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(f"from test_regularisation import in_each_process\n\nin_each_process({str(tmp_path)!r})\n")
    launched(BIN / "python", "-W", "ignore", "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
             "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port(),
             script)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# Dropout


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt", "tiny-t5", "minilm"])
def test_other_dropout_everywhere_and_kept_by_a_saved_copy(name, tmp_path):
    mine = TextClassifier.from_pretrained(name, labels=["no", "yes"], device="cpu")
    texts = ["a fine film", "dull and long , and not a good film at all"]
    new = with_dropout(mine, 0.6)
    new.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved", device="cpu")
    for each in (new, loaded):
        shares = {module.p for module in each.model.modules() if isinstance(module, torch.nn.Dropout)}
        assert shares == {0.6}, name
        torch.testing.assert_close(each.logits(texts), mine.logits(texts))
    state = torch.get_rng_state()
    answers = dropout_probabilities(new, texts, masks=3, seed=1)
    assert torch.equal(state, torch.get_rng_state()) and not new.model.training
    assert torch.equal(answers, dropout_probabilities(new, texts, masks=3, seed=1))
    torch.testing.assert_close(answers.sum(-1), torch.ones(3, 2))
    assert (answers[0] - answers[1]).abs().max() > 1e-4


def test_dropout_of_bad_input():
    mine = classifier()
    for share in (-0.1, 1.0, math.nan, "much"):
        with pytest.raises(ValueError, match="share"):
            with_dropout(mine, share)
    bare = classifier()
    for name, module in list(bare.model.named_modules()):
        if isinstance(module, torch.nn.Dropout):
            bare.model.set_submodule(name, torch.nn.Identity())
    with pytest.raises(ValueError, match="has no dropout layer"):
        with_dropout(bare, 0.1)
    for wrong, words in (({"masks": 0}, "masks"), ({"seed": -1}, "seed"), ({"batch_size": 0}, "batch_size")):
        with pytest.raises(ValueError, match=words):
            dropout_probabilities(mine, ["a film"], **wrong)
    with pytest.raises(ValueError, match="no text"):
        dropout_probabilities(mine, [])


# Adam with switches, and the rest


@pytest.mark.parametrize("variant, usual", [(AdamVariant(), "adamw"), (AdamVariant(decoupled=False), "adam")])
def test_fine_tune_takes_it_and_resumes_it(few, tmp_path, variant, usual):
    mine, theirs, resumed = classifier(), classifier(), classifier()
    settings = {**RECIPE, "weight_decay": 0.1, "learning_rate": 1e-3}
    fine_tune(mine, *few, optimizer=variant, **settings)
    fine_tune(theirs, *few, optimizer=usual, **settings)
    for name, value in mine.model.state_dict().items():
        torch.testing.assert_close(value, theirs.model.state_dict()[name], rtol=1e-3, atol=1e-5)
    with pytest.raises(ZeroDivisionError):
        fine_tune(classifier(), *few, optimizer=variant, checkpoints=tmp_path, callbacks=[StopsAfter(9, ZeroDivisionError)],
                  **settings)
    with pytest.raises(ValueError, match="Other than here"):
        fine_tune(resumed, *few, optimizer=AdamVariant(bias_correction=False), resume_from=tmp_path, **settings)
    fine_tune(resumed, *few, optimizer=variant, resume_from=tmp_path, **settings)
    assert same_weights(resumed, mine)


def test_bad_input():
    for wrong, words in (({"dropout": 1.0}, "dropout"), ({"layers": -1}, "layers"), ({"optimizer": "adamx"}, "optimizer"),
                         ({"label_smoothing": 2}, "label_smoothing"), ({"learning_rate": 0}, "learning_rate"),
                         ({"weight_decay": math.inf}, "weight_decay")):
        with pytest.raises(ValueError, match=words):
            HeadRecipe(**wrong)
    vectors, labels = torch.randn(20, 3), torch.arange(20) % 2
    rows = torch.stack([torch.randperm(20)[:10] for _ in range(2)])
    for given, words in (((vectors[0], labels, rows), "vectors must be"), ((vectors, labels, rows[0]), "whole numbers"),
                         ((vectors, labels, rows - 9), "rows must lie"), ((vectors, labels, rows[:, :0]), "whole numbers")):
        with pytest.raises(ValueError, match=words):
            train_heads(*given, {})
    for call, words in ((lambda: kept_by_stopping(2.0, 1.0, 3), "jump over"), (lambda: kept_by_stopping(0.1, 1.0, -1), "steps"),
                        (lambda: kept_by_decay(0.1, -1.0), "decay"), (lambda: seed_spread([0.5, 0.6], coin=2), "coin"),
                        (lambda: seed_spread([[0.5, 0.6]]), "two numbers"), (lambda: WeightAverage(math.nan), "start"),
                        (lambda: EarlyStopping(True), "patience")):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.slow
def test_the_benchmark_runs_whole_at_small_size():
    before = RESULT.read_bytes() if RESULT.is_file() else None
    output = run_tool(sys.executable, ROOT / "benchmarks/regularisation.py", "--small", timeout=1500,
                      PYTHONWARNINGS="ignore", HF_HUB_OFFLINE="1")
    assert {line.split()[0] for line in output.splitlines() if line.strip()} >= {"frozen", "choose", "remedies", "seeds"}
    assert (RESULT.read_bytes() if RESULT.is_file() else None) == before


def test_the_benchmark_takes_the_strength_of_its_own_number_of_labels(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import regularisation as benchmark

    losses = {"500": (0.3, 0.2, 0.1), "all": (0.1, 0.2, 0.3)}  # the strongest is best with few labels
    rows = {"choose": {f"tiny-bert {labels} dropout {strength}": {"loss": loss} for labels, each in losses.items()
                       for strength, loss in zip(benchmark.STRENGTHS["dropout"], each, strict=True)}}
    assert benchmark.chosen_strength(rows, "tiny-bert", 500, "dropout") == 0.3
    assert benchmark.chosen_strength(rows, "tiny-bert", None, "dropout") == 0.0
    assert benchmark.chosen_strength(rows, "minilm", 100, "dropout") is None  # nothing was tried
    assert not benchmark.other_strength({"strength": 0.3}, rows, "tiny-bert", 500, 10, "dropout", 0)
    assert benchmark.other_strength({"strength": 0.3}, rows, "tiny-bert", None, 2, "dropout", 0)


def test_the_benchmark_pairs_runs_with_the_same_seed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import regularisation as benchmark

    def run(right: str) -> dict:
        return {"loss": 0.5, "accuracy": right.count("1") / len(right), "right": right, "strength": 1}

    rows = {"remedies": {"tiny-bert 100 none 0": run("1100"), "tiny-bert 100 none 1": run("1110"),
                         "tiny-bert 100 dropout 0": run("1110"), "tiny-bert 100 dropout 1": run("1111"),
                         "tiny-bert 100 dropout 2": run("0000")}}  # has no partner
    (found,) = benchmark.summary(rows)["remedies"]
    assert found["runs"] == 2 and found["points"][0] == 25 and found["points over seeds and reviews"][0] == 25
