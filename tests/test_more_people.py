"""More of what people bring: each case once gave a wrong answer in silence, a raw error, or was refused though good."""

import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_classifier
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Value
from families import model_folder, tokenizer_of, without_ends
from transformers import AutoModelForTokenClassification, BertConfig

from llm_course.adversarial_examples import TypoAttack, fgsm, hotflip
from llm_course.adversarial_training import AdversarialAugmentation, robustness_curve
from llm_course.augmentation import RandomSwap, augment_dataset
from llm_course.callbacks import Callback, EarlyStopping, Stop
from llm_course.data import load_dataset
from llm_course.evaluation import evaluate, slice_accuracy
from llm_course.fine_tuning import fine_tune
from llm_course.imdb_at_full_scale import LongTextClassifier, head, head_and_tail, read_dataset, tail, windows
from llm_course.models import SentenceEncoder, TextClassifier
from llm_course.tokens import UnknownTokens

LABELS = ["negative", "positive"]
TEXTS = [f"Film {number} had a {'fine' if number % 2 else 'weak'} plot {number * 11}" for number in range(40)]
ROWS = {"text": TEXTS, "label": [number % 2 for number in range(40)]}


def named(labels: list[int], names: list[str]) -> Dataset:
    "Texts whose labels carry their names"
    return Dataset.from_dict({"text": TEXTS, "label": labels},
                             Features({"text": Value("string"), "label": ClassLabel(names=names)}))


def test_saving_never_takes_other_files_or_the_working_folder(tmp_path, monkeypatch):
    classifier = tiny_classifier()
    classifier.save(tmp_path / "mine")
    (tmp_path / "mine/notes.txt").write_text("mine")
    fine_tune(classifier, ROWS, epochs=1, progress=False, checkpoints=tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    for seed in (1, 2):
        tiny_classifier(seed=seed).save(".")
        tiny_classifier(seed=seed).save(tmp_path / "mine")
    assert os.getcwd() and (tmp_path / "mine/notes.txt").read_text() == "mine"
    assert any(path.name.startswith("step-") for path in (tmp_path / "mine").iterdir())
    texts = TEXTS[:3]
    torch.testing.assert_close(TextClassifier.load(".").logits(texts), tiny_classifier(seed=2).logits(texts))


def test_names_of_classes_survive_a_parquet_file(tmp_path):
    named(ROWS["label"], ["positive", "negative"]).to_parquet(str(tmp_path / "a.parquet"))
    parts = load_dataset(tmp_path / "a.parquet", threshold=1.0)
    assert parts["train"].features["label"].names == ["positive", "negative"]
    known = dict(zip(TEXTS, ROWS["label"], strict=True))
    assert all(known[row["text"]] == row["label"] for row in parts["train"])
    (tmp_path / "b.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="no whole Parquet file"):
        load_dataset(tmp_path / "b.parquet")


def test_parts_that_name_their_classes_differently(tmp_path):
    DatasetDict(train=named(ROWS["label"], ["neg", "pos"]), test=named(ROWS["label"], ["pos", "neg"])).save_to_disk(
        str(tmp_path / "a"))
    with pytest.raises(ValueError, match="The parts name their classes differently"):
        load_dataset(tmp_path / "a")
    (tmp_path / "b").mkdir()
    pd.DataFrame(ROWS).replace({"label": {0: "negative", 1: "positive"}}).to_csv(tmp_path / "b/train.csv", index=False)
    pd.DataFrame(ROWS)[:10].assign(label="neg").rename(columns={"label": "Label", "text": "Text"}).to_csv(
        tmp_path / "b/test.csv", index=False)
    with pytest.warns(UserWarning, match="The training part has no text of these labels.*neg"):
        assert "unlabelled" not in load_dataset(tmp_path / "b", threshold=1.0)


def test_ratings_in_another_case_or_missing(tmp_path):
    frame = pd.DataFrame({"text": TEXTS, "Rating": np.linspace(-3, 3, 40)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    parts = load_dataset(tmp_path / "a.csv", task="regression", threshold=1.0)
    assert np.isfinite(parts["train"]["rating"]).all()
    frame.assign(Rating=[None, *frame["Rating"][1:]]).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match="Row 0 of 'train' has the rating nan"):
        load_dataset(tmp_path / "b.csv", task="regression")


def test_a_set_of_two_texts_is_no_set(tmp_path):
    pd.DataFrame({"text": ["Good app", "Bad app"] * 30, "label": [1, 0] * 30}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="Nothing is left of the train"):
        load_dataset(tmp_path / "a.csv")


def test_tables_with_tabs_and_quotation_marks(tmp_path):
    rows = [f'"So {text}\t{label}' for text, label in zip(TEXTS, ROWS["label"], strict=True)]
    (tmp_path / "a.tsv").write_text("sentence\tlabel\n" + "\n".join(rows))
    assert sum(map(len, load_dataset(tmp_path / "a.tsv", threshold=1.0).values())) == 40
    frame = pd.DataFrame({"text": [f'{text}\nand "more"' for text in TEXTS], "label": ROWS["label"]})
    frame.to_csv(tmp_path / "b.tsv", sep="\t", index=False)
    assert set(load_dataset(tmp_path / "b.tsv", threshold=1.0)["train"]["text"]) <= set(frame["text"])
    (tmp_path / "c.csv").write_text("\n\n")
    with pytest.raises(ValueError, match="is empty"):
        load_dataset(tmp_path / "c.csv")


def test_heads_that_are_none_of_ours(tmp_path):
    folder = model_folder(tmp_path / "a", names=tuple(LABELS))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    with pytest.raises(ValueError, match="multi-label"):
        TextClassifier.from_pretrained(folder, labels=LABELS)
    (folder / "config.json").write_text(json.dumps(config)[:-20])
    with pytest.raises(ValueError, match=r"config.json is cut off or damaged"):
        TextClassifier.from_pretrained(folder, labels=LABELS)
    tokens = BertConfig(vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                        id2label=dict(enumerate(LABELS)), label2id={"negative": 0, "positive": 1})
    AutoModelForTokenClassification.from_config(tokens).save_pretrained(tmp_path / "b")
    tokenizer_of("WordPiece").save_pretrained(tmp_path / "b")
    with pytest.warns(UserWarning, match="made for another task"):
        TextClassifier.from_pretrained(tmp_path / "b", labels=LABELS)
    for labels in ({"negative", "positive"}, {"positive": 1, "negative": 0}):
        with pytest.raises(ValueError, match="in the order of the outputs"):
            TextClassifier.from_pretrained("minilm", labels=labels)


def test_a_model_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_classifier().save("~/mine")
    assert TextClassifier.from_pretrained("~/mine", labels=LABELS).labels == LABELS
    (tmp_path / "mine/classifier.json").write_text("{")
    with pytest.raises(ValueError, match=r"classifier.json is damaged"):
        TextClassifier.load("~/mine")


def test_scores_that_are_no_numbers_are_said():
    classifier = tiny_classifier()
    with torch.no_grad():
        classifier.model.classifier.bias.fill_(float("nan"))
    with pytest.warns(UserWarning, match="scores of 2 of 2 texts are no numbers"):
        classifier.predict(TEXTS[:2])


@pytest.mark.parametrize("family", ["byte-level", "sentencepiece", "WordPiece"])
def test_pieces_of_long_texts_fit_and_are_not_empty(tmp_path, family):
    folder = model_folder(tmp_path, "bert", family, names=tuple(LABELS), max_position_embeddings=40)
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu", max_length=20)
    classifier.word_map = {"moving": "extraordinarily"}
    texts = ["the film is a gorgeous and moving story about honest people " * 4, "这部电影很好看" * 12, "a" * 90,
             "good film " * 9 + "好看" * 30]
    for reading in (head, tail, head_and_tail, windows):
        pieces = read_dataset(classifier, {"text": texts, "label": [1, 0, 1, 0]}, reading)
        assert all(pieces["text"]) and set(pieces["label"]) == {0, 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownTokens)
            assert classifier.tokenize(pieces["text"])[1] == 0


def test_an_empty_text_of_a_decoder_reads_alike_in_pieces(tmp_path):
    folder = model_folder(tmp_path, "gpt2", "byte-level", names=tuple(LABELS), tokenizer=without_ends("byte-level"))
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    texts = ["", "fine"]
    torch.testing.assert_close(LongTextClassifier(classifier).logits(texts), classifier.logits(texts), rtol=1e-4, atol=1e-5)


def test_a_tokenizer_that_pads_on_the_left_does_not_move_vectors():
    encoder, texts = SentenceEncoder(device="cpu"), [TEXTS[0], f"{TEXTS[1]} and more of it"]
    expected = encoder.encode(texts)
    encoder.tokenizer.padding_side = "left"
    torch.testing.assert_close(encoder.encode(texts), expected)


def test_labels_of_every_kind_for_the_same_answers():
    expected = evaluate(tiny_classifier(), ROWS).confusion.tolist()
    truth = [bool(label) for label in ROWS["label"]]
    for labels in (truth, np.array(truth), [torch.tensor(label) for label in ROWS["label"]],
                   ["Positive" if label else " NEGATIVE" for label in truth]):
        assert evaluate(tiny_classifier(), {"text": TEXTS, "label": labels}).confusion.tolist() == expected
    assert evaluate(tiny_classifier(), named(ROWS["label"], ["Negative", "Positive"])).confusion.tolist() == expected
    stream = named(ROWS["label"], ["positive", "negative"]).to_iterable_dataset()
    for use in (evaluate, TypoAttack().attack):
        with pytest.raises(ValueError, match="the classifier's are negative, positive"):
            use(tiny_classifier(), stream)


def test_attacked_data_keep_their_classes():
    words = ["positive" if label else "negative" for label in ROWS["label"]]
    more = AdversarialAugmentation(TypoAttack(tries=1, query_budget=5), max_changed=1.0)
    for data in ({"text": TEXTS[:8], "label": words[:8]}, named(ROWS["label"], LABELS).select(range(8))):
        assert set(more.augment(tiny_classifier(), data, progress=False)["label"]) <= {0, 1}
    curve = robustness_curve(tiny_classifier(), {**ROWS}, (radius for radius in [0, 0.0, 0.1]), steps=1)
    assert curve.between(0, 1).all() and curve.index.tolist() == [0.0, 0.1]


def test_a_journal_knows_the_word_map_and_the_reading(tmp_path):
    classifier, journal = tiny_classifier(), tmp_path / "new/folder/a.jsonl"
    attack, data = TypoAttack(tries=1, query_budget=5), {"text": TEXTS[:4], "label": [0, 1, 0, 1]}
    attack.attack(classifier, data, resume_from=journal, progress=False)
    assert attack.attack(classifier, data, resume_from=journal, progress=False).fresh == 0
    classifier.word_map = {"film": "movie"}
    with pytest.raises(ValueError, match="of another attack: its classifier"):
        attack.attack(classifier, data, resume_from=journal, progress=False)
    with pytest.raises(ValueError, match="is a folder"):
        attack.attack(classifier, data, resume_from=tmp_path, progress=False)
    both = tmp_path / "long.jsonl"
    attack.attack(LongTextClassifier(classifier), data, resume_from=both, progress=False)
    for other in (LongTextClassifier(tiny_classifier(seed=1)), LongTextClassifier(classifier, tail)):
        with pytest.raises(ValueError, match="of another attack"):
            attack.attack(other, data, resume_from=both, progress=False)


def test_targets_of_every_number():
    classifier = tiny_classifier()
    expected = fgsm(classifier, TEXTS[:3], [1, 0, 1], epsilon=0.1).after
    for targets in (np.array([1, 0, 1], np.int32), pd.Series([1, 0, 1], index=[7, 8, 9]), [1.0, 0.0, 1.0], [True, False, True]):
        torch.testing.assert_close(fgsm(classifier, TEXTS[:3], targets, epsilon=0.1).after, expected)
    assert hotflip(classifier, TEXTS[0], np.int32(1), count=2).equals(hotflip(classifier, TEXTS[0], 1, count=2))
    with pytest.raises(ValueError, match="at 1 stands"):
        fgsm(classifier, TEXTS[:2], [0, 0.5], epsilon=0.1)


def test_tables_that_cannot_be_augmented():
    assert len(augment_dataset(pd.concat([pd.DataFrame(ROWS), pd.Series(range(40))], axis=1), RandomSwap(), progress=False)) > 40
    with pytest.raises(ValueError, match="column 'id' of the augmented data mixes kinds"):
        augment_dataset({**ROWS, "id": [1, "x"] * 20}, RandomSwap(), progress=False)
    assert augment_dataset({"text": ["half \ud83d a fine film"]}, RandomSwap(), progress=False)["text"][0][5] == "\ufffd"
    stream = Dataset.from_dict({**ROWS, "augmented": ["no"] * 40}).to_iterable_dataset()
    with pytest.raises(ValueError, match="'augmented' holds something else"):
        augment_dataset(stream, RandomSwap())
    rows = IterableDataset.from_generator(lambda: ({"text": text, "label": 0} for text in TEXTS))
    assert len(read_dataset(tiny_classifier(), rows, head)) == 40
    with pytest.raises(ValueError, match="list with the slice"):
        slice_accuracy([1, 0], {"a", "b"})


@pytest.mark.parametrize(("callbacks", "said"), [
    ([EarlyStopping], r"write EarlyStopping\(\)"), (EarlyStopping(), r"write \[callback\]"), (None, "got None"),
    ([print], "no Callback"), ([object()], "has on_step, on_evaluation and on_end"),
])
def test_callbacks_that_are_none_are_refused_before_training(callbacks, said):
    with pytest.raises(TypeError, match=said):
        fine_tune(tiny_classifier(), ROWS, callbacks=callbacks, progress=False)


def test_whatever_a_callback_raises_at_the_end_the_others_are_told():
    class Ends(Callback):
        def __init__(self, error=None):
            self.error, self.ended = error, False

        def on_end(self, run):
            self.ended = True
            if self.error:
                raise self.error

    last = Ends()
    fine_tune(tiny_classifier(), ROWS, epochs=1, callbacks=[Ends(Stop), last], progress=False)
    assert last.ended
    last = Ends()
    with pytest.raises(SystemExit):
        fine_tune(tiny_classifier(), ROWS, epochs=1, callbacks=[Ends(SystemExit), last], progress=False)
    assert last.ended
