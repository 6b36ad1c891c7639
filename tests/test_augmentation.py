"""Augmenters: one result for a text, its position and a seed; what stays; bad input; models from a folder."""

import json
import shutil
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, MarianConfig, MarianMTModel, MarianTokenizer

from llm_course import augmentation
from llm_course.augmentation import (
    Apertium,
    BackTranslation,
    Compose,
    ContextualReplacement,
    Marian,
    NearSynonymReplacement,
    OneOf,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
    TypingNoise,
    UnchangedTexts,
    augment_dataset,
    easy_data_augmentation,
)
from llm_course.data import load_dataset
from llm_course.models import SentenceEncoder
from llm_course.words import NEGATIONS, may_change, split_words

ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)
ENGLISH = st.lists(st.sampled_from("""The film was not good , and never boring ! I LOVED it: 3.5 stars https://a.org @anna <br/> &amp;
 a an Great acting naïve don't café 好 🙂 actors stopped begins wonderful""".split()), max_size=25).map(" ".join)
TEXTS = st.lists(ANY | ENGLISH, max_size=8)
SEEDS = st.integers(0, 2**40)
FRACTIONS = st.sampled_from([0.0, 0.1, 0.5, 1.0])
WORD_KINDS = (SynonymReplacement, RandomInsertion, RandomSwap, RandomDeletion, TypingNoise)
some = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
few = settings(some, max_examples=8)
pytestmark = pytest.mark.filterwarnings("ignore::llm_course.augmentation.UnchangedTexts")


def assert_same_in_any_batches(augmenter, texts, seed, cut, batch_size):
    "Whole, in two parts, and as a stream"
    whole = augmenter.augment(texts, n=2, seed=seed)
    cut = min(cut, len(texts))
    parts = augmenter.augment(texts[:cut], n=2, seed=seed) + augmenter.augment(texts[cut:], n=2, seed=seed, start=cut)
    assert parts == whole
    assert list(augmenter.stream(iter(texts), n=2, seed=seed, batch_size=batch_size)) == whole


@pytest.mark.parametrize("kind", WORD_KINDS)
@some
@given(texts=TEXTS, seed=SEEDS, cut=st.integers(0, 8), batch_size=st.integers(1, 5), fraction=FRACTIONS)
def test_word_augmenters_depend_on_text_position_and_seed(kind, texts, seed, cut, batch_size, fraction):
    assert_same_in_any_batches(kind(fraction), texts, seed, cut, batch_size)


@some
@given(texts=TEXTS, seed=SEEDS, cut=st.integers(0, 8), batch_size=st.integers(1, 5))
def test_combinations_depend_on_text_position_and_seed(texts, seed, cut, batch_size):
    augmenter = OneOf([Compose([SynonymReplacement(0.5), TypingNoise(0.2)]), easy_data_augmentation(0.4)], [1, 2])
    assert_same_in_any_batches(augmenter, texts, seed, cut, batch_size)


@few
@given(texts=TEXTS, seed=SEEDS, cut=st.integers(0, 8), batch_size=st.integers(1, 5))
def test_near_synonyms_depend_on_text_position_and_seed(encoder, texts, seed, cut, batch_size):
    assert_same_in_any_batches(NearSynonymReplacement(0.3, encoder=encoder), texts, seed, cut, batch_size)


@few
@given(texts=TEXTS, seed=SEEDS, cut=st.integers(0, 8), batch_size=st.integers(1, 5))
def test_contextual_replacement_depends_on_text_position_and_seed(masked_model, texts, seed, cut, batch_size):
    assert_same_in_any_batches(ContextualReplacement(0.3, model_name=masked_model), texts, seed, cut, batch_size)


needs_apertium = pytest.mark.skipif(shutil.which("apertium") is None, reason="Apertium is not installed")


@needs_apertium
@few
@given(texts=TEXTS, cut=st.integers(0, 8), batch_size=st.integers(1, 5))
def test_apertium_translates_each_text_alike_in_any_batch(texts, cut, batch_size):
    assert_same_in_any_batches(BackTranslation(), texts, 0, cut, batch_size)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_do_not_change_the_copies(processes, encoder):
    texts = [*load_dataset("movies")["test"]["text"][:37], "", "🙂", "好"]
    data = Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(len(texts))]})
    augmenter = OneOf([easy_data_augmentation(), TypingNoise()])
    one = augment_dataset(data, augmenter, n=2, seed=5, progress=False)
    many = augment_dataset(data, augmenter, n=2, seed=5, batch_size=4, processes=processes, progress=False)
    assert many.to_list() == one.to_list()


@some
@given(text=ENGLISH | ANY, seed=SEEDS, fraction=FRACTIONS)
def test_gaps_and_protected_words_stay(text, seed, fraction):
    pieces = split_words(text)
    for kind in (SynonymReplacement, TypingNoise):
        copy = kind(fraction, ["film", "ACTING"]).augment([text], seed=seed)[0][0]
        changed = split_words(copy)
        assert len(changed) == len(pieces) and changed[0::2] == pieces[0::2]
        for place in range(1, len(pieces), 2):
            if not may_change(pieces, place, frozenset({"film", "acting"})):
                assert changed[place] == pieces[place]
            else:
                assert changed[place].islower() == pieces[place].islower()


@some
@given(text=ENGLISH | ANY, seed=SEEDS, fraction=FRACTIONS, kind=st.sampled_from(WORD_KINDS))
def test_negations_are_never_lost(text, seed, fraction, kind):
    def negations(words: list[str]) -> Counter:
        return Counter(word for word in words if word.lower() in NEGATIONS)

    copy = kind(fraction).augment([text], seed=seed)[0][0]
    assert negations(split_words(text)[1::2]) <= negations(split_words(copy.replace(" ", " \n "))[1::2])


@some
@given(text=ENGLISH | ANY, seed=SEEDS)
def test_copies_differ_wherever_a_word_may_change(text, seed):
    pieces = split_words(text)
    may = [place for place in range(1, len(pieces), 2) if may_change(pieces, place)]
    deleted, typed = (kind(0.1).augment([text], seed=seed)[0][0] for kind in (RandomDeletion, TypingNoise))
    assert (deleted != text) == (bool(may) and len(pieces) > 3)
    assert (typed != text) == any(len(pieces[place]) >= 4 for place in may)
    swapped = RandomSwap(0.1).augment([text], seed=seed)[0][0]
    assert (swapped != text) == (len({pieces[place].lower() for place in may}) > 1)


@pytest.mark.parametrize("kind", WORD_KINDS)
def test_texts_that_cannot_change_are_reported(kind):
    texts = ["", "the", "🙂🙂", "!!", "3.5", "https://a.org"]
    with pytest.warns(UnchangedTexts, match="6 of 6 texts could not be changed"):
        assert kind(1.0).augment(texts) == [[text] for text in texts]


@pytest.mark.parametrize("kind", WORD_KINDS)
@pytest.mark.parametrize(("fraction", "said"), [(-0.1, "got -0.1"), (1.5, "got 1.5"), (float("nan"), "got nan"),
                                                ("0.1", "got '0.1'"), (True, "got True")])
def test_fractions_outside_are_refused(kind, fraction, said):
    with pytest.raises(ValueError, match=said):
        kind(fraction)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_number_of_copies_below_one_is_refused(n):
    with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
        SynonymReplacement().augment(["a film"], n=n)


@pytest.mark.parametrize("kind", [SynonymReplacement, RandomDeletion])
def test_one_text_of_ten_megabytes(kind):
    text = ("The gorgeous film was not boring, and we loved each minute of it. " * 160_000)[:10_000_000]
    start = time.perf_counter()
    copy = kind(0.1).augment([text])[0][0]
    assert copy != text and abs(len(copy) - len(text)) < 0.2 * len(text)
    assert time.perf_counter() - start < 300  # it ends; how fast it is, a benchmark says


def test_a_stream_holds_one_batch_at_a_time():
    read, held = [], []

    def source():
        for i in range(1000):
            read.append(i)
            yield f"A gorgeous film number {i}"

    for done, _ in enumerate(SynonymReplacement().stream(source(), batch_size=16), 1):
        held.append(len(read) - done)
    assert len(held) == 1000 and max(held) == 15


def test_missing_apertium_says_the_package(monkeypatch):
    augmentation._apertium_pairs.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FileNotFoundError, match="apt-get install apertium apertium-eng-spa"):
        BackTranslation()


@needs_apertium
def test_apertium_keeps_what_shall_stay():
    augmentation._apertium_pairs.cache_clear()
    text = "See https://a.org/x?y=1 [sic] <b>4.5</b> stars @anna ^ $ \\ {x} ~ *\nSecond line"
    spanish = Apertium("eng-spa")([text, "", "Thank you."], [0, 0, 0])
    assert spanish[1] == "" and spanish[2].endswith(".") and "gracias" in spanish[2].lower()
    for part in ("https://a.org/x?y=1", "[sic]", "<b>4.5</b>", "@anna", "^ $ \\ {x} ~ *\n"):
        assert part in spanish[0], spanish[0]


@pytest.mark.parametrize("make", [lambda: ContextualReplacement(model_name="no/model"),
                                  lambda: BackTranslation(Marian("no/model"), Marian("no/model"))])
def test_hub_model_without_network(make):
    with pytest.raises(ConnectionError, match=r"no/model.*Check the name and the network"):
        make().augment(["A fine film"])


def test_a_translator_that_loses_a_text_is_told_which():
    def loses(texts, seeds):
        return [text for text in texts if "bad" not in text]

    with pytest.raises(ValueError, match=r"returned 2 texts for 3.*Text 1, 'a bad film', alone gives 0"):
        BackTranslation(loses, loses).augment(["a good film", "a bad film", "a film"])

    def only_on_lists(texts, seeds):
        return texts[:1]

    with pytest.raises(ValueError, match="fails on lists"):
        BackTranslation(only_on_lists, only_on_lists).augment(["a", "b"])


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(device="cpu")


@pytest.fixture(scope="module")
def masked_model(encoder):
    "A tiny masked language model with random weights"
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig(vocab_size=len(encoder.tokenizer), hidden_size=16, num_hidden_layers=1,
                                   num_attention_heads=2, intermediate_size=16)).save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        yield folder


@pytest.fixture(scope="module")
def translation_model():
    "A tiny Marian model with random weights and a vocabulary of the reviews"
    with tempfile.TemporaryDirectory() as folder:
        reviews = load_dataset("movies")["test"]["text"]
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(reviews), model_prefix=f"{folder}/source",
                                                 vocab_size=400, minloglevel=2)
        pieces = sentencepiece.SentencePieceProcessor(f"{folder}/source.model")
        vocabulary = {"</s>": 0, "<unk>": 1}
        for i in range(len(pieces)):
            vocabulary.setdefault(pieces.id_to_piece(i), len(vocabulary))
        vocabulary["<pad>"] = len(vocabulary)
        path = f"{folder}/vocab.json"
        Path(path).write_text(json.dumps(vocabulary), encoding="utf-8")
        tokenizer = MarianTokenizer(f"{folder}/source.model", f"{folder}/source.model", path)
        torch.manual_seed(0)
        size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
                "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        pad = vocabulary["<pad>"]
        model = MarianMTModel(MarianConfig(vocab_size=len(vocabulary), pad_token_id=pad, decoder_start_token_id=pad,
                                           eos_token_id=0, forced_eos_token_id=0, max_position_embeddings=64, **size))
        model.save_pretrained(f"{folder}/model")
        tokenizer.save_pretrained(f"{folder}/model")
        yield f"{folder}/model"


@pytest.mark.parametrize("options", [{"beams": 2}, {"temperature": 1.0}])
def test_marian_models_translate_in_batches(translation_model, options):
    translator = Marian(translation_model, batch_size=3, max_length=12, **options)
    texts = ["A fine film.", "", "Dull.", "An endless, endless film about nothing.", "Great!"]
    found = translator(texts, [1, 2, 3, 4, 5])
    assert len(found) == 5 and found[1] == "" and all(isinstance(text, str) for text in found)
    assert [translator([text], [seed])[0] for text, seed in zip(texts, [1, 2, 3, 4, 5], strict=True)] == found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnchangedTexts)
        rows = BackTranslation(translator, translator).augment(texts, n=2)
    assert len(rows) == 5 and all(len(row) == 2 for row in rows)
    sampled = Marian(translation_model, max_length=12, temperature=1.0)
    assert len({sampled(["A fine film."], [seed])[0] for seed in range(5)}) > 1  # seeds make samples differ
