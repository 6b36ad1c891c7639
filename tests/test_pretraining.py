"""Pre-training from outside: what is refused, what the three questions ask, and what must not change a run."""

import json
import math
import random
import re
import shutil
import sys
import warnings
from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from conftest import ROOT, run_tool
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm_course.answers.base import EXERCISES, load_answers
from llm_course.callbacks import Callback
from llm_course.data import load_dataset
from llm_course.language_models import LanguageModel, new_language_model
from llm_course.models import TextClassifier
from llm_course.pretraining import (ALGORITHMS, SPECIAL_TOKENS, Bigram, CausalLanguageModelling, MaskedLanguageModelling,
                                    SpanCorruption, guess, objective_for, pretrain, token_blocks, train_tokenizer)

RESULT = ROOT / "benchmarks/results/pretraining.json"
some = settings(max_examples=40, deadline=None, derandomize=True)
SHAPES = ("bert", "gpt", "t5")
TEXTS = list(load_dataset("movies")["train"]["text"][:240])
OTHERS = list(load_dataset("movies")["validation"]["text"][:40])


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400)


def small(shape: str, **changed: object) -> LanguageModel:
    "A model that has learnt nothing, on the CPU"
    sizes = {"size": 16, "layers": 2, "heads": 2, "positions": 32, "device": "cpu", **changed}
    return new_language_model(shape, sizes.pop("tokenizer", None) or tokenizer(), **sizes)


def trained(shape: str, texts: list[str] = TEXTS[:60], validation: list[str] | None = None, **changed: object):
    "A run of a few steps"
    options = {"progress": False, "learning_rate": 3e-3, "epochs": 2, **changed}
    return pretrain(options.pop("model", None) or small(shape), texts, validation, **options)


def weights(run) -> dict[str, torch.Tensor]:
    return run.language_model.model.state_dict()


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_mask() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer, pad_token="[PAD]", eos_token="[SEP]")


def without_sentinels() -> PreTrainedTokenizerFast:
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=train_without_sentinels(), eos_token="[SEP]", **names)


def train_without_sentinels():
    backend, trainer, options = ALGORITHMS["byte-pair"]()
    backend.train_from_iterator(TEXTS, trainer(vocab_size=300, special_tokens=list(SPECIAL_TOKENS), show_progress=False, **options))
    return backend


BAD = {
    "share 0": (lambda: MaskedLanguageModelling(tokenizer(), 0), ValueError, "share must be above 0 and below 1, got 0"),
    "share 1": (lambda: MaskedLanguageModelling(tokenizer(), 1), ValueError, "share must be above 0 and below 1, got 1"),
    "an objective's name": (lambda: trained("gpt", objective="masked"), TypeError, "must be a LanguageObjective.*'masked'"),
    "an objective's class": (lambda: trained("gpt", objective=CausalLanguageModelling), TypeError, "must be a LanguageObjective"),
    "another tokenizer": (lambda: trained("gpt", objective=CausalLanguageModelling(train_tokenizer(TEXTS, 350))), ValueError,
                          "another tokenizer than the model"),
    "no validation text": (lambda: trained("gpt", validation=[]), ValueError, "no validation texts"),
    "short validation": (lambda: trained("gpt", validation=["short"]), ValueError, "needs two blocks"),
    "special tokens only": (lambda: MaskedLanguageModelling(tokenizer())(
        small("bert").model, {"input_ids": torch.full((2, 8), 3)}, lambda loss: None), ValueError, "special tokens only"),
    "no blocks": (lambda: guess(small("gpt"), torch.zeros(0, 8, dtype=torch.int64)), ValueError, "blocks must be token numbers"),
    "a list for blocks": (lambda: guess(small("gpt"), [[1, 2]]), ValueError, "blocks must be token numbers"),
    "long blocks": (lambda: guess(small("gpt"), torch.zeros(2, 40, dtype=torch.int64)), ValueError, "reads 32 tokens at once"),
    "an unknown token": (lambda: guess(small("gpt"), torch.full((2, 8), 4000)), ValueError, "numbered up to 4000"),
    "a small table": (lambda: Bigram(torch.tensor([[1, 2, 9]]), 5), ValueError, "vocabulary is 5, but a token has the number 9"),
    "empty texts": (lambda: train_tokenizer(["", " "]), ValueError, "no text to learn pieces from"),
    "top-p 1.5": (lambda: small("gpt").generate("a", top_p=1.5), ValueError, "top_p must be a number from 0 to 1"),
    "top-p 0": (lambda: small("gpt").generate("a", top_p=0), ValueError, "top_p must be above 0"),
    "top-k": (lambda: small("gpt").generate("a", top_k=2.5), ValueError, "top_k must be"),
    "dropout 1": (lambda: small("gpt", dropout=1.0), ValueError, "dropout must be below 1"),
    "share 1.5": (lambda: MaskedLanguageModelling(tokenizer(), 1.5), ValueError, "share must be .*1.5"),
    "share nan": (lambda: MaskedLanguageModelling(tokenizer(), math.nan), ValueError, "share must be .*nan"),
    "share a": (lambda: MaskedLanguageModelling(tokenizer(), "a"), ValueError, "share must be .*'a'"),
    "shares": (lambda: MaskedLanguageModelling(tokenizer(), masked=0.8, random=0.3), ValueError, "shares of the same tokens"),
    "share of spans": (lambda: SpanCorruption(tokenizer(), 1.0), ValueError, "share must be above 0 and below 1"),
    "span": (lambda: SpanCorruption(tokenizer(), span=0.5), ValueError, "span must be a number of at least 1, got 0.5"),
    "long spans": (lambda: SpanCorruption(tokenizer(), span=9).counts(32), ValueError, "A block of 32 tokens is too short"),
    "spans side by side": (lambda: SpanCorruption(tokenizer(), 0.9, 1).counts(20), ValueError, "too short"),
    "sentinels": (lambda: SpanCorruption(tokenizer(), 0.5, 1).counts(80), ValueError, "loses 40 spans.* 32 sentinels"),
    "no sentinels": (lambda: SpanCorruption(without_sentinels()).counts(40), ValueError, "has 0 sentinels"),
    "no tokenizer": (lambda: CausalLanguageModelling(["a"]), TypeError, "tokenizer must be a tokenizer, got list"),
    "no mask": (lambda: MaskedLanguageModelling(without_mask()), ValueError, "no token for a mask"),
    "alphabet": (lambda: train_tokenizer(TEXTS, 290), ValueError, "vocabulary is 290, but 37 special tokens .* 293"),
    "alphabet of pieces": (lambda: train_tokenizer(TEXTS, 60, algorithm="wordpiece"), ValueError, "vocabulary is 60, but 37"),
    "algorithm": (lambda: train_tokenizer(TEXTS, 400, algorithm="bpe"), ValueError, "algorithm must be one of byte-pair, wordpiece, got 'bpe'"),
    "a string": (lambda: train_tokenizer("a text", 400), TypeError, "got one string"),
    "numbers": (lambda: train_tokenizer([1, 2], 400), TypeError, "Text 0 is 1, not a string"),
    "vocabulary": (lambda: train_tokenizer(TEXTS, 0), ValueError, "vocabulary must be a whole number of at least 1"),
    "one short text": (lambda: pretrain(small("gpt"), ["A film."]), ValueError, "1 text make .* needs two blocks of 32"),
    "no texts": (lambda: pretrain(small("gpt"), []), ValueError, "0 texts make 0 tokens"),
    "a string to train on": (lambda: pretrain(small("gpt"), "A film."), TypeError, "got one string"),
    "numbers to train on": (lambda: pretrain(small("gpt"), [1.5] * 99), TypeError, "Text 0 is 1.5"),
    "numbers to validate on": (lambda: pretrain(small("gpt"), TEXTS, [1.5] * 99), TypeError, "Text 0 is 1.5"),
    "heads": (lambda: small("bert", size=10, heads=4), ValueError, "10 numbers cannot be cut into 4"),
    "layers": (lambda: small("t5", layers=1), ValueError, "2 layers or more"),
    "dropout": (lambda: small("bert", dropout=1.5), ValueError, "dropout must be .*1.5"),
    "shape": (lambda: small("llama"), ValueError, "shape must be one of bert, gpt, t5, got 'llama'"),
    "another kind": (lambda: pretrain(small("gpt"), TEXTS, objective=MaskedLanguageModelling(tokenizer())), ValueError,
                     "MaskedLanguageModelling is for masked models, and this one is causal; use CausalLanguageModelling"),
    "spans too long to train": (lambda: pretrain(small("t5"), TEXTS, objective=SpanCorruption(tokenizer(), span=9)), ValueError,
                                "too short"),
    "bundled name": (lambda: LanguageModel.from_pretrained("tiny-brt"), ValueError, "Did you mean 'tiny-bert'"),
    "no such name": (lambda: LanguageModel.from_pretrained("nobody/nothing-here"), ConnectionError, "No model 'nobody/nothing-here'"),
    "kind": (lambda: LanguageModel.from_pretrained("minilm", kind="decoder"), ValueError, "kind must be one of masked, causal, spans, got 'decoder'"),
    "writing": (lambda: small("bert").generate("A film"), ValueError, "A masked model does not write on"),
    "long prompt": (lambda: small("gpt").generate("film " * 40), ValueError, "the model reads 32 at most"),
    "temperature": (lambda: small("gpt").generate("A film", temperature=0), ValueError, "temperature must be .*above 0"),
    "discount": (lambda: Bigram(torch.ones(2, 4).long(), 4, discount=2), ValueError, "discount must be .*2"),
    "batch size": (lambda: guess(small("gpt"), torch.ones(2, 8).long(), batch_size=0), ValueError, "batch_size must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_is_wrong(name):
    wrong, kind, words = BAD[name]
    with pytest.raises(kind, match=words):
        wrong()


def test_a_classifier_guesses_no_tokens(tmp_path):
    trained("bert", epochs=1).save(tmp_path / "model")
    TextClassifier.from_pretrained(tmp_path / "model", labels=["bad", "good"]).save(tmp_path / "classifier")
    with pytest.raises(ValueError, match="RoFormerForSequenceClassification, which guesses no tokens"):
        LanguageModel.from_pretrained(tmp_path / "classifier")


class StopAfter(Callback):
    def __init__(self, steps: int):
        self.steps = steps

    def on_step(self, run):
        if len(run.steps) == self.steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stopped_run_goes_on_bit_for_bit(shape, tmp_path):
    told = {"batch_size": 8, "checkpoint_every": 2, "checkpoints": tmp_path, "resume": "auto"}
    whole = trained(shape, validation=OTHERS, batch_size=8)
    with pytest.warns(UserWarning, match="Interrupted after 5 of"):
        first = trained(shape, validation=OTHERS, callbacks=[StopAfter(5)], **told)
    assert first.interrupted and len(first.steps) == 5 and not same(weights(first), weights(whole))
    assert not first.language_model.model.training
    second = trained(shape, validation=OTHERS, **told)
    assert same(weights(second), weights(whole)) and not second.interrupted
    assert [row["loss"] for row in second.steps] == [row["loss"] for row in whole.steps]
    assert [row["loss"] for row in second.evaluations] == [row["loss"] for row in whole.evaluations]
    other = {"bert": MaskedLanguageModelling(tokenizer(), 0.3), "t5": SpanCorruption(tokenizer(), 0.3), "gpt": None}[shape]
    with pytest.raises(ValueError, match=r"cannot go on with.*training data"):
        trained(shape, [*TEXTS[:59], "Another text."], OTHERS, **told)
    with pytest.raises(ValueError, match=r"cannot go on with.*training data"):
        trained(shape, TEXTS[:60][::-1], OTHERS, **told)
    with pytest.raises(ValueError, match=r"cannot go on with.*validation data"):
        trained(shape, validation=OTHERS[1:], **told)
    if other:
        with pytest.raises(ValueError, match=r"cannot go on with.*share"):
            trained(shape, validation=OTHERS, objective=other, **told)


@pytest.mark.parametrize("shape", SHAPES)
def test_looking_does_not_change_training(shape):
    plain, looked = trained(shape, batch_size=8), trained(shape, validation=OTHERS[:5], batch_size=8, evaluate_every=2)
    assert same(weights(plain), weights(looked)) and len(looked.evaluations) >= len(looked.steps) // 2 > 9
    random.seed(5), torch.manual_seed(5)  # nor does what others drew
    assert same(weights(trained(shape, batch_size=8)), weights(plain))


def by_loop(model: torch.nn.Module, objective, blocks: torch.Tensor) -> float:
    "The mean surprise of what is asked, in plain Python, one block and one place after another"
    asked, found = objective.questions(blocks), []
    for row, answers in enumerate(asked.answers.tolist()):
        inputs = {name: value[row : row + 1] for name, value in asked.inputs.items()}
        for place, answer in enumerate(answers):
            if answer >= 0:
                scores = model(**inputs).logits[0, place].tolist()
                highest = max(scores)
                found.append(highest + math.log(sum(math.exp(score - highest) for score in scores)) - scores[answer])
    return sum(found) / len(found)


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient_by_a_loop_and_by_differences(shape):
    language_model = small(shape, size=8, positions=24, dropout=0.0)
    model, objective = language_model.model.double(), objective_for(language_model, None)
    blocks = token_blocks(tokenizer(), TEXTS[:20], 24)[:3]
    torch.manual_seed(3)
    loss = objective(model, {"input_ids": blocks}, lambda value: value.backward())
    torch.manual_seed(3)
    with torch.no_grad():
        assert loss == pytest.approx(by_loop(model, objective, blocks), rel=1e-5)  # the scores are read in float32
        for name, weight in model.named_parameters():
            if not weight.requires_grad:  # the angles of rotary positions
                continue
            gradient, step = weight.grad, 3e-4
            place = gradient.abs().argmax().item()
            if gradient.flatten()[place].abs() < 1e-4:
                continue
            values = []
            for sign in (1, -1):
                weight.view(-1)[place] += sign * step
                torch.manual_seed(3)
                values.append(objective_in_double(model, objective, blocks))
                weight.view(-1)[place] -= sign * step
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient.flatten()[place].item(), rel=2e-3, abs=3e-6), name


def objective_in_double(model: torch.nn.Module, objective, blocks: torch.Tensor) -> float:
    asked = objective.questions(blocks)
    return F.cross_entropy(model(**asked.inputs).logits.flatten(0, 1), asked.answers.flatten()).item()


@some
@given(share=st.floats(0.02, 0.95), span=st.floats(1, 12), length=st.integers(2, 90), rows=st.integers(1, 4), seed=st.integers(0, 99))
def test_spans_rebuild_the_block(share, span, length, rows, seed):
    objective, generator = SpanCorruption(tokenizer(), share, span), torch.Generator().manual_seed(seed)
    try:
        taken, spans = objective.counts(length)
    except ValueError:
        return
    blocks = torch.randint(37, 400, (rows, length), generator=generator)
    asked, sentinels = objective.questions(blocks, generator), objective.sentinels()
    assert asked.inputs["input_ids"].shape == (rows, length - taken + spans + 1)
    for block, shown, answers, places in zip(blocks.tolist(), asked.inputs["input_ids"].tolist(), asked.answers.tolist(),
                                             asked.places.tolist(), strict=True):
        assert shown.pop() == answers.pop() == tokenizer().eos_token_id and places.pop() == -1
        parts = {}
        for token, place in zip(answers, places, strict=True):
            if token in sentinels:
                inside, _ = parts.setdefault(token, []), place == -1 or pytest.fail("a sentinel stands in no block")
            else:
                inside.append(token)
                assert block[place] == token
        assert list(parts) == sentinels[:spans] and sum(map(len, parts.values())) == taken and all(parts.values())
        assert [token for piece in shown for token in parts.get(piece, [piece])] == block
        assert sorted(place for place in places if place >= 0) == [place for place in places if place >= 0]


@some
@given(share=st.floats(0.01, 0.99), length=st.integers(2, 80), special=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_masks_are_as_many_in_each_block_and_never_special(share, length, special, seed):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(37, 400, (5, length), generator=generator)
    hidden = torch.rand(blocks.shape, generator=generator) < special
    blocks[hidden] = torch.randint(37, (hidden.sum().item(),), generator=generator)
    asked = MaskedLanguageModelling(tokenizer(), share).questions(blocks, generator)
    places = asked.answers >= 0
    wanted = torch.minimum((blocks >= 37).sum(1), torch.tensor(max(1, round(share * length))))
    assert torch.equal(places.sum(1), wanted) and (blocks[places] >= 37).all()
    assert torch.equal(asked.answers[places], blocks[places]) and torch.equal(asked.inputs["input_ids"][~places], blocks[~places])
    assert torch.equal(asked.places >= 0, places)


def test_of_each_ten_eight_are_masked():
    blocks = token_blocks(tokenizer(), TEXTS, 32)
    asked = MaskedLanguageModelling(tokenizer(), 0.5).questions(blocks, torch.Generator().manual_seed(0))
    there = asked.answers >= 0
    shown = asked.inputs["input_ids"][there]
    assert abs((shown == tokenizer().mask_token_id).float().mean() - 0.8) < 0.02
    assert abs((shown == blocks[there]).float().mean() - 0.1) < 0.02
    alone = MaskedLanguageModelling(tokenizer(), 0.5, 1.0, 0.0).questions(blocks).inputs["input_ids"]
    assert ((alone == tokenizer().mask_token_id) | (alone == blocks)).all()


def test_causal_surprises_add_up_to_that_of_the_block():
    model, blocks = trained("gpt").language_model, token_blocks(tokenizer(), OTHERS, 32)[:7]
    found = guess(model, blocks, batch_size=3)
    with torch.no_grad():
        sure = model.model(blocks).logits.log_softmax(-1)[:, :-1].gather(2, blocks[:, 1:, None]).sum((1, 2))
    torch.testing.assert_close(torch.zeros(7).index_add(0, found.rows, found.losses), -sure)
    assert torch.equal(found.places.reshape(7, 31), torch.arange(1, 32).expand(7, 31))


@pytest.mark.parametrize("shape", SHAPES)
def test_saved_and_read_again_guesses_the_same(shape, tmp_path):
    run, blocks = trained(shape, epochs=1), token_blocks(tokenizer(), OTHERS, 32)
    run.save(tmp_path / "a")
    again = LanguageModel.from_pretrained(tmp_path / "a", device="cpu")
    assert (again.kind, again.max_length) == (run.language_model.kind, 32)
    assert torch.equal(guess(again, blocks).losses, guess(run.language_model, blocks).losses)
    assert torch.equal(token_blocks(again.tokenizer, OTHERS, 32), blocks)
    run.language_model.model.to(torch.bfloat16)
    run.save(tmp_path / "half")
    half = LanguageModel.from_pretrained(tmp_path / "half", device="cpu")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.float32}
    torch.testing.assert_close(guess(half, blocks).losses, guess(again, blocks).losses, atol=0.1, rtol=0.02)
    assert len(trained(shape, model=half, epochs=1).steps)  # it trains on in float32


def test_guesses_do_not_depend_on_batches_or_on_the_mode():
    model, blocks = small("bert"), token_blocks(tokenizer(), OTHERS, 32)[:9]
    alone = MaskedLanguageModelling(tokenizer(), masked=1.0, random=0.0)
    found = guess(model, blocks, alone)
    model.model.train()
    assert torch.equal(found.losses, guess(model, blocks, alone).losses) and model.model.training
    a, b = guess(small("gpt"), blocks, batch_size=2), guess(small("gpt"), blocks, batch_size=9)
    torch.testing.assert_close(a.losses, b.losses)
    assert torch.equal(a.rows, b.rows) and torch.equal(a.places, b.places)
    assert not torch.equal(found.losses, guess(small("bert"), blocks, alone, seed=1).losses)


STRANGE = ["", "a [MASK] of <extra_id_0> and [PAD] [SEP]", "😀 👩‍👩‍👧 ☃", "é" * 50, "[CLS]", " ", "\n\t", "中文"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_strange_texts_and_names_of_special_tokens(algorithm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ours = train_tokenizer([*STRANGE, *TEXTS], 600, algorithm=algorithm)
    blocks, special = token_blocks(ours, STRANGE * 3, 16), set(ours.all_special_ids)
    assert len(special) == 37 and blocks.max() < len(ours)
    assert set(blocks.flatten().tolist()) & special <= {ours.cls_token_id, ours.sep_token_id, ours.unk_token_id}
    for shape in SHAPES:
        run = trained(shape, STRANGE * 9, model=small(shape, tokenizer=ours), epochs=1)
        assert all(math.isfinite(row["loss"]) for row in run.steps)


def test_byte_pairs_lose_nothing():
    for text in ("a [MASK] of <extra_id_0>", "😀 👩‍👩‍👧 ☃", "中文, naïve", "two  spaces"):
        ids = token_blocks(tokenizer(), [text] * 40, 8).flatten().tolist()
        assert tokenizer().decode(ids[1 : ids.index(tokenizer().sep_token_id)]).strip() == text.lower(), text


def test_one_text_of_100_000_characters():
    long = " ".join(TEXTS) * 4
    blocks = token_blocks(tokenizer(), [long[:100_000]], 32)
    assert blocks.numel() > 20_000 and (blocks == tokenizer().cls_token_id).sum() == 1
    assert len(trained("gpt", [long[:100_000]], epochs=1, batch_size=512).steps) == math.ceil(len(blocks) / 512)


def test_the_row_of_blocks_keeps_the_order_of_the_texts():
    row = token_blocks(tokenizer(), TEXTS, 32).flatten().tolist()
    whole = [token for text in TEXTS for token in tokenizer()(text)["input_ids"]]
    assert row == whole[: len(row)] and len(whole) - len(row) < 32
    with pytest.warns(UserWarning, match="2 of 3 validation texts are training texts"):
        trained("gpt", validation=[TEXTS[0], TEXTS[1], " ".join(OTHERS)], epochs=1)


def test_a_tokenizer_trained_twice_is_the_same_and_knows_its_words(tmp_path):
    for algorithm in ALGORITHMS:
        first, again = (train_tokenizer(TEXTS, 400, algorithm=algorithm) for _ in range(2))
        assert len(first) == len(again) == 400 and (algorithm == "wordpiece" or first.get_vocab() == again.get_vocab())
        first.save_pretrained(tmp_path / algorithm)
        read = AutoTokenizer.from_pretrained(tmp_path / algorithm)
        assert read(OTHERS)["input_ids"] == first(OTHERS)["input_ids"]
        assert [first.convert_ids_to_tokens(number) for number in range(5)] == list(SPECIAL_TOKENS)


def test_merges_of_the_exercise_are_those_of_the_trainer():
    load_answers(3)
    from llm_course.answers.pretraining import _next_merge  # the checker's own
    counts = {}
    for text in TEXTS[:80]:
        for word in re.findall("[a-z]+", text.lower()):
            counts[word] = counts.get(word, 0) + 1
    words = {tuple(f"Ġ{word}"): count for word, count in counts.items()}
    rows = [word for word, count in counts.items() for _ in range(count)]
    learnt = train_tokenizer(rows, 313).backend_tokenizer  # 20 pieces more than the alphabet
    merges = [tuple(pair) for pair in json.loads(learnt.to_str())["model"]["merges"]]
    for merge in merges[:8]:
        ours, held = _next_merge(words, "byte-pair"), {}
        for word, count in words.items():
            for left, right in pairwise(word):
                held[left, right] = held.get((left, right), 0) + count
        assert held[merge] == held[ours]  # of equals another may come first
        words = {joined(word, merge): count for word, count in words.items()}
    assert "the next merge" in EXERCISES


def joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    "The word, with the pair as one piece"
    found = []
    for piece in word:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return tuple(found)


@some
@given(seed=st.integers(0, 99), discount=st.floats(0, 1), size=st.integers(2, 9))
def test_pairs_are_probabilities(seed, discount, size):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(size, (3, 7), generator=generator)
    pairs = Bigram(blocks, size + 1, discount=discount)
    every = torch.arange(size + 1)
    for left in range(size + 1):
        torch.testing.assert_close(pairs.after(torch.full_like(every, left), every).sum(), torch.tensor(1.0))
        if discount > 0.01:  # else nothing may be left for what was not seen
            total = pairs.between(torch.full_like(every, left), every, torch.full_like(every, 1)).sum()
            torch.testing.assert_close(total, torch.tensor(1.0))


def test_writing_is_seeded_and_leaves_the_random_state_alone():
    model = trained("gpt").language_model
    torch.manual_seed(1)
    before = torch.get_rng_state()
    texts = [model.generate("The film", tokens=8, seed=seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2] and torch.equal(before, torch.get_rng_state())
    assert all(text.startswith("the film") for text in texts)
    assert model.generate("The film", tokens=8, top_k=1) == model.generate("The film", tokens=8, temperature=1e-4, seed=9)
    assert isinstance(model.generate("", tokens=99), str)


@pytest.mark.slow
def test_the_benchmark_runs_whole_at_small_size():
    before = RESULT.read_bytes()
    output = run_tool(sys.executable, ROOT / "benchmarks/pretraining.py", "--small", timeout=900, PYTHONWARNINGS="ignore",
                      HF_HUB_OFFLINE="1")
    parts = {line.split()[0] for line in output.splitlines() if line.strip()}
    assert {"rates", "seeds", "bundled", "sizes", "fine_rates", "transfer", "domain"} <= parts
    assert RESULT.read_bytes() == before


@pytest.mark.slow
def test_the_same_call_builds_the_same_bytes(tmp_path):
    """The bundled models are built by this tool, with more passes"""
    built = []
    for name in ("one", "two"):
        run_tool(sys.executable, ROOT / "tools/build_models.py", "tiny-t5", "--passes", "1", "--folder", tmp_path / name,
                 "--checkpoints", tmp_path / f"checkpoints-{name}", timeout=900, HF_HUB_OFFLINE="1")
        built.append({path.name: path.read_bytes() for path in (tmp_path / name / "tiny-t5").iterdir()})
    assert built[0] == built[1] and len(built[0]) == 4


def test_the_bundled_models_are_what_was_built():
    """Names, sizes and precision of the files, and the run on file"""
    models = json.loads((ROOT / "benchmarks/results/tiny_models.json").read_text())["models"]
    assert sorted(models) == ["tiny-bert", "tiny-gpt", "tiny-t5"]
    for name, row in models.items():
        folder = ROOT / "llm_course/assets" / name
        assert sum(path.stat().st_size for path in folder.iterdir()) == row["bytes"] < 4_000_000
        held = load_file(folder / "model.safetensors")
        assert {weight.dtype for weight in held.values()} == {torch.bfloat16}
        model = LanguageModel.from_pretrained(name, device="cpu")
        assert model.parameters == row["parameters"] <= 1_200_000 and model.model.dtype == torch.float32
        assert model.max_length == 128 and len(model.tokenizer) == 4096
        losses = [each["loss"] for each in row["evaluations"]]
        assert len(losses) == row["passes"] and min(losses) < losses[0] - 0.5


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt", "tiny-t5"])
def test_a_bundled_model_becomes_a_classifier(name):
    classifier = TextClassifier.from_pretrained(name, labels=["bad", "good"], device="cpu", seed=1)
    texts = ["a good film", "", "not good, not bad " * 10, "🙂 été"]
    together, alone = classifier.logits(texts), torch.cat([classifier.logits([text]) for text in texts])
    assert together.shape == (4, 2) and torch.allclose(together, alone, atol=1e-5)
    again = TextClassifier.from_pretrained(name, labels=["bad", "good"], device="cpu", seed=1)
    assert torch.equal(again.logits(texts), together)


def test_a_damaged_tiny_model_is_named(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "llm_course/assets", tmp_path / "assets")
    weights = tmp_path / "assets/tiny-gpt/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
    monkeypatch.setattr("llm_course.models.assets_folder", lambda: tmp_path / "assets")
    monkeypatch.setattr("llm_course.data.assets_folder", lambda: tmp_path / "assets")
    with pytest.raises(ValueError, match=r"tiny-gpt.model\.safetensors is damaged.*Reinstall llm_course"):
        LanguageModel.from_pretrained("tiny-gpt")
