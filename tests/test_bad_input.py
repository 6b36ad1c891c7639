"""What a user may get wrong: a clear error or a stated behaviour, before any work is lost."""

import gzip
import signal
import subprocess
import sys
import textwrap

import pandas as pd
import pytest
from conftest import ROOT
from datasets import ClassLabel, Dataset, Features, Value

from llm_course.data import load_dataset, verified_asset
from llm_course.evaluation import evaluate
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier


@pytest.fixture(scope="module")
def classifier() -> TextClassifier:
    return TextClassifier.from_pretrained("minilm", labels=["negative", "positive"])


def labelled(labels: list[int]) -> Dataset:
    "So many different texts with these labels"
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    return Dataset.from_dict({"text": [f"Text number {i}" for i in range(len(labels))], "label": labels}, features)


@pytest.mark.parametrize(("name", "said"), [
    ("movie", "Did you mean 'movies'"), ("Tweets", "Did you mean 'tweets'"), ("opinion", "movies, products, tweets"),
])
def test_misspelt_dataset_is_told_the_nearest(name, said):
    with pytest.raises(ValueError, match=said):
        load_dataset(name)


def test_hub_dataset_without_network_names_the_bundled():
    with pytest.raises(ConnectionError, match=r"imdb.*Check the name and the network.*movies, products"):
        load_dataset("imdb")


def test_another_precision_in_the_same_process(classifier):
    rows, texts = labelled([0, 1] * 4), ["A gorgeous, witty film.", "Dull."]
    for precision in ("bf16", "no", "bf16"):
        run = fine_tune(classifier, rows, epochs=1, batch_size=4, mixed_precision=precision, progress=False)
        assert len(run.steps) == 2
    twin = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], seed=1)
    twin.model.load_state_dict(classifier.model.state_dict())
    assert (twin.logits(texts) == classifier.logits(texts)).all()  # answers are in the model's own precision again


def test_hub_model_without_network():
    with pytest.raises(ConnectionError, match=r"google-bert/bert-base-uncased.*minilm.*Check the name and the network"):
        TextClassifier.from_pretrained("google-bert/bert-base-uncased", labels=["a", "b"])


def test_misspelt_model():
    with pytest.raises(ValueError, match="Did you mean 'minilm'"):
        TextClassifier.from_pretrained("minilmm", labels=["a", "b"])


def test_columns_that_are_missing_or_named_differently(tmp_path):
    pd.DataFrame({"words": ["a", "b"], "verdict": [0, 1]}).to_csv(tmp_path / "odd.csv", index=False)
    with pytest.raises(ValueError, match=r"No column 'text'.*its columns are words, verdict.*text_column="):
        load_dataset(tmp_path / "odd.csv")
    with pytest.raises(ValueError, match=r"label_column="):
        load_dataset(tmp_path / "odd.csv", text_column="words")
    with pytest.raises(ValueError, match=r"No column 'body'"):
        load_dataset(tmp_path / "odd.csv", text_column="body")


def test_empty_split(tmp_path, classifier):
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(f"text {i},{i % 2}" for i in range(40)) + "\n")
    (tmp_path / "test.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match=r"no split may be empty; found.*test: 0"):
        load_dataset(tmp_path)
    with pytest.raises(ValueError, match="training data is empty"):
        fine_tune(classifier, labelled([]))
    with pytest.raises(ValueError, match="evaluation data is empty"):
        evaluate(classifier, labelled([]))


def test_one_class_only(classifier):
    with pytest.raises(ValueError, match=r"one class only \(positive\)"):
        fine_tune(classifier, labelled([1, 1, 1]))


def test_labels_outside_of_the_classifiers_set(classifier):
    for use in (fine_tune, evaluate):
        with pytest.raises(ValueError, match=r"Row 1 .*label 5.*2 labels"):
            use(classifier, {"text": ["a", "b"], "label": [0, 5]})
        with pytest.raises(ValueError, match="the classifier's are good, bad"):
            use(TextClassifier.from_pretrained("minilm", labels=["good", "bad"]), labelled([0, 1]))


def test_damaged_asset_names_both_checksums(tmp_path):
    good = verified_asset("movies.jsonl.gz")
    (tmp_path / "SHA256SUMS").write_text((good.parent / "SHA256SUMS").read_text())
    (tmp_path / "movies.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    expected = dict(line.split()[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    with pytest.raises(ValueError, match=rf"damaged: its SHA-256 is [0-9a-f]{{64}}, expected "
                                         rf"{expected['movies.jsonl.gz']}.*Reinstall"):
        verified_asset("movies.jsonl.gz", tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        verified_asset("tweets.jsonl.gz", tmp_path)


@pytest.mark.parametrize("bad", [None, 3, 2.5, b"bytes", ["nested"]])
def test_texts_that_are_none_or_numbers(classifier, bad):
    with pytest.raises(TypeError, match="Text 1 is"):
        classifier.predict(["fine", bad])
    with pytest.raises(TypeError, match="Row 1 of the training data"):
        fine_tune(classifier, {"text": ["fine", bad], "label": [0, 1]})


def test_a_text_longer_than_the_window_is_cut_and_said_once(classifier):
    with pytest.warns(UserWarning, match="1 of 3 texts are longer than 512 tokens and were cut there") as caught:
        probabilities = classifier.predict_proba(["good " * 900, "short", ""])
    assert len(caught) == 1 and probabilities.shape == (3, 2)


@pytest.mark.parametrize(("setting", "value"), [
    ("batch_size", 0), ("batch_size", 2.5), ("learning_rate", -1e-5), ("learning_rate", float("nan")), ("epochs", 0),
    ("weight_decay", -1), ("warmup", 1.5), ("max_gradient_norm", 0), ("gradient_accumulation", 0), ("evaluate_every", 0),
    ("optimizer", "adamm"), ("seed", -1), ("mixed_precision", "fp17"),
])
def test_settings_that_cannot_be(classifier, setting, value):
    with pytest.raises(ValueError, match=setting):
        fine_tune(classifier, labelled([0, 1, 0, 1]), **{setting: value})


def test_validation_that_overlaps_is_counted(classifier):
    with pytest.warns(UserWarning, match="3 of 3 validation texts are training texts"):
        fine_tune(classifier, labelled([0, 1, 0, 1]), labelled([0, 1, 0]), epochs=1, progress=False)


def test_save_path_that_holds_something_else(classifier, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(FileExistsError, match="holds something else"):
            classifier.save(place)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_interrupt_returns_the_run_so_far(tmp_path):
    """SIGINT, as a notebook's stop button sends it, in the middle of a run"""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent("""
        import signal

        from llm_course.data import load_dataset
        from llm_course.fine_tuning import Callback, fine_tune
        from llm_course.models import TextClassifier

        class Say(Callback):
            def on_step(self, run):
                print("step", len(run.steps), flush=True)

        # As a kernel does: a process started in the background may inherit that SIGINT is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        classifier = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"])
        run = fine_tune(classifier, load_dataset("movies")["train"], callbacks=[Say()], progress=False)
        print("interrupted", run.interrupted, len(run.steps), len(classifier.predict(["A film"])), flush=True)
    """))
    process = subprocess.Popen([sys.executable, "-W", "ignore", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        for line in process.stdout:
            if line.startswith("step 3"):
                process.send_signal(signal.SIGINT)
                break
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    last = rest.splitlines()[-1].split()
    assert process.returncode == 0 and last[:2] == ["interrupted", "True"] and 3 <= int(last[2]) <= 6, rest
    assert last[3] == "1"
