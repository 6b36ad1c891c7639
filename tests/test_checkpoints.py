"""Runs that are killed and resumed, folders that do not fit, full disks, and what callbacks write down."""

import os
import random
import resource
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_adversarial_training import OBJECTIVES, SIZES, Nan, classifier
from transformers import BertConfig, BertForSequenceClassification

from llm_course.adversarial_training import (
    FGM,
    Smart,
    Substitutions,
    SynonymHull,
    UnlabelledTexts,
    VirtualAdversarial,
    WorstSynonyms,
    synonym_table,
)
from llm_course.callbacks import BestCheckpoint, Callback, Stop, TensorBoard, WeightsAndBiases
from llm_course.checkpoints import newest_checkpoint
from llm_course.data import load_dataset
from llm_course.fine_tuning import CrossEntropy, EarlyStopping, fine_tune
from llm_course.models import TextClassifier

EVERY = 2  # steps between two checkpoints
RECIPE = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "evaluate_every": 3, "checkpoint_every": EVERY,
          "progress": False, "seed": 3}
KILLED = ["plain", "FGM", "PGD", "FreeLB", "virtual", "unlabelled", "SMART", "R-Drop", "hull", "worst synonyms"]  # ten


def objective_named(name: str, mine: TextClassifier, rows):
    "Plain cross-entropy, or one of lesson 22"
    if name == "unlabelled":
        return VirtualAdversarial(unlabelled=UnlabelledTexts(mine, rows["text"], batch_size=4))
    if name == "hull":
        known = {"film": ["movie"], "movie": ["film", "picture"], "good": ["fine"], "bad": ["poor", "awful"]}
        return SynonymHull(synonym_table(mine, count=2, candidates=lambda word: known.get(word, [])))
    if name == "worst synonyms":
        return WorstSynonyms(Substitutions(mine, rows["text"]))
    return CrossEntropy() if name == "plain" else OBJECTIVES[name](epsilon=0.1)


def same_weights(mine: TextClassifier, other: TextClassifier) -> bool:
    "Whether all weights are equal, bit for bit"
    theirs = other.model.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in mine.model.state_dict().items())


def without_time(rows: list[dict]) -> list[dict]:
    "The rows of a run without the one column that no two runs share"
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


class Die(Callback):
    "Kill this very process, as no handler can prevent, once so many steps are done"

    def __init__(self, step: int):
        self.step = step

    def on_step(self, run):
        if len(run.steps) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def die_on_the_way(name: str, folder: str, step: int):
    "What the child process runs"
    torch.set_num_threads(1)
    rows, seen = few_reviews()
    mine = classifier()
    fine_tune(mine, rows, seen, objective=objective_named(name, mine, rows), checkpoints=folder,
              callbacks=[Die(step)], **RECIPE)


def kill_on_the_way(name: str, folder: Path, step: int, fresh: bool):
    "Run a child that dies at a step: a fork, which starts at once, or a fresh interpreter, which shares nothing"
    if fresh:
        code = ("import sys; sys.path.insert(0, 'tests'); from test_checkpoints import die_on_the_way; "
                f"die_on_the_way({name!r}, {str(folder)!r}, {step})")
        child = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True)
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-2000:]
        return
    number = os.fork()
    if not number:
        try:
            die_on_the_way(name, str(folder), step)
        finally:
            os._exit(1)  # it was to be killed
    _, status = os.waitpid(number, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


def few_reviews():
    "Short reviews to train on, not a multiple of the batch size, and others to look at"
    rows = load_dataset("movies")["train"].select(range(400))
    rows = rows.filter(lambda text: len(text.split()) < 12, input_columns="text")
    return rows.select(range(18)), rows.select(range(18, 24))


@pytest.fixture(scope="module")
def few():
    return few_reviews()


# Killed and resumed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("names", [pytest.param(["FGM", "unlabelled", "SMART"], id="thrice"),
                                   pytest.param(KILLED, id="ten times", marks=pytest.mark.slow)])
def test_killed_and_resumed_the_weights_are_those_of_an_uninterrupted_run(few, tmp_path, names):
    generator, (rows, seen) = random.Random(7), few
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, name in enumerate(names):
            whole = classifier()
            wanted = fine_tune(whole, rows, seen, objective=objective_named(name, whole, rows),
                               **{**RECIPE, "checkpoint_every": None})
            step, folder = generator.randint(EVERY + 1, wanted.total_steps - 1), tmp_path / f"{number}"
            kill_on_the_way(name, folder, step, fresh=name == "unlabelled")
            assert newest_checkpoint(folder).step == (step - 1) // EVERY * EVERY  # it dies before it writes its own
            again = classifier(seed=5)  # its own weights must not matter
            run = fine_tune(again, rows, seen, objective=objective_named(name, again, rows), resume_from=folder, **RECIPE)
            assert same_weights(whole, again), f"{name}, killed at step {step}"
            assert without_time(run.steps) == without_time(wanted.steps)
            assert run.evaluations == wanted.evaluations and run.examples == wanted.examples == 54
    finally:
        torch.set_num_threads(threads)


def test_a_run_that_ctrl_c_or_an_error_ended_goes_on(few, tmp_path):
    rows, seen = few

    class Press(Callback):
        def on_step(self, run):
            if len(run.steps) == 5:
                raise self.kind

    whole = classifier()
    wanted = fine_tune(whole, rows, seen, objective=Smart(), **RECIPE)
    for kind in (KeyboardInterrupt, ZeroDivisionError):
        press, folder, mine = Press(), tmp_path / kind.__name__, classifier()
        press.kind = kind
        if kind is KeyboardInterrupt:
            with pytest.warns(UserWarning, match=r"Interrupted after 5 of 15.*The last checkpoint is .*step-00000004"):
                fine_tune(mine, rows, seen, objective=Smart(), checkpoints=folder, callbacks=[press], **RECIPE)
        else:
            with pytest.raises(ZeroDivisionError):
                fine_tune(mine, rows, seen, objective=Smart(), checkpoints=folder, callbacks=[press], **RECIPE)
        run = fine_tune(mine, rows, seen, objective=Smart(), resume_from=folder, **RECIPE)
        assert same_weights(mine, whole) and without_time(run.steps) == without_time(wanted.steps)


@pytest.fixture(scope="module")
def finished(few, tmp_path_factory):
    "The folder of a finished run, its classifier and its record"
    folder, mine = tmp_path_factory.mktemp("runs") / "finished", classifier()
    return folder, mine, fine_tune(mine, *few, checkpoints=folder, **RECIPE)


class Never(Callback):
    "Fails where anything is trained or looked at"

    def on_step(self, run):
        raise AssertionError("a step was taken")

    on_evaluation = on_step


def test_a_finished_run_returns_at_once(few, finished):
    folder, whole, wanted = finished
    mine = classifier(seed=5)
    run = fine_tune(mine, *few, resume_from=folder, callbacks=[Never()], **RECIPE)
    assert run.steps == wanted.steps and run.evaluations == wanted.evaluations and run.seconds == wanted.seconds
    assert same_weights(mine, whole) and not mine.model.training


def test_a_run_that_a_callback_stopped_is_finished(few, tmp_path):
    class StopAt(Callback):
        def on_step(self, run):
            if len(run.steps) == 3:
                raise Stop

    mine, again = classifier(), classifier(seed=5)
    fine_tune(mine, *few, checkpoints=tmp_path, callbacks=[StopAt()], **RECIPE)
    run = fine_tune(again, *few, resume_from=tmp_path, callbacks=[Never()], **RECIPE)
    assert len(run.steps) == 3 and same_weights(mine, again)


def test_the_folder_holds_two_checkpoints_and_no_program_code(finished):
    folder, _, run = finished
    assert sorted(path.name for path in folder.iterdir()) == [
        "best", f"step-{run.total_steps - 1:08d}", f"step-{run.total_steps:08d}"]
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_the_best_on_validation_is_kept(few, tmp_path):
    class Remember(Callback):
        def __init__(self):
            self.logits = []

        def on_evaluation(self, run):
            self.logits.append(run.classifier.logits(few[1]["text"]))

    remember, mine = Remember(), classifier()
    run = fine_tune(mine, *few, checkpoints=tmp_path / "kept", callbacks=[remember], **{**RECIPE, "learning_rate": 0.1})
    losses = [row["loss"] for row in run.evaluations]
    assert losses.index(min(losses)) < len(losses) - 1  # the last is not the best, or this would show nothing
    best = TextClassifier.load(tmp_path / "kept/best", device="cpu")
    assert torch.equal(best.logits(few[1]["text"]), remember.logits[losses.index(min(losses))])
    fine_tune(classifier(), *few, checkpoints=tmp_path / "none", keep_best=False, **RECIPE)
    assert not (tmp_path / "none/best").exists()


def saved_by_a_child(mine: TextClassifier, folder: Path, step: str):
    "Save in a child process that is killed right before, or right after, the new classifier takes its place"
    number = os.fork()
    if not number:
        rename = Path.rename

        def dying(path, target):
            if path.name == "new" and step == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            rename(path, target)
            if path.name == "new":
                os.kill(os.getpid(), signal.SIGKILL)

        Path.rename = dying
        try:
            mine.save(folder)
        finally:
            os._exit(1)  # it was to be killed
    _, status = os.waitpid(number, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_killed_while_the_best_is_replaced_the_old_one_or_the_new_one_is_there(few, tmp_path):
    old, new, newer = (classifier(seed=seed) for seed in range(3))
    old.save(tmp_path / "best")
    for mine, step, wanted in ((new, "before", old), (new, "before", old), (new, "after", new), (newer, "before", new)):
        saved_by_a_child(mine, tmp_path / "best", step)
        assert same_weights(TextClassifier.load(tmp_path / "best", device="cpu"), wanted), step
    interrupted_at(5, few, tmp_path / "run")
    saved_by_a_child(new, tmp_path / "run/best", "before")
    assert list((tmp_path / "run").glob(".saving-*"))
    fine_tune(classifier(), *few, resume_from=tmp_path / "run", **RECIPE)
    assert (tmp_path / "run/best/classifier.json").is_file() and not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_while_a_classifier_is_replaced_leaves_the_old_one(tmp_path, monkeypatch, error):
    old, new, rename = classifier(), classifier(seed=5), Path.rename

    def failing(path, target):
        if path.name == "new":
            raise error
        return rename(path, target)

    old.save(tmp_path / "best")
    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(Path, "rename", failing)
        new.save(tmp_path / "best")
    assert same_weights(TextClassifier.load(tmp_path / "best", device="cpu"), old)
    new.save(tmp_path / "best")
    assert same_weights(TextClassifier.load(tmp_path / "best", device="cpu"), new)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


# What goes wrong on the way


def interrupted_at(step: int, few, folder: Path, **changes):
    "Leave a run behind that ended without a last word"
    class Fail(Callback):
        def on_step(self, run):
            if len(run.steps) == step:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fine_tune(classifier(), *few, checkpoints=folder, callbacks=[Fail()], **{**RECIPE, **changes})


def test_of_a_damaged_checkpoint_the_one_before_is_used(few, finished, tmp_path):
    interrupted_at(7, few, tmp_path)
    path = tmp_path / "step-00000006/tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    mine = classifier(seed=5)
    with pytest.warns(UserWarning, match=r"step-00000006 is damaged .*SHA-256.*The previous one, step-00000004, is used"):
        run = fine_tune(mine, *few, resume_from=tmp_path, **RECIPE)
    assert same_weights(mine, finished[1]) and without_time(run.steps) == without_time(finished[2].steps)


@pytest.mark.skipif(os.name != "posix", reason="limits are set as on Unix")
def test_where_the_disk_is_full_training_goes_on_and_the_previous_checkpoint_stays(few, finished, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(Callback):
        def on_step(self, run):
            limit = 100_000 if 4 < len(run.steps) < 9 else before[0]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    mine = classifier()
    try:
        with pytest.warns(UserWarning, match=r"step 6 could not be written.*the previous one, step-00000004, stays") as said:
            run = fine_tune(mine, *few, checkpoints=tmp_path, callbacks=[Fill()], keep_best=False, **RECIPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [word for word in ("step 6 ", "step 8 ") if not any(word in str(w.message) for w in said)] == []
    assert same_weights(mine, finished[1]) and len(run.steps) == run.total_steps
    assert newest_checkpoint(tmp_path).step == run.total_steps


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(few, tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step 3; .*step before.*The last checkpoint is .*step-00000002"):
        fine_tune(classifier(), *few, objective=Nan(), checkpoints=tmp_path, **RECIPE)
    assert newest_checkpoint(tmp_path).step == 2
    with pytest.raises(FloatingPointError) as error:
        fine_tune(classifier(), *few, objective=Nan(), **RECIPE)
    assert "checkpoint" not in str(error.value)


class Steep:
    "A loss that is a number, with gradients that are none"

    def __call__(self, model, batch, backward):
        loss = CrossEntropy()(model, batch, backward)
        model.classifier.weight.grad[0, 0] = float("nan")
        return loss


def test_a_gradient_that_is_no_number_moves_no_weight(few):
    mine = classifier()
    with pytest.raises(FloatingPointError, match="length of the gradient became nan at step 1"):
        fine_tune(mine, *few, objective=Steep(), **RECIPE)
    assert same_weights(mine, classifier())


# What is refused, before anything is trained


def other_model() -> TextClassifier:
    "Like `classifier`, half as wide"
    mine = classifier()
    model = BertForSequenceClassification(BertConfig(
        **{**SIZES, "vocab_size": len(mine.tokenizer)}, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32))
    return TextClassifier(model, mine.tokenizer, mine.labels, max_length=32, device="cpu")


def three_classes() -> TextClassifier:
    "Like `classifier`, with a class more"
    mine = classifier()
    model = BertForSequenceClassification(BertConfig(
        **{**SIZES, "vocab_size": len(mine.tokenizer), "num_labels": 3}, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32))
    return TextClassifier(model, mine.tokenizer, ["negative", "positive", "neither"], max_length=32, device="cpu")


@pytest.mark.parametrize(("make", "changes", "words"), [
    (other_model, {}, r"model \(.*hidden_size 16 there, 8 here"),
    (three_classes, {}, r"number of classes \(2 there, 3 here\); labels \("),
    (classifier, {"batch_size": 8}, r"settings \(batch_size 4 there, 8 here\)"),
    (classifier, {"learning_rate": 0.5}, r"settings \(learning_rate 0.01 there, 0.5 here\)"),
    (classifier, {"objective": FGM(epsilon=0.1)}, r"objective \(kind 'CrossEntropy' there, 'FGM' here"),
    (classifier, {"mixed_precision": "bf16"}, r"settings \(mixed_precision 'no' there, 'bf16' here\)"),
])
def test_a_run_of_something_else_is_refused(few, finished, make, changes, words):
    mine, twin = make(), make()
    rows = few
    if make is three_classes:  # their label names would be refused before
        rows = [{"text": list(part["text"]), "label": list(part["label"])} for part in few]
    with pytest.raises(ValueError, match=f"cannot go on with. Other than here: {words}") as error:
        fine_tune(mine, *rows, resume_from=finished[0], callbacks=[Never()], **{**RECIPE, **changes})
    assert "data" not in str(error.value) and same_weights(mine, twin)


def test_other_data_is_refused(few, finished):
    rows, seen = few
    for train, validation, words in ((rows.select(range(16)), seen, r"training data \(rows 18 there, 16 here"),
                                     (rows.select([1, 0, *range(2, 18)]), seen, r"training data \(digest '"),
                                     (rows, seen.select(range(4)), r"Other than here: validation data \(rows 6 there"),
                                     (rows, None, r"Other than here: validation data \(")):
        with pytest.raises(ValueError, match=words):
            fine_tune(classifier(), train, validation, resume_from=finished[0], callbacks=[Never()], **RECIPE)


def test_folders_without_a_checkpoint_or_with_one_of_another_run(few, finished, tmp_path):
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint to resume from"):
            fine_tune(classifier(), *few, resume_from=place, callbacks=[Never()], **RECIPE)
    with pytest.raises(FileExistsError, match=r"an earlier run.*resume_from="):
        fine_tune(classifier(), *few, checkpoints=finished[0], callbacks=[Never()], **RECIPE)
    for path in finished[0].glob("step-*"):
        (tmp_path / path.name).mkdir()
    with pytest.raises(ValueError, match=r"No checkpoint in .* is whole"):
        fine_tune(classifier(), *few, resume_from=tmp_path, callbacks=[Never()], **RECIPE)


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(few, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file/below", Path("/proc/none")):
        with pytest.raises(OSError, match=r"cannot be written to .*Choose a folder"):
            fine_tune(classifier(), *few, checkpoints=place, callbacks=[Never()], **RECIPE)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(ValueError, match="checkpoint_every"):
        fine_tune(classifier(), *few, checkpoints=tmp_path / "new", **{**RECIPE, "checkpoint_every": 0})
    assert not (tmp_path / "new").exists()


def test_another_folder_may_take_what_follows(few, finished, tmp_path):
    interrupted_at(5, few, tmp_path / "old")
    mine = classifier(seed=5)
    fine_tune(mine, *few, resume_from=tmp_path / "old", checkpoints=tmp_path / "new", **RECIPE)
    assert same_weights(mine, finished[1]) and newest_checkpoint(tmp_path / "old").step == 4
    assert newest_checkpoint(tmp_path / "new").record["finished"]


# Callbacks


def test_event_files_open_and_hold_the_run_across_an_interruption(few, tmp_path):
    board = tmp_path / "board"

    class Fail(Callback):
        def on_step(self, run):
            if len(run.steps) == 7:
                raise ZeroDivisionError

    first = TensorBoard(board)
    with pytest.raises(ZeroDivisionError):
        fine_tune(classifier(), *few, checkpoints=tmp_path / "run", callbacks=[first, Fail()], **RECIPE)
    assert first.writer is None  # closed, though another callback failed
    run = fine_tune(classifier(), *few, resume_from=tmp_path / "run", callbacks=[TensorBoard(board)], **RECIPE)
    events = EventAccumulator(str(board)).Reload()
    for name in ("loss", "learning_rate", "gradient_norm", "examples_per_second", "memory_GiB"):
        read = events.Scalars(f"training/{name}")
        assert [event.step for event in read] == [row["step"] for row in run.steps], name
        assert all(event.value > 0 for event in read), name
        if name in run.steps[0]:
            torch.testing.assert_close([event.value for event in read], [row[name] for row in run.steps])
    for name in ("loss", "accuracy"):
        read = [(event.step, event.value) for event in events.Scalars(f"validation/{name}")]
        torch.testing.assert_close(read, [(row["step"], row[name]) for row in run.evaluations])


def test_weights_and_biases_gets_the_same_numbers(few, tmp_path, monkeypatch):
    logged, begun = [], []

    class Logged:
        def log(self, scalars, step):
            logged.append((step, scalars))

        def finish(self):
            logged.append("finished")

    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace(name="wandb")
    fake.init = lambda **options: begun.append(options) or Logged()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    listener = WeightsAndBiases("course", "first", folder=tmp_path, mode="offline")
    run = fine_tune(classifier(), *few, callbacks=[listener], **{**RECIPE, "checkpoint_every": None})
    assert begun == [{"project": "course", "name": "first", "dir": tmp_path, "mode": "offline",
                      "config": {"total_steps": run.total_steps}}]
    assert logged[-1] == "finished"
    steps = [(step, scalars) for step, scalars in logged[:-1] if "training/loss" in scalars]
    assert [(step, scalars["training/loss"]) for step, scalars in steps] == [(row["step"], row["loss"]) for row in run.steps]
    scores = [(step, scalars["validation/loss"]) for step, scalars in logged[:-1] if "validation/loss" in scalars]
    assert scores == [(row["step"], row["loss"]) for row in run.evaluations]
    with pytest.raises(ValueError, match="'online' or 'offline'"):
        WeightsAndBiases("course", mode="none")
    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install wandb"):
        WeightsAndBiases("course")


def test_the_best_is_kept_without_checkpoints_too_and_stopping_loses_none(few, tmp_path):
    mine = classifier()
    run = fine_tune(mine, *few, callbacks=[BestCheckpoint(tmp_path / "best"), EarlyStopping(patience=1)],
                    **{**RECIPE, "checkpoint_every": None, "epochs": 12, "learning_rate": 0.1})
    assert len(run.steps) < run.total_steps
    best = TextClassifier.load(tmp_path / "best", device="cpu")
    loss = torch.nn.functional.cross_entropy(best.logits(few[1]["text"]), torch.tensor(few[1]["label"])).item()
    assert abs(loss - min(row["loss"] for row in run.evaluations)) < 1e-6
