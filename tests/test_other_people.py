"""Data, models and texts as other people bring them: read rightly, or refused with what to do."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import ROOT, tiny_classifier
from datasets import Dataset, DatasetDict
from families import FAMILIES, model_folder, tokenizer_of, without_ends
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig

from llm_course.adversarial_examples import Draft, SynonymAttack, TypoAttack, fgsm, hotflip, pgd, promised
from llm_course.adversarial_training import Substitutions, UnlabelledTexts, frequent_synonyms, synonym_table
from llm_course.augmentation import ContextualReplacement, RandomSwap, TypingNoise
from llm_course.data import load_dataset, near_duplicates
from llm_course.evaluation import evaluate
from llm_course.fine_tuning import fine_tune
from llm_course.gaps import GapFiller
from llm_course.imdb_at_full_scale import LongTextClassifier
from llm_course.models import SentenceEncoder, TextClassifier, model_window, quiet_loading
from llm_course.tokens import UnknownTokens, read_tokens
from llm_course.words import split_words

some = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LABELS = ["negative", "positive"]
TEXTS = [f"Film {number} had a {'fine' if number % 2 else 'weak'} plot {number * 11}" for number in range(60)]
TARGETS = [number % 2 for number in range(60)]
FILMS = ["A gorgeous, witty film.", "Dull.", "the story is about honest people"]


# Labels of a model that has a head


@pytest.mark.parametrize(("kind", "family"), [("bert", "WordPiece"), ("distilbert", "WordPiece"), ("albert", "WordPiece"),
                                              ("roberta", "byte-level"), ("gpt2", "byte-level"), ("electra", "WordPiece")])
def test_a_head_answers_under_the_names_that_it_has(tmp_path, kind, family):
    folder = model_folder(tmp_path / "theirs", kind, family, names=("POSITIVE", "NEGATIVE"))
    theirs = TextClassifier.from_pretrained(folder, labels=["POSITIVE", "NEGATIVE"], device="cpu")
    with pytest.warns(UserWarning, match="is kept.*POSITIVE, NEGATIVE.*negative, positive"):
        ours = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    torch.testing.assert_close(ours.logits(FILMS), theirs.logits(FILMS)[:, [1, 0]])
    assert ours.labels == LABELS and ours.model.config.id2label == {0: "negative", 1: "positive"}
    assert TextClassifier.load(ours.save(tmp_path / "ours")).predict(FILMS) == ours.predict(FILMS)
    with pytest.warns(UserWarning, match="is kept"):
        again = TextClassifier.from_pretrained(tmp_path / "ours", labels=["positive", "Negative "], device="cpu")
    torch.testing.assert_close(again.logits(FILMS), theirs.logits(FILMS))


@pytest.mark.parametrize("names", [("spam", "ham"), None, ("a", "b", "c")], ids=["others", "unnamed", "three"])
def test_a_head_for_other_labels_is_never_kept_under_new_names(tmp_path, names):
    folder = model_folder(tmp_path, "roberta", "byte-level", names=names)
    heads = []
    for seed in (0, 0, 1):
        with pytest.warns(UserWarning, match="for other labels.*To use the old one: labels="):
            heads.append(TextClassifier.from_pretrained(folder, labels=LABELS, seed=seed).model.classifier)
    assert torch.equal(heads[0].out_proj.weight, heads[1].out_proj.weight) and not heads[0].out_proj.bias.any()
    for one, other in zip(heads[0].parameters(), heads[2].parameters(), strict=True):
        assert not torch.equal(one, other) or not one.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = TextClassifier.from_pretrained(folder, labels=names or ("LABEL_0", "LABEL_1"))
    assert not torch.equal(kept.model.classifier.out_proj.weight[:2], heads[0].out_proj.weight)


def test_outputs_in_another_order_are_refused_by_the_class_itself(tmp_path):
    folder = model_folder(tmp_path, names=("positive", "negative"))
    with quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match="outputs are positive, negative, in this order"):
        TextClassifier(model, tokenizer_of("WordPiece"), LABELS)
    renamed = TextClassifier(model, tokenizer_of("WordPiece"), ["gut", "schlecht"])  # what the user says of the outputs
    saved = json.loads((renamed.save(tmp_path / "renamed") / "config.json").read_text())
    assert saved["id2label"] == {"0": "gut", "1": "schlecht"} and model.config.id2label[0] == "positive"


def test_a_saved_classifier_keeps_its_word_map_and_window(tmp_path):
    mine = tiny_classifier()
    mine.word_map, mine.max_length = {"gorgeous": "fine"}, 12
    again = TextClassifier.from_pretrained(mine.save(tmp_path / "mine"), labels=LABELS)
    assert again.word_map == mine.word_map and again.max_length == 12
    torch.testing.assert_close(again.logits(FILMS), mine.logits(FILMS))


# Texts


def tables() -> dict:
    "The same texts as people hold them"
    rows = {"text": FILMS, "label": [1, 0, 0]}
    dataset = Dataset.from_dict(rows)
    return {"frame": pd.DataFrame(rows), "dict": rows, "dataset": dataset, "series": pd.Series(FILMS, index=[5, 6, 7]),
            "array": np.array(FILMS), "objects": np.array(FILMS, object), "column": dataset["text"],
            "rows": list(dataset), "arrow": pa.table(rows), "formatted": dataset.with_format("torch"),
            "generator": iter(FILMS), "stream": dataset.to_iterable_dataset()}


def readers() -> dict:
    "All that takes texts"
    classifier = tiny_classifier()
    encoder = SentenceEncoder()
    return {
        "predict": classifier.predict, "logits": lambda texts: classifier.logits(texts, chunk_size=2).tolist(),
        "proba": lambda texts: classifier.predict_proba(texts).tolist(), "tokenize": classifier.tokenize,
        "read": classifier.as_read, "encode": lambda texts: encoder.encode(texts).tolist(),
        "augment": RandomSwap(0.5).augment, "stream": lambda texts: list(TypingNoise(0.5).stream(texts, batch_size=2)),
        "duplicates": near_duplicates, "frequent": frequent_synonyms,
        "long": lambda texts: LongTextClassifier(classifier).logits(texts).tolist(),
        "unlabelled": lambda texts: UnlabelledTexts(classifier, texts).tokens,
        "fgsm": lambda texts: fgsm(classifier, texts, [1, 0, 0], epsilon=0.1).after.tolist(),
        "pgd": lambda texts: pgd(classifier, texts, [1, 0, 0], epsilon=0.1, steps=2).after.tolist(),
        "substitutions": lambda texts: sorted(map(str, Substitutions(classifier, texts).known)),
    }


@pytest.mark.filterwarnings("ignore::llm_course.augmentation.UnchangedTexts")
def test_texts_in_every_kind_of_table_are_read():
    for name, read in readers().items():
        expected = read(FILMS)
        for kind, table in tables().items():
            assert read(table) == expected, (name, kind)


@pytest.mark.parametrize(("given", "said"), [
    ("A film.", "write \\[text\\]"), (b"A film.", "write \\[text\\]"), ({"a", "b"}, "no order"), (None, "None"),
    (pd.DataFrame({"review": FILMS}), "no column 'text'"), ({"review": FILMS}, "no column 'text'"),
    (DatasetDict(train=Dataset.from_dict({"text": FILMS})), "several datasets"), (np.array([FILMS]), "shape"),
    ({"text": "one"}, "Write \\[row\\]"), ([FILMS], "Text 0 is"), (["fine", None], "Text 1 is None"),
], ids=["string", "bytes", "set", "none", "frame", "dict", "splits", "shape", "row", "nested", "hole"])
def test_texts_that_are_none_are_refused_by_all(given, said):
    for read in readers().values():
        with pytest.raises((TypeError, ValueError), match=said):
            read(given)


@some
@given(st.lists(st.text(st.characters(), max_size=12), min_size=1, max_size=4))
def test_any_string_of_python_is_read(texts):
    classifier = tiny_classifier()
    assert len(classifier.predict([*texts, "\ud83d", "\0", "\u200f שלום", "A film \ud83d\ude00 \ude00"])) == len(texts) + 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copies = RandomSwap(0.5).augment(texts)
        report = TypoAttack(tries=1, query_budget=5).attack(classifier, {"text": texts, "label": [0] * len(texts)},
                                                            progress=False)
    for copy in [*(copy for row in copies for copy in row), *(result.text for result in report.results)]:
        copy.encode("utf-8")


# Special tokens, tokenizers


@pytest.mark.parametrize("family", FAMILIES)
def test_the_name_of_a_special_token_is_text(family, tmp_path):
    tokenizer = tokenizer_of(family)
    classifier = TextClassifier.from_pretrained(model_folder(tmp_path, "bert", family, names=tuple(LABELS)), labels=LABELS)
    special = set(tokenizer.all_special_ids)
    for name in tokenizer.all_special_tokens:
        [ids], _ = classifier.tokenize([f"A {name} film"])
        assert not special & set(ids[1:-1]) and len(ids) > len(classifier.tokenize(["A film"])[0][0]), name
    ids = LongTextClassifier(classifier).pieces([" ".join(tokenizer.all_special_tokens)])[0][0]
    assert not special & set(ids[1:-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_hotflip_replaces_words_by_words(family, tmp_path):
    folder = model_folder(tmp_path, "bert", family, names=tuple(LABELS))
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    text = "the film is a gorgeous and moving story"
    found = hotflip(classifier, text, 0, count=40)
    special = set(classifier.tokenizer.all_special_tokens)
    assert len(found) == 40 and not special & {*found["token"], *found["replacement"]}
    for row in found.itertuples():
        new = row.replacement.strip("Ġ▁").removesuffix("</w>")
        assert new.isalpha() and new in row.text.split(), row  # a word of its own, not glued to its neighbour
    for name in special:
        assert not special & set(hotflip(classifier, f"a {name} film", 0, count=5)["token"])
    with pytest.raises(ValueError, match="no token that could be replaced"):
        hotflip(classifier, "", 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_promises_are_those_of_the_words_in_their_places(family, tmp_path):
    """Where a synonym has as many tokens as the word, the promise is slope times move, token by token"""
    from llm_course.adversarial_examples import embedded, loss_and_gradient
    from llm_course.augmentation import input_embeddings

    folder = model_folder(tmp_path, "bert", family, names=tuple(LABELS))
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    draft = Draft('gorgeous "story" about people\nthe film is moving', 0)
    options = SynonymAttack().options(draft, Random(0))
    scores = iter(promised(classifier, draft, options).tolist())
    function, inputs, _ = embedded(classifier, [draft.text])
    gradient = loss_and_gradient(function, inputs, torch.tensor([0]))[2][0]
    [old], weight, checked = classifier.tokenize([draft.text])[0], input_embeddings(classifier.model).weight, 0
    for place, words in options.items():
        for word in words:
            score, [new] = next(scores), classifier.tokenize([draft.with_word(place, word)])[0]
            if len(new) == len(old):
                expected = (gradient * (weight[new] - weight[old])).sum().item()
                assert score == pytest.approx(expected, rel=1e-3, abs=1e-6), (place, word)
                checked += 1
            assert score != 0
    assert checked >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_of_synonyms_know_the_words_of_every_family(family, tmp_path):
    folder = model_folder(tmp_path, "bert", family, names=tuple(LABELS))
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    table = synonym_table(classifier)
    film = read_tokens(classifier.tokenizer, ["a film"], add_special_tokens=False)["input_ids"][0][-1]
    written = {classifier.tokenizer.decode([token for token in row if token >= 0]).strip() for row in table[film].tolist()}
    assert "movie" in written or "picture" in written
    known = Substitutions(classifier, ['the "film" is gorgeous'])
    [text] = known.known.values()
    ids = torch.tensor(next(iter(known.known)))
    for place, first, end in text.spans:
        assert classifier.tokenizer.decode(ids[first:end]).strip() == text.pieces[place]


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_words_are_filled_from_their_own_masks(family, tmp_path):
    tokenizer = tokenizer_of(family)
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    name = tokenizer.mask_token
    augmenter = ContextualReplacement(model_name=str(tmp_path), fraction=0.4, protected_words=["mask"])
    text = f"{name} means unknown: the gorgeous story moved slowly towards sadness."
    pieces, gaps = augmenter.masked(text, 0)
    seen = []
    drawn = GapFiller.drawn
    try:
        GapFiller.drawn = lambda self, *given: seen.append(given[:2]) or drawn(self, *given)
        augmenter.filler.fill([(list(pieces), gaps)], [0])
    finally:
        GapFiller.drawn = drawn
    assert [word for word, _ in seen] == [gaps[place] for place in sorted(gaps)] and len(gaps) >= 3
    read = read_tokens(tokenizer, [text], return_offsets_mapping=True)
    [ids], [spans] = read["input_ids"], read["offset_mapping"]
    hidden, places = [], {}
    starts = np.cumsum([0, *map(len, pieces)])
    for token, (start, end) in zip(ids, spans, strict=True):
        middle = (start + end - 1) // 2 if end - start > 1 else start
        place = int(np.searchsorted(starts, middle + (text[middle].isspace() if start < end else 0), "right")) - 1
        if start < end and place in gaps:
            if place not in places:
                places[place] = len(hidden)
                hidden.append(tokenizer.mask_token_id)
        else:
            hidden.append(token)
    with torch.no_grad():
        logits = augmenter.filler.parts[0](input_ids=torch.tensor([hidden])).logits[0]
    for (_, found), place in zip(seen, sorted(gaps), strict=True):
        torch.testing.assert_close(found, logits[places[place]], rtol=1e-4, atol=1e-5)
    [[copy]] = augmenter.augment([text])
    assert copy.startswith(f"{name} ") and len(split_words(copy)) == len(pieces)
    assert ContextualReplacement(model_name=str(tmp_path), fraction=1.0).augment(["moving " * 60])[0][0].endswith("moving ")


def test_a_tokenizer_that_is_not_there_or_too_large(tmp_path):
    folder = model_folder(tmp_path / "a", names=tuple(LABELS))
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    for read in (lambda: TextClassifier.from_pretrained(folder, labels=LABELS), lambda: SentenceEncoder(folder)):
        with pytest.raises(ValueError, match=r"no vocabulary of a tokenizer.*save_pretrained"):
            read()
    saved = tiny_classifier().save(tmp_path / "b")
    for name in ("tokenizer.json", "vocab.txt"):
        (saved / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no vocabulary of a tokenizer"):
        TextClassifier.load(saved)
    folder = model_folder(tmp_path / "c", family="byte-level", names=tuple(LABELS))
    tokenizer_of("WordPiece").save_pretrained(folder)
    with pytest.raises(ValueError, match=r"The tokenizer has 30522 tokens but the model has vectors for 3000"):
        TextClassifier.from_pretrained(folder, labels=LABELS)


def test_texts_in_a_script_that_the_model_does_not_know():
    classifier = tiny_classifier()
    with pytest.warns(UnknownTokens, match="In 2 of 3 texts more than a third"):
        classifier.predict(["ꙘꙙꙚ Ꙙ", "A gorgeous film", "ꙀꙂ and ꙘꙙꙚ"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.predict(["A film with one ꙘꙙꙚ word in it", ""])
        SynonymAttack().attack(classifier, {"text": ["fine film"], "label": [1]}, progress=False)  # it hides words itself


# Windows


@pytest.mark.parametrize(("kind", "expected"), [
    ("bert", 40), ("electra", 40), ("distilbert", 40), ("albert", 40), ("gpt2", 40), ("big_bird", 40),
    ("roberta", 38), ("xlm-roberta", 38), ("camembert", 38), ("mpnet", 38), ("longformer", 38),
])
def test_a_text_may_fill_the_window(tmp_path, kind, expected):
    tokenizer = tokenizer_of("byte-level")
    assert tokenizer.model_max_length > 1e9  # it does not know
    folder = model_folder(tmp_path, kind, "byte-level", names=tuple(LABELS), max_position_embeddings=40, n_positions=40)
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    assert classifier.window == expected == model_window(classifier.model, tokenizer)
    with pytest.warns(UserWarning, match=f"1 of 2 texts are longer than {expected} tokens"):
        assert classifier.logits(["good film " * 60, "short"]).isfinite().all()
    assert len(classifier.tokenize(["good film " * 60])[0][0]) == expected


@pytest.mark.parametrize("family", ["byte-level", "sentencepiece"])
def test_an_empty_text_has_an_answer(tmp_path, family):
    folder = model_folder(tmp_path, "gpt2", family, names=tuple(LABELS), tokenizer=without_ends(family))
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    texts = ["", "fine", " ", "A gorgeous and moving story about honest people"]
    alone = torch.cat([classifier.logits([text]) for text in texts])
    torch.testing.assert_close(classifier.logits(texts), alone, rtol=1e-4, atol=1e-5)
    classifier.tokenizer.padding_side = "left"  # as many decoders have it: positions must not depend on neighbours
    torch.testing.assert_close(classifier.logits(texts), alone, rtol=1e-4, atol=1e-5)


# Folders of models


def test_folders_that_hold_no_readable_model(tmp_path):
    folder = model_folder(tmp_path / "whole", names=tuple(LABELS))
    weights = (folder / "model.safetensors").read_bytes()

    def refused(said: str, **files: bytes | None):
        "Each way of reading a copy with other files says so"
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        for name, content in files.items():
            path = copy / name.replace("__", ".")
            path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        for read in (lambda: TextClassifier.from_pretrained(copy, labels=LABELS), lambda: SentenceEncoder(copy)):
            with pytest.raises(ValueError, match=said):
                read()
        (copy / "classifier.json").write_text(json.dumps({"labels": LABELS, "max_length": 20}))
        with pytest.raises(ValueError, match=said):
            TextClassifier.load(copy)

    refused(r"pytorch_model.bin only.*convert it once", model__safetensors=None, pytorch_model__bin=b"x")
    refused("no weights", model__safetensors=None)
    refused("no config.json", config__json=None)
    refused("holds an adapter.*merge_and_unload", config__json=None, adapter_config__json=b"{}")
    refused("model.safetensors is empty", model__safetensors=b"")
    refused("cut off or damaged", model__safetensors=weights[:-100])
    refused("cut off or damaged", model__safetensors=weights[:40])


def test_saving_where_the_folder_itself_cannot_be_replaced(tmp_path):
    """A mounted folder, a read-only parent: in a name space of their own, as root may make them"""
    script = tmp_path / "save.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\nfrom conftest import tiny_classifier\nfrom llm_course.models import TextClassifier\n"
        "place = Path(sys.argv[1])\n"
        "for seed in (0, 1):\n"
        "    one = tiny_classifier(seed=seed)\n    one.save(place)\n"
        "    assert (TextClassifier.load(place).logits(['a']) - one.logits(['a'])).abs().max() < 1e-6\n"
        "print(sorted(path.name for path in place.iterdir()))\n"
        "try:\n    one.save(place.parent / 'other')\nexcept OSError as error:\n    print('refused', error)\n")
    parent = tmp_path / "parent"
    (parent / "drive").mkdir(parents=True)
    commands = (f"mount -t tmpfs none {parent}/drive && mount --bind {parent} {parent} && "
                f"mount --bind {parent}/drive {parent}/drive && mount -o remount,ro,bind {parent} && "
                f"mount -t tmpfs none {parent}/drive && {sys.executable} {script} {parent}/drive {ROOT / 'tests'}")
    if os.name != "posix" or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no name space for mounts")
    done = subprocess.run(["unshare", "-m", "bash", "-c", commands], capture_output=True, text=True, cwd=ROOT)
    if "mount:" in done.stderr:
        pytest.skip(f"this machine mounts nothing: {done.stderr[:100]}")
    assert done.returncode == 0 and "classifier.json" in done.stdout and ".saving" not in done.stdout.split("]")[0], done.stderr[-2000:]
    assert "refused" in done.stdout and "cannot be saved" in done.stdout


# Files


def written(folder: Path, **files: pd.DataFrame) -> Path:
    "A folder of tables; a name's double underscore is its dot"
    folder.mkdir(exist_ok=True)
    for name, frame in files.items():
        path = folder / name.replace("__", ".")
        if path.suffix == ".csv":
            frame.to_csv(path, index=False)
        elif path.suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_json(path, orient="records", lines=path.suffix == ".jsonl", force_ascii=False)
    return folder


def part(name: str, count: int, **columns) -> pd.DataFrame:
    "Rows whose texts say where they are from"
    return pd.DataFrame({"text": [f"{name} {text}" for text in TEXTS[:count]], "label": TARGETS[:count], **columns})


@pytest.mark.parametrize(("train", "validation", "test"), [
    ("train.csv", "valid.csv", "test.csv"), ("Train.CSV", "DEV.csv", "Test.csv"), ("training.jsonl", "val.json", "testing.csv"),
    ("reviews_train.parquet", "reviews-validation.csv", "reviews.test.json"), ("train.json", "development.csv", "test.csv"),
])
def test_files_that_belong_together(tmp_path, capsys, train, validation, test):
    names = {"train": train, "valid": validation, "test": test}
    for name, file in names.items():
        frame, path = part(name, 50 if name == "train" else 10), tmp_path / file
        {".csv": frame.to_csv, ".parquet": frame.to_parquet, ".jsonl": lambda place, index, f=frame: f.to_json(
            place, orient="records", lines=True), ".json": lambda place, index, f=frame: f.to_json(place, orient="records")
         }[path.suffix.lower()](path, index=False)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    parts = load_dataset(tmp_path)
    assert {split: (len(rows), rows["text"][0].split()[0]) for split, rows in parts.items()} == {
        "train": (50, "train"), "validation": (10, "valid"), "test": (10, "test")}
    said = capsys.readouterr().out
    assert all(f"{file} (" in said for file in names.values()) and "not read: notes.csv" in said


def test_pieces_of_one_part_and_two_files_for_it(tmp_path):
    pieces = written(tmp_path / "pieces", **{"train-00000-of-00002__csv": part("a", 30), "train-00001-of-00002__csv":
                                             part("b", 30), "test__csv": part("c", 10)})
    parts = load_dataset(pieces, threshold=1.0)
    assert len(parts["train"]) + len(parts["validation"]) == 60 and len(parts["test"]) == 10
    both = written(tmp_path / "both", train__csv=part("a", 30), train__json=part("b", 30))
    with pytest.raises(ValueError, match=r"Several files could be the train part: train.csv, train.json"):
        load_dataset(both)
    with pytest.raises(ValueError, match=r"holds no train.csv.*but reviews.csv"):
        load_dataset(written(tmp_path / "none", reviews__csv=part("a", 30)))


@pytest.mark.parametrize("unlabelled", ["no column", "minus one", "empty"])
def test_a_test_part_without_labels_is_kept_apart(tmp_path, unlabelled):
    test = part("test", 10)
    test = {"no column": test.drop(columns="label"), "minus one": test.assign(label=-1),
            "empty": test.assign(label=None)}[unlabelled]
    folder = written(tmp_path / "a", train__csv=part("train", 60), dev__csv=part("dev", 10), test__csv=test)
    with pytest.warns(UserWarning, match="test part has no labels: it is kept apart as 'unlabelled'"):
        parts = load_dataset(folder)
    assert parts["unlabelled"]["text"][:] == test["text"].tolist() and len(parts["validation"]) == 10
    assert {text.split()[0] for text in parts["test"]["text"]} == {"train"} and set(parts["test"]["label"]) == {0, 1}


def test_splits_of_a_saved_dataset(tmp_path, capsys):
    rows = Dataset.from_pandas(part("a", 40))
    DatasetDict(train=rows, dev=Dataset.from_pandas(part("b", 10)), unsupervised=rows).save_to_disk(str(tmp_path / "d"))
    parts = load_dataset(tmp_path / "d")
    assert {text.split()[0] for text in parts["validation"]["text"]} == {"b"}
    assert "not read: unsupervised" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_classes_come_in_one_order_from_every_file(tmp_path, ending):
    labels = [str(number % 12 + 1) for number in range(240)]
    frame = pd.DataFrame({"text": [f"{text} {number}" for number in range(4) for text in TEXTS], "label": labels})
    written(tmp_path, **{f"a__{ending}": frame})
    parts = load_dataset(tmp_path / f"a.{ending}", threshold=1.0)
    assert parts["train"].features["label"].names == [str(number) for number in range(1, 13)]
    known = dict(zip(frame["text"], labels, strict=True))
    for rows in parts.values():
        assert [rows.features["label"].names[label] for label in rows["label"]] == [known[text] for text in rows["text"]]


@pytest.mark.parametrize(("labels", "names", "said"), [
    (["positive", "positive ", "negative", "\tnegative"], ["negative", "positive"], "without the blanks"),
    (["0", "1", "0 ", "1"], ["negative", "positive"], "without the blanks"),
    (["Spam", "spam", "ham", "ham"], ["Spam", "ham", "spam"], "differ in case only"),
    ([True, False, True, False], ["negative", "positive"], None), ([1.0, 0.0, 1.0, 0.0], ["negative", "positive"], None),
    (["1", "2", "10", "2"], ["1", "2", "10"], None), ([3, "other", 3, "other"], ["3", "other"], None),
])
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_names_of_labels(tmp_path, labels, names, said, ending):
    written(tmp_path, **{f"a__{ending}": pd.DataFrame({"text": TEXTS, "label": labels * 15})})
    said = None if ending == "csv" and labels[0] == "0" else said  # pandas reads "0 " as a number
    with pytest.warns(UserWarning, match=said) if said else warnings.catch_warnings():
        if not said:
            warnings.simplefilter("error")
        parts = load_dataset(tmp_path / f"a.{ending}")
    assert parts["train"].features["label"].names == names


def test_what_a_file_may_hold_beside_texts_and_labels(tmp_path):
    frame = part("a", 60, rating=["PG-13", "R", "PG"] * 20, id=[1, "x"] * 30, meta=[{"a": 1}, [2]] * 30)
    written(tmp_path, a__jsonl=frame, b__csv=frame, c__csv=frame.rename(columns={"text": "Sentence", "label": "Category"}))
    for name in ("a.jsonl", "b.csv", "c.csv"):
        with pytest.warns(UserWarning, match="'rating' .* no number"):
            parts = load_dataset(tmp_path / name)
        assert sum(map(len, parts.values())) == 60 and np.isnan(parts["train"]["rating"]).all()
    with pytest.raises(ValueError, match="Row 0 of 'train' has the rating 'PG-13'"):
        load_dataset(tmp_path / "a.jsonl", task="regression")
    written(tmp_path, d__csv=part("a", 60, rating=np.linspace(-3, 3, 60)))
    assert load_dataset(tmp_path / "d.csv", task="regression")["train"]["rating"][0] != 0


def test_labels_that_are_lists_and_classes_of_one(tmp_path):
    Dataset.from_dict({"text": TEXTS, "label": [["a"], ["a", "b"]] * 30}).to_parquet(str(tmp_path / "a.parquet"))
    written(tmp_path, b__jsonl=pd.DataFrame({"text": TEXTS, "label": [[0, 1], [1, 1]] * 30}))
    written(tmp_path, d__csv=pd.DataFrame({"text": TEXTS, "label": [["a"], ["a", "b"]] * 30}))
    for name in ("a.parquet", "b.jsonl", "d.csv"):
        with pytest.raises(ValueError, match="multi-label"):
            load_dataset(tmp_path / name)
    written(tmp_path, c__csv=pd.DataFrame({"text": TEXTS, "label": [*["a", "b"] * 29, "a", "rare"]}))
    with pytest.raises(ValueError, match=r"each class needs 3 texts.*class 'rare' has 1"):
        load_dataset(tmp_path / "c.csv")
    folder = written(tmp_path / "parts", train__csv=part("a", 40), dev__csv=part("b", 10), test__csv=part("c", 10))
    assert len(load_dataset(folder, threshold=1.0)["train"]) == 40  # nothing is cut, so nothing is asked


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "cp1251", "latin-1", "utf-16-le"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_encodings_are_read_by_their_marks_or_named(tmp_path, encoding, ending):
    word = {"gb18030": "好看的电影", "cp1251": "хороший", "latin-1": "déjà"}.get(encoding, "好看 é")
    rows = [{"text": f"{word} {text}", "label": label} for text, label in zip(TEXTS, TARGETS, strict=True)]
    path = tmp_path / f"a.{ending}"
    content = (pd.DataFrame(rows).to_csv(index=False) if ending == "csv" else
               "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    path.write_bytes(content.encode(encoding))
    if encoding in ("gb18030", "cp1251", "latin-1", "utf-16-le"):
        with pytest.raises(ValueError, match=r"Name its encoding"):
            load_dataset(path)
        parts = load_dataset(path, encoding=encoding)
    else:
        parts = load_dataset(path)
    assert all(text.startswith(word) for text in parts["train"]["text"])
    with pytest.raises(ValueError, match="'utf-9' is not known"):
        load_dataset(path, encoding="utf-9")


def test_an_error_shows_what_the_encodings_would_read(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\n好看的电影,1\n".encode("gbk"))
    with pytest.raises(ValueError, match=r"encoding='gb18030' reads '好看的电影"):
        load_dataset(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"text,label\nfine,1\xa0")  # nothing but a blank that only some encodings have
    with pytest.raises(ValueError, match=r"Name its encoding"):
        load_dataset(tmp_path / "b.csv")


def test_half_characters_and_broken_files(tmp_path):
    lines = [json.dumps({"text": f"{text} \ud83d", "label": label}) for text, label in zip(TEXTS, TARGETS, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert all(text.endswith("\ufffd") for text in load_dataset(tmp_path / "a.jsonl")["train"]["text"])
    (tmp_path / "b.jsonl").write_text("\n".join(lines[:3]) + '\n{"text": "torn')
    with pytest.raises(ValueError, match="neither JSON nor lines of JSON"):
        load_dataset(tmp_path / "b.jsonl")
    for rows in ("a,b,c,0\nd,1\n", "a,b,0\nd,e,1\n", "a,0\nb,c,1\n"):  # a comma that is not in quotes
        (tmp_path / "c.csv").write_text(f"text,label\n{rows}")
        with pytest.raises(ValueError, match="double quotes"):
            load_dataset(tmp_path / "c.csv")
    with pytest.raises(TypeError, match=r"got DataFrame.*to_csv"):
        load_dataset(pd.DataFrame({"text": TEXTS}))


# All of it


@pytest.mark.parametrize(("kind", "family"), [("bert", "WordPiece"), ("roberta", "byte-level"), ("gpt2", "byte-level")])
def test_own_data_and_own_model_from_loading_to_a_saved_classifier(tmp_path, kind, family):
    """A CSV of one's own, a folder of a model of one's own: load, train, evaluate, attack, save, load again"""
    frame = pd.DataFrame({
        "Review": [f"{'A gorgeous, witty' if number % 2 else 'A dull, silly'} film number {number}" for number in range(80)],
        "Sentiment": ["good " if number % 2 else "bad" for number in range(80)], "stars": range(80)})
    frame.to_csv(tmp_path / "mine.csv", index=False, sep=";", encoding="utf-16")
    with pytest.warns(UserWarning, match="blanks"):
        reviews = load_dataset(tmp_path / "mine.csv", threshold=1.0)
    labels = reviews["train"].features["label"].names
    assert labels == ["bad", "good"]
    folder = model_folder(tmp_path / "model", kind, family, names=("a", "b", "c"))
    with pytest.warns(UserWarning, match="a new one"):
        classifier = TextClassifier.from_pretrained(folder, labels=labels, max_length=24, device="cpu")
    run = fine_tune(classifier, reviews["train"], reviews["validation"], epochs=12, batch_size=8, learning_rate=5e-3,
                    progress=False, checkpoints=tmp_path / "runs", resume="auto")
    report = evaluate(classifier, reviews["test"])
    assert run.evaluations[-1]["accuracy"] == report.accuracy.value == 1.0
    attacked = TypoAttack(tries=1).attack(classifier, reviews["test"], progress=False)
    assert attacked.accuracy_before == 1.0
    again = TextClassifier.load(classifier.save(tmp_path / "sentiment"))
    assert again.predict(frame.rename(columns={"Review": "text"})) == frame["Sentiment"].str.strip().tolist()
    with pytest.warns(UserWarning, match="is kept"):
        others = TextClassifier.from_pretrained(tmp_path / "sentiment", labels=["good", "bad"], device="cpu")
    assert others.predict(["A gorgeous, witty film number 3"]) == ["good"]


def test_a_tokenizer_that_pads_on_the_left_trains_the_same_model(tmp_path):
    """Positions of a decoder that counts from the left must not depend on how long the neighbours are"""
    folder = model_folder(tmp_path, "gpt2", "byte-level", names=tuple(LABELS), tokenizer=without_ends("byte-level"))
    weights = []
    for side in ("right", "left"):
        classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
        classifier.tokenizer.padding_side = side
        fine_tune(classifier, {"text": [*FILMS, "fine"], "label": [1, 0, 0, 1]}, epochs=2, progress=False)
        weights.append(torch.cat([values.flatten() for values in classifier.model.parameters()]))
    assert torch.equal(*weights)
