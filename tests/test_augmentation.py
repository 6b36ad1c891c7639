"""Augmenters: one result for a text, its position and a seed; what stays; bad input; models from a folder."""

import shutil
import tempfile
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from families import model_folder, without_ends
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, T5Config

from llm_course.augmentation import (
    BackTranslation,
    Compose,
    ContextualReplacement,
    Marian,
    Mixup,
    NearSynonymReplacement,
    OneOf,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
    TypingNoise,
    augment_dataset,
    easy_data_augmentation,
)
from llm_course.data import load_dataset
from llm_course.embeddings import input_embeddings
from llm_course.gaps import GapFiller
from llm_course.models import SentenceEncoder, TextClassifier
from llm_course.words import NEGATIONS, may_change, split_words

ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)
ENGLISH = st.lists(st.sampled_from("""The film was not good , and never boring ! I LOVED it: 3.5 stars https://a.org @anna <br/> &amp;
 a an Great acting naïve don't café 好 🙂 actors stopped begins wonderful""".split()), max_size=25).map(" ".join)
TEXTS = st.lists(ANY | ENGLISH, max_size=8)
A_FEW = st.lists(ANY | ENGLISH, min_size=2, max_size=4)  # for what takes a model or a process
SEEDS = st.integers(0, 2**40)
FRACTIONS = st.sampled_from([0.0, 0.1, 0.5, 1.0])
LABELS = ("negative", "positive")
WORD_KINDS = (SynonymReplacement, RandomInsertion, RandomSwap, RandomDeletion, TypingNoise)
some = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
few = settings(some, max_examples=8)
fewest = settings(some, max_examples=4)  # a second or more each
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


@fewest
@given(texts=A_FEW, seed=SEEDS, cut=st.integers(0, 4), batch_size=st.integers(1, 3))
def test_near_synonyms_depend_on_text_position_and_seed(encoder, texts, seed, cut, batch_size):
    assert_same_in_any_batches(NearSynonymReplacement(0.3, encoder=encoder), texts, seed, cut, batch_size)


@few
@given(texts=TEXTS, seed=SEEDS, cut=st.integers(0, 8), batch_size=st.integers(1, 5))
def test_contextual_replacement_depends_on_text_position_and_seed(masked_model, texts, seed, cut, batch_size):
    assert_same_in_any_batches(ContextualReplacement(0.3, model_name=masked_model), texts, seed, cut, batch_size)


def test_the_label_in_front_is_read_and_not_returned(masked_model, monkeypatch):
    read, fill_gaps = [], GapFiller.fill

    def watched(filler, drafts, seeds):
        read.extend(pieces[1] for pieces, gaps in drafts if 1 not in gaps)
        fill_gaps(filler, drafts, seeds)

    monkeypatch.setattr(GapFiller, "fill", watched)
    texts, labels = list(load_dataset("movies")["test"]["text"][:6]), [0, 1, 0, 1, 0, 1]
    fill = ContextualReplacement(0.3, model_name=masked_model, condition="label", names=LABELS)
    copies = [row[0] for row in fill.augment(texts, labels=labels)]
    assert all(split_words(copy)[0::2] == split_words(text)[0::2] for text, copy in zip(texts, copies, strict=True))
    assert sorted(read) == sorted(LABELS[label] for label in labels)  # in front, and never a gap
    more = augment_dataset({"text": texts, "label": labels}, fill, progress=False)
    assert [row["text"] for row in more if row["augmented"]] == copies and more["label"][:2] == [0, 0]
    for wrong in ({}, {"labels": [0]}, {"labels": [2] * 6}):
        with pytest.raises(ValueError, match="label"):
            fill.augment(texts, **wrong)
    with pytest.raises(ValueError, match="know the labels"):
        OneOf([fill]).augment(texts)
    for wrong in ({"condition": "length"}, {"condition": "label"}, {"names": LABELS}):
        with pytest.raises(ValueError, match="condition must be"):
            ContextualReplacement(model_name=masked_model, **wrong)


needs_apertium = pytest.mark.skipif(shutil.which("apertium") is None, reason="Apertium is not installed")


@needs_apertium
@fewest
@given(texts=A_FEW, cut=st.integers(0, 4), batch_size=st.integers(1, 3))
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
                article = {changed[place].lower(), pieces[place].lower()} == {"a", "an"}  # it agrees with a new word
                assert changed[place] == pieces[place] or (article and kind is SynonymReplacement)
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


@pytest.mark.parametrize("kind", [SynonymReplacement, RandomDeletion])
def test_one_text_of_ten_megabytes(kind):
    text = ("The gorgeous film was not boring, and we loved each minute of it. " * 160_000)[:10_000_000]
    copy = kind(0.1).augment([text])[0][0]
    assert copy != text and abs(len(copy) - len(text)) < 0.2 * len(text)


def test_a_stream_holds_one_batch_at_a_time():
    read, held = [], []

    def source():
        for i in range(1000):
            read.append(i)
            yield f"A gorgeous film number {i}"

    for done, _ in enumerate(SynonymReplacement().stream(source(), batch_size=16), 1):
        held.append(len(read) - done)
    assert len(held) == 1000 and max(held) == 15


@pytest.mark.parametrize("make", [lambda: ContextualReplacement(model_name="no/model"),
                                  lambda: BackTranslation(Marian("no/model"), Marian("no/model"))])
def test_hub_model_without_network(make):
    with pytest.raises(ConnectionError, match=r"no/model.*Check the name and the network"):
        make().augment(["A fine film"])


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


@pytest.mark.parametrize(("kind", "family"), [("bert", "WordPiece"), ("roberta", "byte-level"), ("electra", "WordPiece"),
                                              ("gpt2", "byte-level"), ("llama", "sentencepiece"), ("opt", "byte-level")])
def test_a_mixture_is_read_to_the_end_of_its_longer_text(kind, family, tmp_path):
    """The loss of a batch of several lengths is that of its mixtures one by one, where nothing is padded"""
    decoder = kind in ("gpt2", "llama", "opt")
    more = {"ffn_dim": 16, "word_embed_proj_dim": 16} if kind == "opt" else {}
    folder = model_folder(tmp_path, kind, family, names=LABELS, tokenizer=without_ends(family) if decoder else None, **more)
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    model, layer = classifier.model.eval(), input_embeddings(classifier.model)
    token_ids, targets = classifier.tokenize(["Dull.", "A long and gorgeous film about people.", "Not a dull film."])[0], [0, 1, 1]
    torch.manual_seed(1)
    loss = Mixup(0.5)(model, {**classifier.pad(token_ids), "targets": torch.tensor(targets)}, lambda loss: loss.backward())
    torch.manual_seed(1)
    shares, alone = torch.distributions.Beta(0.5, 0.5).sample((3,)), []
    others = torch.randperm(3).tolist()
    assert others != [0, 1, 2] and layer.weight.grad.isfinite().all() and layer.weight.grad.any()
    for row, (other, share) in enumerate(zip(others, shares.tolist(), strict=True)):
        mixture = torch.zeros(1, max(len(token_ids[row]), len(token_ids[other])), layer.weight.shape[1])
        for text, part in ((row, max(share, 1 - share)), (other, min(share, 1 - share))):
            mixture[0, : len(token_ids[text])] += part * layer(torch.tensor(token_ids[text])).detach()
        logits = model(inputs_embeds=mixture, attention_mask=torch.ones(mixture.shape[:2], dtype=torch.long)).logits
        first, second = (F.cross_entropy(logits, torch.tensor([targets[text]])).item() for text in (row, other))
        alone.append(max(share, 1 - share) * first + min(share, 1 - share) * second)
    assert loss == pytest.approx(sum(alone) / 3, rel=1e-4)


def test_mixup_refuses_an_encoder_with_a_decoder():
    model = AutoModelForSequenceClassification.from_config(T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0, num_labels=2))
    batch = {"input_ids": torch.tensor([[5, 1]]), "attention_mask": torch.ones(1, 2), "targets": torch.tensor([0])}
    with pytest.raises(TypeError, match="t5 has an encoder and a decoder"):
        Mixup()(model, batch, lambda loss: None)
