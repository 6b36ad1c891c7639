"""The assistant of the shop from outside: its data, what references say, what is refused, what is handed over."""

import gzip
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import bm25s
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy.special import softmax

from llm_course.customer_service import BM25, HAND_OVER, NOT_SURE, Assistant, Confidence, NearestExamples, ProductOpinions
from llm_course.customer_service import Reader, Reply, ServedAssistant, draw_of_each, energy, features_of, handover_threshold
from llm_course.customer_service import recalled, reciprocal_rank_fusion, words_of
from llm_course.data import OUT_OF_SCOPE, load_dataset, load_ratings, support_answers, support_questions, verified_asset
from llm_course.serving.clients import Client
from llm_course.serving.running import Served
from llm_course.widgets.customer_service import Chat

WORDS = ["refund", "money", "parcel", "track", "broken", "screen", "weather", "nokia", "battery", "sound"]


def encode(texts):
    """Counts of a few words and a number that is never zero, of length one: an encoder that costs nothing"""
    rows = np.array([[text.lower().count(word) for word in WORDS] + [0.1] for text in texts], float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


KNOWN = {"text": ["refund my money", "track my parcel", "where is the parcel", "screen broken", "battery of the nokia"],
         "intent": ["refund", "track", "track", "damage", "product_opinion"]}
HELD_OUT = {"text": ["refund please", "parcel", "the screen is broken", "weather today", "some weather", "hello", "track"],
            "intent": ["refund", "track", "damage", OUT_OF_SCOPE, OUT_OF_SCOPE, OUT_OF_SCOPE, "track"]}
ANSWERS = {"refund": "Five days.", "track": "See My orders.", "damage": "Send photographs.", "product_opinion": "A buyer:"}


@pytest.fixture
def reader():
    return Reader(encode, KNOWN, HELD_OUT)


@pytest.fixture
def opinions():
    reviews = pd.DataFrame({"document": ["1", "1", "2", "2"], "rating": [2.0, -1.0, 1.0, 0.5], "text": [
        "i like this nokia", "the battery is weak", "the canon has a fine battery", "its sound is poor"]})
    return ProductOpinions(reviews, {"phone": ["nokia"], "camera": ["canon"]}, encode, least=0.3)


# --- the data

def test_the_committed_set_is_that_of_its_source(monkeypatch, tmp_path):
    """tools/support_set.py makes the assets of the typed lines, and decides no split by what a line says"""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("support_set", ROOT / "tools/support_set.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answers, questions = module.read_source(module.SOURCE.read_text(encoding="utf-8"))
    rows = [row for name, texts in questions.items() for row in module.rows_of(name, texts, name in answers)]
    with gzip.open(ROOT / "llm_course/assets/support.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == rows
    assert json.loads((ROOT / "llm_course/assets/support_answers.json").read_text(encoding="utf-8")) == answers
    with pytest.raises(ValueError, match="line 2: a has been there before"):
        module.read_source("= a | A\n= a | A")
    with pytest.raises(ValueError, match="a has 1 different questions, expected 15"):
        module.rows_of("a", ["one", "one"], True)


def test_the_set_is_read_as_others_are():
    parts = load_dataset("support")
    names = parts["train"].features["label"].names
    assert names[-1] == OUT_OF_SCOPE and names[:-1] == sorted(support_answers().index) and len(names) == 35
    assert {split: len(part) for split, part in parts.items()} == {"train": 336, "validation": 108, "test": 216}
    frame = support_questions().set_index("text")
    for split, part in parts.items():
        assert all(frame.loc[row["text"], ["intent", "split"]].tolist() == [names[row["label"]], split] for row in part)
    assert frame.index.is_unique and len(frame) == 660


def test_the_questions_about_products_are_new_and_the_reviews_answer_what_is_said():
    """Each graded sentence stands in the reviews; what answers a question is told; none is a question of the shop"""
    graded = json.loads(verified_asset("product_questions.json").read_text(encoding="utf-8"))["questions"]
    asked, sentences = [each["question"] for each in graded], set(load_ratings("products")["text"])
    assert pd.Series([each["kind"] for each in graded]).value_counts().to_dict() == {"answerable": 30, "near": 10, "far": 10}
    assert len(set(asked)) == 50 and not set(asked) & set(support_questions()["text"])
    for each in graded:
        assert set(each) == {"question", "kind", "answered_by", "verdicts"} and set(each["verdicts"]) <= sentences
        assert set(each["verdicts"].values()) <= {"answers", "near", "no"}
        assert each["answered_by"] in sentences if each["kind"] == "answerable" else not each["answered_by"]
        assert each["kind"] == "answerable" or "answers" not in each["verdicts"].values()


def test_what_has_no_ratings_is_not_read_for_them():
    with pytest.raises(ValueError, match="no ratings"):
        load_ratings("support")
    with pytest.raises(ValueError, match="task='classification'"):
        load_dataset("support", task="regression")
    with pytest.raises(ValueError, match="Did you mean 'support'"):
        load_dataset("suport")


# --- parts

@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (2.0, 0.0), (1.2, 1.0)])
def test_bm25_is_that_of_bm25s(k1, b):
    texts = [row["text"] for row in load_dataset("support")["train"]][:80]
    ours, theirs = BM25(texts, k1, b), bm25s.BM25(k1=k1, b=b, method="lucene")
    theirs.index([words_of(text) for text in texts], show_progress=False)
    for question in ("Where is my parcel?", "refund refund card", "how long does the warranty of a battery last"):
        heard = [word for word in words_of(question) if word in ours.places]
        np.testing.assert_allclose(ours.scores(question), theirs.get_scores(heard), atol=1e-5)


def test_bm25_of_nothing_known():
    assert BM25(["a parcel", ""]).scores("zebra").tolist() == [0, 0]
    assert BM25([""]).scores("parcel").tolist() == [0]
    with pytest.raises(ValueError, match="a document at least"):
        BM25([])
    with pytest.raises(TypeError, match="one string"):
        BM25(["a parcel"]).scores(["parcel"])


def test_energy_and_confidence_by_their_equation():
    logits = np.random.default_rng(0).normal(size=(20, 7)) * 5
    np.testing.assert_allclose(np.log(softmax(logits, axis=1).max(1)), logits.max(1) + energy(logits))
    np.testing.assert_allclose(energy(logits + 3), energy(logits) - 3)
    np.testing.assert_allclose(energy(logits, 1e-3), -logits.max(1), atol=0.01)
    assert np.isfinite(energy(logits * 1e4)).all()


def test_fusion_reads_ranks_alone():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 5, 9))
    fused = reciprocal_rank_fusion(one, other)
    np.testing.assert_allclose(fused, reciprocal_rank_fusion(np.exp(one), 100 * other))
    np.testing.assert_array_equal(reciprocal_rank_fusion(one, other, weights=[1, 0]).argsort(1), one.argsort(1))
    with pytest.raises(ValueError, match="same documents"):
        reciprocal_rank_fusion()
    with pytest.raises(ValueError, match="weights"):
        reciprocal_rank_fusion(one, other, weights=[1.0])
    with pytest.raises(ValueError, match="weights"):
        reciprocal_rank_fusion(one, other, weights=[1.0, -1.0])


def test_scores_of_any_kind_keep_their_order():
    whole = np.array([0, 5, 3])
    for kind in (np.uint8, np.uint64, bool, np.float32, np.int8):
        scores = whole.astype(kind)
        np.testing.assert_allclose(reciprocal_rank_fusion(scores), reciprocal_rank_fusion(scores.astype(float)))
    for wrong in (np.array([0, np.nan, 1]), np.array(["a", "b"])):
        with pytest.raises(ValueError, match="number"):
            reciprocal_rank_fusion(wrong)
    with pytest.raises(ValueError, match="NaN is no number"):
        recalled(np.full((3, 6), np.nan), [0, 1, 2], 1)
    for shape in ((3,), (1, 3, 2)):
        with pytest.raises(ValueError, match=r"\(any, any\)"):
            recalled(np.zeros(shape), [0])


def test_a_tie_is_no_hit():
    assert not recalled(np.zeros((1, 6)), [2], 5)[0] and recalled(np.zeros((1, 6)), [2], 6)[0]
    with pytest.raises(ValueError, match="right"):
        recalled(np.zeros((1, 6)), [6])


def test_an_intent_with_one_example():
    finder = NearestExamples(encode(KNOWN["text"]), [0, 1, 1, 2, 3])
    assert finder.scores(encode(["screen broken"])).argmax() == 2
    assert finder.nearest(encode(["screen broken"]), [0])[1].tolist() == [0]  # the only one of intent 0
    with pytest.raises(ValueError, match="Intent 1 has no example"):
        NearestExamples(np.eye(3), [0, 2, 2])
    with pytest.raises(ValueError, match="Intent 1 has 1 examples, and 2 of each"):
        draw_of_each([0, 0, 1], 2)
    assert draw_of_each([0, 0, 1], 1).shape == (2,)


def test_vectors_of_zeros_are_no_division_by_zero():
    finder = NearestExamples(np.zeros((2, 3)), [0, 1])
    assert np.isfinite(finder.scores(np.zeros((1, 3)))).all() and np.isfinite(features_of(finder, np.ones((1, 3)))[1]).all()


def test_what_are_no_vectors():
    for vectors in (np.zeros(3), np.zeros((1, 2, 3)), np.array([["a"]])):
        with pytest.raises(ValueError, match="shape"):
            NearestExamples(vectors, [0])
    with pytest.raises(ValueError, match=r"finite; at \(1, 0\)"):
        NearestExamples(np.array([[0, 1], [np.nan, 1]]), [0, 1])
    finder = NearestExamples(np.eye(2), [0, 1])
    for labels, message in (([5, -1], "from 0 to 1"), (["1", "0"], "from 0 to 1"), ([0], "as many of each")):
        with pytest.raises(ValueError, match=message):
            finder.nearest(np.eye(2), labels)
    with pytest.raises(ValueError, match=r"shape \(any, 2\)"):
        finder.scores(np.eye(3))
    assert finder.nearest(np.eye(2), [0, 1], first=1)[0].tolist() == [1, -np.inf]  # intent 1 has none among the first
    with pytest.raises(ValueError, match="one at least"):
        draw_of_each([], 1)


def test_words_in_the_plural_and_letters_in_two_pieces():
    assert words_of("batteries") == words_of("battery") and words_of("deliveries") == words_of("delivery")
    assert words_of("cafe\u0301") == words_of("café")


def test_costs():
    assert handover_threshold(4, 0) == 1 and handover_threshold(1, 5) == 0
    for wrong, handover in ((0, 1), (-1, 1), (1, -1), (float("nan"), 1)):
        with pytest.raises(ValueError, match=r"wrong|handover"):
            handover_threshold(wrong, handover)
    with pytest.raises(ValueError, match="all alike"):
        Confidence(np.zeros((3, 3)), [False] * 3)
    for share in (0.2, float("nan")):
        with pytest.raises(ValueError, match="right must be class numbers"):
            Confidence(np.zeros((2, 3)), [share, 0.0])


# --- opinions

def test_an_opinion_is_a_sentence_of_a_review_of_that_product(opinions):
    found = opinions.find("How is the battery of the nokia?")
    assert found.sentence == "the battery is weak" and found.rating == -1.0 and (found.positive, found.of) == (0, 1)
    assert opinions.find("battery of the CANON").sentence == "the canon has a fine battery"
    for question in ("is the battery good", "does the nokia fly", "nokia", "", "canonical battery"):
        assert opinions.find(question) is None, question


def test_the_products_name_does_not_make_a_sentence_near():
    reviews = pd.DataFrame({"document": [1, 1], "rating": [0.4, -1.0],
                            "text": ["nokia nokia nokia battery", "the nokia has a battery without sound"]})
    found = ProductOpinions(reviews, {"phone": ["Nokia"]}, encode, least=0.0).find("has the NOKIA battery sound")
    assert found.sentence == "the nokia has a battery without sound" and found.positive == 0  # 0.4 is not yet positive


def test_questions_and_names_of_any_form(opinions):
    for text in ("n\u0131kon", "NOK\u0130A battery", "nokia or canon battery"):  # letters beyond i; two products
        assert opinions.find(text) is None
    reviews = pd.DataFrame({"document": ["1", None], "rating": [1.0, 1.0], "text": ["my c++ has a battery", "sound"]})
    assert ProductOpinions(reviews, {"language": ["C++"]}, encode, least=0.0).find("battery of c++") is not None
    for products in ({}, {"phone": []}, {"phone": [""]}, {"phone": ["a"], "camera": ["A"]}):
        with pytest.raises(ValueError, match="names of its own"):
            ProductOpinions(reviews, products, encode)
    with pytest.raises(TypeError, match="string"):
        ProductOpinions(reviews, {"phone": "nokia"}, encode)
    with pytest.raises(ValueError, match="rating must be numbers"):
        ProductOpinions(reviews.assign(rating=[1.0, np.nan]), {"phone": ["nokia"]}, encode)


def test_vectors_need_not_have_length_one():
    reviews = pd.DataFrame({"document": [1] * 3, "rating": [1.0, 1.0, -1.0], "text": [
        "nokia phone", "battery fine", "screen screen screen parcel battery battery"]})
    found = ProductOpinions(reviews, {"phone": ["nokia"]}, lambda rows: 9 * encode(rows)).find("nokia battery")
    assert found.sentence == "battery fine" and found.cosine == pytest.approx(1)
    with pytest.raises(ValueError, match="must be finite"):
        ProductOpinions(reviews, {"phone": ["nokia"]}, lambda rows: np.nan * encode(rows)).find("nokia battery")
    with pytest.raises(ValueError, match="as many of each"):
        Reader(lambda rows: encode(rows)[:1], KNOWN, HELD_OUT)


# --- the assistant

def test_replies(reader, opinions):
    assistant = Assistant(reader, ANSWERS, threshold=0.5, opinions=opinions)
    found = assistant.reply("Please refund me")
    assert (found.answer, found.intent, found.evidence, found.handed_over) == ("Five days.", "refund", "refund my money", False)
    found = assistant.reply("weather")
    assert found.handed_over and found.answer == NOT_SURE and found.confidence < 0.5
    found = assistant.reply("nokia battery")
    assert found.evidence == "the battery is weak" and "“the battery is weak” Positive among the sentences nearest to your question: 0 of 1." in found.answer
    found = assistant.reply("battery battery")  # sure of the intent, but no product is named
    assert found.handed_over and not found.evidence and found.answer == NOT_SURE
    assert Assistant(reader, ANSWERS, threshold=0.5).reply("nokia battery").answer == "A buyer:"


@pytest.mark.parametrize("text", ["", " \n\t", "?!…", "\u200b", "x" * 10_000, "refund " * 1500])
def test_what_cannot_be_read_is_handed_over(reader, text):
    assistant = ServedAssistant(reader, ANSWERS, threshold=0.0)
    found = assistant.reply(text)
    assert found.handed_over and found.intent == "" and found.confidence == 0 and found.answer
    assert assistant.predict_proba([text]).argmax() == len(reader.intents)
    assert f"{len(text):,} characters" in found.answer or len(text) < 10


def test_what_is_no_text(reader):
    with pytest.raises(TypeError, match="one string"):
        Assistant(reader, ANSWERS).reply(None)


def test_evidence_is_a_question_that_was_asked():
    written = {"text": ["Five days: refund of money", "We deliver weather"], "intent": ["refund", "weather"]}
    reader = Reader(encode, KNOWN, HELD_OUT, written)
    numbers, _, evidence = reader.read(["refund money", "weather"])
    assert [reader.intents[number] for number in numbers] == ["refund", "weather"]
    assert evidence == ["refund my money", ""]  # nobody asked about the weather


def test_what_is_held_out_is_not_known():
    shared = {name: [*KNOWN[name][:1], *HELD_OUT[name]] for name in KNOWN}
    with pytest.raises(ValueError, match="'refund my money' is an example and held out"):
        Reader(encode, KNOWN, shared)
    for wrong in (0, None, " ", float("nan")):
        with pytest.raises(ValueError, match="Intents must be names"):
            Reader(encode, {"text": ["a", "b"], "intent": ["x", wrong]}, HELD_OUT)
    with pytest.raises(ValueError, match="one at least"):
        Reader(encode, KNOWN, HELD_OUT).read([])


@pytest.mark.parametrize("answer", [None, "", "  ", float("nan")])
def test_answers_are_texts(reader, answer):
    with pytest.raises(ValueError, match="answer to 'refund' must be a text"):
        Assistant(reader, {**ANSWERS, "refund": answer})


def test_no_intent_is_called_as_handing_over():
    known = {"text": KNOWN["text"], "intent": [HAND_OVER, *KNOWN["intent"][1:]]}
    with pytest.raises(ValueError, match="No intent may be called"):
        Assistant(Reader(encode, known, HELD_OUT), {**ANSWERS, HAND_OVER: "A person comes."})


def test_replies_are_read_together(reader):
    calls = []
    assistant = Assistant(reader, ANSWERS, threshold=0.5)
    reader.encode = lambda rows: (calls.append(len(rows)), encode(rows))[1]
    texts = ["refund please", "", "weather", "track"]
    together = assistant.replies(texts)
    assert calls == [3]
    alone = [assistant.reply(text) for text in texts]
    assert [reply.confidence for reply in together] == pytest.approx([reply.confidence for reply in alone])
    assert [replace(reply, confidence=0.0) for reply in together] == [replace(reply, confidence=0.0) for reply in alone]
    assert assistant.replies([]) == [] == assistant.replies(iter(()))


def test_unknown_intents(reader):
    assistant = Assistant(reader, ANSWERS)
    with pytest.raises(ValueError, match=r"no answer to the intent 'refunds'. Did you mean 'refund'. Known: refund, track"):
        assistant.answer_to("refunds")
    with pytest.raises(ValueError, match="no answer to the intent 'damage'"):
        Assistant(reader, {"refund": "Five days."})
    with pytest.raises(ValueError, match="threshold"):
        Assistant(reader, ANSWERS, threshold=1.5)


def test_a_reader_that_cannot_learn_how_sure_it_is():
    with pytest.raises(ValueError, match="all alike"):
        Reader(encode, KNOWN, {"text": ["weather"], "intent": [OUT_OF_SCOPE]})
    with pytest.raises(ValueError, match="intent"):
        Reader(encode, {"text": ["a"], "label": [0]}, HELD_OUT)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_the_service_chooses_as_the_reply_does(reader, opinions, threshold):
    assistant = ServedAssistant(reader, ANSWERS, threshold=threshold, opinions=opinions)
    texts = [*HELD_OUT["text"], *KNOWN["text"], "", "battery battery"]  # the last names no product
    weights = assistant.predict_proba(texts)
    np.testing.assert_allclose(weights.sum(1), 1)
    for text, row in zip(texts, weights, strict=True):
        found = assistant.reply(text)
        assert assistant.labels[row.argmax()] == (HAND_OVER if found.handed_over else found.intent)
    assert assistant.predict_proba([]).shape == (0, 5)


def test_a_chat_begins_with_questions(reader):
    assistant = Assistant(reader, ANSWERS, threshold=0.5)
    assert [text for text, _ in Chat(assistant, ["refund please"]).turns] == ["refund please"]
    with pytest.raises(TypeError, match="string"):
        Chat(assistant, "hi you")


def test_behind_the_service(reader):
    with Served(ServedAssistant(reader, ANSWERS, threshold=0.5)) as service:
        client = Client(service.url)
        status, said = client.ask("/v1/classify", {"texts": ["refund please", "weather", ""]})
        refused, why = client.ask("/v1/classify", {"text": "x" * 200_000})
        client.close()
    assert status == 200 and [each["label"] for each in said["answers"]] == ["refund", HAND_OVER, HAND_OVER]
    assert refused in (413, 422) and "detail" in why


def test_details_are_the_replies_of_the_same_reading(reader, opinions):
    """The encoder is asked once, for the weights and for what is told"""
    assistant = ServedAssistant(reader, ANSWERS, threshold=0.5, opinions=opinions)
    texts = ["Please refund me", "weather", "", "nokia battery"]
    expected = [asdict(found) for found in assistant.replies(texts)]
    calls, reader.encode = [], lambda rows: (calls.append(len(rows)), encode(rows))[1]
    rows, details = assistant.predict_with_details(texts)
    assert calls == [3] and details == expected == json.loads(json.dumps(details))
    np.testing.assert_array_equal(rows, assistant.predict_proba(texts))
    rows, details = assistant.predict_with_details([])
    assert rows.shape == (0, 5) and details == []


class Asked:
    "What a chat needs of an assistant, from a service"

    def __init__(self, url):
        self.client = Client(url)

    def reply(self, text):
        status, said = self.client.ask("/v1/classify", {"text": text})
        return Reply(**said["answers"][0]["details"]) if status == 200 else Reply(str(said["detail"]), "", 0.0, "", True)


def test_a_chat_behind_the_service_says_what_the_assistant_says(reader, opinions):
    assistant = ServedAssistant(reader, ANSWERS, threshold=0.5, opinions=opinions)
    questions = ["Please refund me", "weather", "", "nokia battery", "“¿?” \U0001f600 battery of the canon"]
    with Served(assistant) as service:
        chat = Chat(Asked(service.url), questions)
        assert chat.ask("x" * 200_000).handed_over and "not read" in chat.content()
        chat.assistant.client.close()
    near = [assistant.reply(text) for text in questions]
    assert [replace(found, confidence=0) for _, found in chat.turns[:-1]] == [replace(found, confidence=0) for found in near]
    assert [found.confidence for _, found in chat.turns[:-1]] == pytest.approx([found.confidence for found in near])
    assert "the battery is weak" in chat.turns[3][1].answer and not chat.turns[3][1].handed_over


def test_the_module_needs_no_library_of_the_lessons():
    """bm25s is what the page compares itself with; the module does without"""
    code = ("import sys\nclass Gone:\n    def find_spec(self, name, *_):\n        if name.split('.')[0] == 'bm25s':\n"
            "            raise ModuleNotFoundError(name)\nsys.meta_path.insert(0, Gone())\n"
            "import llm_course.customer_service\nprint('fine')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(ROOT))
    assert done.stdout.strip() == "fine", done.stderr[-2000:]
