"""Objectives of adversarial training: closed forms, encoders and decoders, accumulation, two processes, bad input."""

import math
import socket
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from llm_course.adversarial_examples import SynonymAttack, TypoAttack
from llm_course.adversarial_training import (
    FGM,
    PGD,
    AdversarialAugmentation,
    BoundaryExplorer,
    FreeLB,
    RDrop,
    Smart,
    Substitutions,
    SynonymHull,
    UnlabelledTexts,
    VirtualAdversarial,
    WorstSynonyms,
    divergence,
    logits_at,
    perturbed,
    robustness_curve,
    symmetric_divergence,
    synonym_table,
)
from llm_course.data import load_dataset
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier
from llm_course.words import split_words

some = settings(max_examples=25, deadline=None, derandomize=True)
NOBODY = torch.full((40, 1, 1), -1, dtype=torch.int32)  # a table in which no word has a synonym
OBJECTIVES = {
    "FGM": lambda **ball: FGM(**ball),
    "PGD": lambda **ball: PGD(**ball, steps=2),
    "FreeLB": lambda **ball: FreeLB(**ball, steps=2),
    "virtual": lambda **ball: VirtualAdversarial(**ball),
    "SMART": lambda **ball: Smart(**ball),
    "R-Drop": lambda **ball: RDrop(),
    "hull": lambda **ball: SynonymHull(NOBODY),
}
SIZES = {"num_labels": 2, "vocab_size": 40, "pad_token_id": 0}
MODELS = {
    "BERT": lambda: BertForSequenceClassification(BertConfig(
        **SIZES, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)),
    "GPT-2": lambda: GPT2ForSequenceClassification(GPT2Config(**SIZES, n_embd=16, n_layer=2, n_head=2)),
    "Llama": lambda: LlamaForSequenceClassification(LlamaConfig(
        **SIZES, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)),
}


class SumOfEmbeddings(torch.nn.Module):
    "Logits (0, w · sum of embeddings + b)"

    def __init__(self, seed: int = 0, size: int = 4):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Embedding.from_pretrained(
            torch.randn(40, size, generator=generator, dtype=torch.float64), freeze=False)
        self.weight = torch.nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.randn((), generator=generator, dtype=torch.float64))

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, attention_mask):
        score = (self.table(input_ids) * attention_mask[..., None]).sum(1) @ self.weight + self.bias
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(score), score], -1))


def batch_of(lengths, seed: int = 0, extra: int = 0, side: str = "right") -> dict:
    "Random texts of these lengths with random labels, padded"
    generator = torch.Generator().manual_seed(seed)
    T = max(lengths) + extra
    ids, mask = torch.zeros(len(lengths), T, dtype=torch.long), torch.zeros(len(lengths), T, dtype=torch.long)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(T - length, T)
        ids[row, where] = torch.randint(1, 40, (length,), generator=generator)
        mask[row, where] = 1
    return {"input_ids": ids, "attention_mask": mask, "targets": torch.randint(2, (len(lengths),), generator=generator)}


def trained(objective, model, batch, seed: int = 0, share: float = 1.0):
    "The loss of an objective and the gradients that it leaves, as one vector"
    model.zero_grad()
    torch.manual_seed(seed)
    loss = objective(model, batch, lambda loss: (share * loss).backward())
    return loss, gradients(model)


def gradients(model) -> torch.Tensor:
    "All gradients as one vector"
    return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()])


# Closed forms


@some
@given(epsilon=st.floats(0, 2), norm=st.sampled_from(["linf", "l2"]), per_token=st.booleans(), seed=st.integers(0, 99),
       lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_losses_of_a_linear_model_are_the_worst_of_the_ball(epsilon, norm, per_token, seed, lengths):
    model, batch = SumOfEmbeddings(seed), batch_of(lengths, seed)
    ball = {"epsilon": epsilon, "norm": norm, "per_token": per_token}
    signs, count = 2 * batch["targets"] - 1, batch["attention_mask"].sum(1)

    def worst(radius):
        reach = count * model.weight.abs().sum() if norm == "linf" else (
            (count if per_token else count.sqrt()) * model.weight.norm())
        return F.softplus(-(signs * logits_at(model, batch)[:, 1] - radius * reach.float())).mean()

    clean, attacked = worst(0.0), worst(epsilon)
    for objective, expected in ((FGM(**ball), (clean + attacked) / 2), (FGM(**ball, clean_share=1.0), clean),
                                (PGD(**ball, steps=2, step_size=1e6), attacked)):
        loss, gradient = trained(objective, model, batch)
        model.zero_grad()
        expected.backward(retain_graph=True)
        assert math.isclose(loss, expected.item(), rel_tol=1e-4, abs_tol=1e-5), (objective, loss, expected)
        torch.testing.assert_close(gradient, gradients(model), rtol=1e-3, atol=1e-5)
    assert min(clean, attacked) - 1e-5 <= trained(FreeLB(**ball, steps=3), model, batch)[0] <= attacked + 1e-5


@some
@given(seed=st.integers(0, 99), steps=st.integers(1, 4))
def test_freelb_is_the_loop_of_its_definition(seed, steps):
    model, batch, objective = SumOfEmbeddings(seed), batch_of([3, 2], seed), FreeLB(epsilon=0.7, steps=steps, step_size=0.3)
    torch.manual_seed(5)
    delta, losses = objective.drawn(batch, 4), []
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        losses.append(F.cross_entropy(logits_at(model, batch, delta), batch["targets"]))
        slope, = torch.autograd.grad(losses[-1], delta, retain_graph=True)
        delta = delta + 0.3 * slope / slope.norm(dim=(1, 2), keepdim=True)
        delta = delta * (0.7 / delta.norm(dim=(1, 2), keepdim=True)).clamp(max=1)
    expected = sum(losses) / steps
    model.zero_grad()
    expected.backward()
    wanted = gradients(model)
    loss, gradient = trained(objective, model, batch, seed=5)
    assert math.isclose(loss, expected.item(), rel_tol=1e-5, abs_tol=1e-7)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [divergence, symmetric_divergence])
def test_divergences_are_torch_s(kind):
    first, second = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    expected = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    if kind is symmetric_divergence:
        expected = expected + F.kl_div(p, q, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(kind(first, second), expected)
    assert kind(first, first).abs().max() < 1e-12


def test_virtual_adversarial_training_finds_the_steepest_direction():
    model, batch = SumOfEmbeddings(3), batch_of([4, 2, 3], 3)
    z = logits_at(model, batch).detach()
    reach = 0.2 * batch["attention_mask"].sum(1).sqrt() * model.weight.norm().item()
    sides = torch.stack([divergence(z, z + torch.stack([0 * reach, side * reach], -1)) for side in (-1.0, 1.0)])
    clean = F.cross_entropy(z, batch["targets"]).item()
    for seed in range(5):
        term = trained(VirtualAdversarial(epsilon=0.2), model, batch, seed=seed)[0] - clean
        assert sides.min(0).values.mean() - 1e-4 <= term <= sides.max(0).values.mean() + 1e-4
    weightless = trained(VirtualAdversarial(epsilon=0.2, weight=0.0), model, batch)[0]
    assert math.isclose(weightless, clean, rel_tol=1e-5)


@some
@given(seed=st.integers(0, 99))
def test_the_hull_s_worst_place_is_its_best_corner(seed):
    generator = torch.Generator().manual_seed(seed)
    model, batch = SumOfEmbeddings(seed), batch_of([3, 5], seed)
    table = torch.randint(-1, 40, (40, 3, 1), generator=generator, dtype=torch.int32)
    table[0] = 39  # padding is not a word, whatever the table says
    values = (model.table.weight @ model.weight).detach()
    signs, change = 2 * batch["targets"] - 1, torch.zeros(2, dtype=torch.float64)
    for row in range(2):
        for token in batch["input_ids"][row, : batch["attention_mask"][row].sum()].tolist():
            corners = [token, *(t for t in table[token].flatten().tolist() if t >= 0)]
            change[row] += min(signs[row] * (values[corner] - values[token]) for corner in corners)
    worst = F.softplus(-(signs * logits_at(model, batch)[:, 1] + change)).mean().item()
    loss, _ = trained(SynonymHull(table, steps=30, step_size=50.0, clean_share=0.0), model, batch, seed)
    assert math.isclose(loss, worst, rel_tol=1e-3, abs_tol=1e-5)


# Words


SYNONYMS = {"film": ["movie", "picture", "docudrama"], "great": ["big", "good", "overwhelmingly"], "plot": ["story"],
            "docudrama": ["film", "movie"]}
LISTED = SynonymAttack(candidates=lambda word: SYNONYMS.get(word, []))
TEXTS = ["A great film with no plot.", "The plot of a docudrama is not great, and the film is great.", "Nothing here."]


def wordy(seed: int) -> tuple[TextClassifier, SumOfEmbeddings]:
    "The bundled tokenizer, and a linear model of its tokens in float32"
    mine, model = classifier(), SumOfEmbeddings(seed)
    generator = torch.Generator().manual_seed(seed)
    model.table = torch.nn.Embedding.from_pretrained(torch.randn(len(mine.tokenizer), 4, generator=generator), freeze=False)
    return mine, model.float()


@some
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
def test_the_written_words_are_those_that_raise_a_linear_loss_most(seed, share):
    mine, model = wordy(seed)
    substitutions, weight = Substitutions(mine, TEXTS, LISTED), model.table.weight.detach()
    values = weight @ model.weight.detach()

    def value(word: str) -> float:
        return values[mine.tokenizer(word, add_special_tokens=False)["input_ids"]].mean().item()

    for text in TEXTS:
        ids = torch.tensor(mine.tokenize([text])[0][0])
        written = substitutions.worst(ids, model.weight.detach().expand(len(ids), -1), weight, share)
        old, new = split_words(text), split_words(written)
        allowed = math.ceil(share * (len(old) // 2))
        cut = {place: mine.tokenizer(word, add_special_tokens=False)["input_ids"] for place, word in enumerate(old)}
        gains = {}  # a synonym's tokens are taken at their mean, once for each token of the old word
        for place, word in enumerate(old):
            if word.lower() in SYNONYMS and place % 2:
                times = len(cut[place])
                gains[place] = max((times * value(other) - values[cut[place]].sum().item(), other)
                                   for other in SYNONYMS[word.lower()])
        best = sorted((place for place in gains if gains[place][0] > 1e-6), key=lambda place: -gains[place][0])[:allowed]
        assert {place: new[place] for place in best} == {place: gains[place][1] for place in best}
        assert [word for place, word in enumerate(new) if place not in best] == [
            word for place, word in enumerate(old) if place not in best]


@some
@given(seed=st.integers(0, 99))
def test_worst_synonyms_train_on_the_text_and_on_the_written_one(seed):
    mine, model = wordy(seed)
    batch = {**mine.pad(mine.tokenize(TEXTS)[0]), "targets": torch.tensor([1, 0, 1])}
    objective = WorstSynonyms(Substitutions(mine, TEXTS, LISTED), most=1.0, clean_share=0.25)
    torch.manual_seed(seed)
    shares, weight = torch.rand(3).tolist(), model.table.weight.detach()
    signs = 1 - 2 * batch["targets"]  # the loss rises as the score goes to the other class
    written = [objective.substitutions.worst(ids[mask.bool()], sign * model.weight.detach().expand(mask.sum(), -1), weight,
                                             share)
               for ids, mask, sign, share in zip(batch["input_ids"], batch["attention_mask"], signs, shares, strict=True)]
    moved = {**mine.pad(mine.tokenize(written)[0]), "targets": batch["targets"]}
    expected = sum(share * F.cross_entropy(logits_at(model, part), batch["targets"])
                   for share, part in ((0.25, batch), (0.75, moved)))
    model.zero_grad()
    expected.backward()
    wanted = gradients(model)
    loss, gradient = trained(objective, model, batch, seed=seed)
    assert math.isclose(loss, expected.item(), rel_tol=1e-5)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_without_words_to_write_worst_synonyms_are_cross_entropy():
    mine, model = wordy(1)
    batch = {**mine.pad(mine.tokenize(TEXTS)[0]), "targets": torch.tensor([1, 0, 1])}
    expected = trained(CrossEntropy(), model, batch)
    nobody = SynonymAttack(candidates=lambda word: [])
    for objective in (WorstSynonyms(Substitutions(mine, TEXTS, LISTED), most=0.0),
                      WorstSynonyms(Substitutions(mine, TEXTS, nobody), most=1.0)):
        loss, gradient = trained(objective, model, batch)
        assert abs(loss - expected[0]) < 1e-6
        torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_words_behind_the_window_are_not_written():
    mine, model = wordy(2)
    mine.max_length = 8
    text = "A film. " * 20
    substitutions = Substitutions(mine, [text], LISTED)
    [known] = substitutions.known.values()
    assert max(end for _, _, end in known.spans) <= 8 and len(known.pieces) > 80
    batch = {**mine.pad(mine.tokenize([text])[0]), "targets": torch.tensor([1])}
    assert math.isfinite(trained(WorstSynonyms(substitutions, most=1.0), model, batch)[0])


def test_texts_that_were_not_given_are_refused():
    mine, model = wordy(3)
    objective = WorstSynonyms(Substitutions(mine, TEXTS[:1], LISTED))
    batch = {**mine.pad(mine.tokenize(TEXTS)[0]), "targets": torch.tensor([1, 0, 1])}
    with pytest.raises(ValueError, match="none of the 1 that Substitutions was given"):
        trained(objective, model, batch)


# Any model


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_encoders_and_decoders_are_perturbed_where_they_have_words(name, model, side):
    torch.manual_seed(0)
    model = MODELS[model]().eval()
    plain, objective = CrossEntropy(), OBJECTIVES[name](epsilon=0.0)
    batch = batch_of([5, 2, 4], side=side)
    loss, gradient = trained(plain, model, batch)
    if name == "R-Drop" or name == "PGD":
        objective = RDrop(weight=0.0) if name == "R-Drop" else PGD(epsilon=0.0, random_start=False)
    same, same_gradient = trained(objective, model, batch)
    assert abs(same - loss) < 1e-6
    torch.testing.assert_close(same_gradient, gradient, rtol=1e-4, atol=1e-6)
    if name in {"FGM", "PGD", "FreeLB", "virtual", "SMART"}:
        strong = OBJECTIVES[name](epsilon=3.0)
        attacked, _ = trained(strong, model, batch)
        padded, _ = trained(strong, model, {**batch_of([5, 2, 4], side=side)})
        least = 1e-5 if name in {"virtual", "SMART"} else 1e-3  # an untrained model's answers hardly move
        assert attacked > loss + least and attacked == padded


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("objective", [FGM, PGD], ids=["FGM", "PGD"])
def test_more_padding_changes_nothing(objective, norm):
    torch.manual_seed(0)
    model = MODELS["BERT"]().eval()
    objective = objective(epsilon=0.5, norm=norm, **({"random_start": False} if objective is PGD else {}))
    (loss, gradient), (other, other_gradient) = (
        trained(objective, model, batch_of([4, 2, 3], extra=extra)) for extra in (0, 7))
    assert abs(loss - other) < 1e-5
    torch.testing.assert_close(gradient, other_gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objective", [CrossEntropy(), FGM(0.5), PGD(0.5, random_start=False), RDrop()], ids=str)
def test_two_halves_accumulate_to_the_whole(objective):
    torch.manual_seed(0)
    model, whole = MODELS["BERT"]().eval(), batch_of([4, 2, 3, 5])
    loss, gradient = trained(objective, model, whole)
    halves = [{name: values[rows] for name, values in whole.items()} for rows in (slice(0, 2), slice(2, 4))]
    model.zero_grad()
    parts = [objective(model, half, lambda loss: (loss / 2).backward()) for half in halves]
    assert math.isclose(sum(parts) / 2, loss, rel_tol=1e-5)
    torch.testing.assert_close(gradients(model), gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name, passes", [("FGM", 2), ("PGD", 3), ("FreeLB", 2), ("virtual", 3), ("SMART", 4),
                                          ("R-Drop", 1), ("hull", 3)])
def test_a_step_takes_as_many_passes_as_the_lesson_says(name, passes):
    model, seen = MODELS["BERT"](), []
    model.register_forward_hook(lambda *_: seen.append(1))
    trained(OBJECTIVES[name](epsilon=0.1), model, batch_of([3, 4]))
    assert len(seen) == passes


def test_all_passes_of_a_step_share_their_dropout_masks():
    model, seen = MODELS["BERT"]().train(), {}
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout) and layer.p:
            layer.register_forward_hook(lambda layer, inputs, output: seen.setdefault(layer, []).append(output == 0))
    for name, objective in OBJECTIVES.items():
        seen.clear()
        trained(objective(epsilon=0.01), model, batch_of([6, 4]))
        masks = [torch.stack(masks) for masks in seen.values() if len(masks) > 1]
        assert (name == "R-Drop") != (len(masks) > 0)
        for mask in masks:
            assert (mask == mask[:1]).float().mean() > 0.99, name  # a true zero is no dropped one


def test_an_overflowing_gradient_moves_nothing_to_nowhere():
    batch, gradient = batch_of([3, 2]), torch.ones(2, 3, 4)
    gradient[0, 0, 0], gradient[1] = math.inf, math.nan
    for norm in ("linf", "l2"):
        assert FGM(norm=norm).rising(gradient, batch).isfinite().all()


# fine_tune


@pytest.fixture(scope="module")
def reviews():
    "Short reviews of both classes"
    rows = load_dataset("movies")["train"].select(range(400))
    return rows.filter(lambda text: len(text.split()) < 12, input_columns="text").select(range(24))


def classifier(dropout: bool = True, seed: int = 0) -> TextClassifier:
    "The bundled tokenizer and a small network with random weights"
    tokenizer = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], max_length=32).tokenizer
    torch.manual_seed(seed)
    off = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForSequenceClassification(BertConfig(
        **{**SIZES, "vocab_size": len(tokenizer)}, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, **off))
    return TextClassifier(model, tokenizer, ["negative", "positive"], max_length=32, device="cpu")


def objectives_for(mine: TextClassifier, reviews) -> dict:
    "All of them, with synonyms and unlabelled texts of a classifier"
    return {**{name: make(epsilon=0.1) for name, make in OBJECTIVES.items() if name != "hull"},
            "hull": SynonymHull(synonym_table(mine, count=3)),
            "worst synonyms": WorstSynonyms(Substitutions(mine, reviews["text"])),
            "unlabelled": VirtualAdversarial(unlabelled=UnlabelledTexts(mine, reviews["text"], batch_size=4))}


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", [*OBJECTIVES, "unlabelled", "worst synonyms"])
def test_every_objective_trains_with_accumulation_and_mixed_precision(reviews, name, precision):
    mine = classifier()
    before = {key: value.clone() for key, value in mine.model.state_dict().items()}
    run = fine_tune(mine, reviews, objective=objectives_for(mine, reviews)[name], epochs=1, batch_size=6,
                    gradient_accumulation=2, mixed_precision=precision, learning_rate=1e-3, progress=False)
    assert len(run.steps) == 2 and all(math.isfinite(row["loss"]) for row in run.steps)
    assert any(not torch.equal(before[key], value) for key, value in mine.model.state_dict().items())
    twin = classifier(seed=1)  # which never saw mixed precision
    twin.model.load_state_dict(mine.model.state_dict())
    assert torch.equal(mine.logits(list(reviews["text"])), twin.logits(list(reviews["text"])))


def in_one_of_two(rank: int, port: int, folder: str):
    "One of two processes: a step with each objective; the weights are written down"
    import os

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                      ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    rows = load_dataset("movies")["train"].select(range(400))
    rows = rows.filter(lambda text: len(text.split()) < 12, input_columns="text").select(range(24))
    names = ["plain", *objectives_for(classifier(), rows)]
    for name in names:
        mine = classifier(dropout=False)
        objective = CrossEntropy() if name == "plain" else objectives_for(mine, rows)[name]
        fine_tune(mine, rows, objective=objective, epochs=1, batch_size=6, learning_rate=1e-3, optimizer="sgd",
                  progress=False)
        save_file(mine.model.state_dict(), f"{folder}/{name}-{rank}.safetensors")


def test_two_processes_train_one_model(reviews, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(in_one_of_two, (port, str(tmp_path)), nprocs=2)
    for name in ["plain", *objectives_for(classifier(), reviews)]:
        first, second = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1))
        start = classifier(dropout=False).model.state_dict()
        assert any(not torch.equal(start[key], value) for key, value in first.items()), name
        for key, value in first.items():
            torch.testing.assert_close(value, second[key], rtol=0, atol=0, msg=f"{name}: {key}")


class Nan:
    "Cross-entropy whose third batch has no number"

    def __init__(self):
        self.calls = 0

    def __call__(self, model, batch, backward):
        self.calls += 1
        loss = F.cross_entropy(logits_at(model, batch), batch["targets"]) * (math.nan if self.calls == 3 else 1.0)
        backward(loss)
        return loss.item()


def test_a_loss_that_is_no_number_stops_at_once_and_names_the_step(reviews):
    mine, twin = classifier(dropout=False), classifier(dropout=False)
    with pytest.raises(FloatingPointError, match=r"at step 3.*step before"):
        fine_tune(mine, reviews, objective=Nan(), epochs=1, batch_size=6, warmup=0, progress=False)
    assert all(value.isfinite().all() for value in mine.model.state_dict().values())
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in mine.model.parameters())
    start = twin.model.state_dict()
    assert any(not torch.equal(start[key], value) for key, value in mine.model.state_dict().items())


# What else they promise


def test_the_slow_copy_is_a_moving_average():
    for momentum in (0.0, 0.75, 1.0):
        torch.manual_seed(0)
        model, objective = MODELS["BERT"]().eval(), Smart(momentum=momentum)
        expected = {name: value.detach().clone() for name, value in model.named_parameters()}
        for step in range(3):
            trained(objective, model, batch_of([3, 4], seed=step))
            with torch.no_grad():
                for name, value in model.named_parameters():
                    value -= 0.1 * (value.grad if value.grad is not None else 0)
                    expected[name] = momentum * expected[name] + (1 - momentum) * value
            objective.after_step(model)
        for name, value in objective.slow["copy"].named_parameters():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    other = MODELS["BERT"]()
    trained(objective, other, batch_of([3]))
    assert objective.slow["of"]() is other and torch.equal(
        objective.slow["copy"].classifier.weight, other.classifier.weight)


def test_r_drop_pulls_two_masks_together():
    torch.manual_seed(0)
    model, batch = MODELS["BERT"]().train(), batch_of([4, 3, 5])
    rows = []
    handle = model.register_forward_hook(lambda layer, inputs, output: rows.append(output.logits.detach()))
    loss, _ = trained(RDrop(weight=2.0), model, batch)
    handle.remove()
    first, second = rows[0].chunk(2)
    assert not torch.equal(first, second)
    expected = F.cross_entropy(rows[0], torch.cat([batch["targets"]] * 2)) + symmetric_divergence(first, second).mean() / 2
    assert math.isclose(loss, expected.item(), rel_tol=1e-5)


def test_the_table_holds_synonyms_of_words_alone():
    mine = classifier()
    table = synonym_table(mine, count=4, pieces=2)
    ids = mine.tokenizer.convert_tokens_to_ids
    assert table.shape == (len(mine.tokenizer), 4, 2)
    for token in ("the", "not", "[CLS]", "[PAD]", "##ing", "42"):
        assert (table[ids(token)] == -1).all(), token
    assert (table[ids("film")] >= 0).any()
    assert synonym_table(mine, candidates=lambda word: ["movie"] if word == "film" else [])[ids("film"), 0, 0] == ids("movie")


def test_augmentation_by_attack_adds_turned_texts_under_their_labels(reviews):
    mine = classifier()
    with torch.no_grad():
        logits = mine.logits(list(reviews["text"]))
        mine.model.classifier.bias[0] += (logits[:, 1] - logits[:, 0]).median()  # half of the texts on either side
    answers = mine.logits(list(reviews["text"])).argmax(-1).tolist()
    data = Dataset.from_dict({"text": list(reviews["text"]), "label": answers})
    report = TypoAttack().attack(mine, data, progress=False)
    turned = [result for result in report.results if result.status == "succeeded"]
    for most in (0.0, 0.3, 1.0):
        wanted = [result for result in turned if len(result.changes) <= most * result.words]
        grown = AdversarialAugmentation(TypoAttack(), max_changed=most).augment(mine, data, progress=False)
        assert grown["text"][: len(data)] == data["text"][:] and not any(grown["augmented"][: len(data)])
        assert grown["text"][len(data):] == [result.perturbed for result in wanted]
        assert grown["label"][len(data):] == [result.label for result in wanted]
    assert turned


def test_the_robustness_curve_starts_at_the_accuracy_and_falls(reviews):
    mine = classifier()
    curve = robustness_curve(mine, reviews, (0.0, 1.0, 30.0), steps=3, batch_size=5)
    right = mine.logits(list(reviews["text"])).argmax(-1) == torch.tensor(reviews["label"])
    assert math.isclose(curve[0.0], right.double().mean().item())
    assert curve[0.0] >= curve[1.0] >= curve[30.0] and curve[30.0] < curve[0.0]


def test_the_slider_tells_what_training_within_a_radius_did():
    explorer = BoundaryExplorer(radii=(0.0, 0.2), points=40, steps=60)
    plain = explorer.output.value
    explorer.slider.value = 0.2
    assert "radius of 0.20" in explorer.output.value != plain and "alt=" in explorer.output.value


# Bad input


@pytest.mark.parametrize("kind", [FGM, PGD, FreeLB, VirtualAdversarial, Smart])
def test_balls_that_are_none_are_refused(kind):
    for options, words in (({"epsilon": -0.1}, "epsilon"), ({"epsilon": math.nan}, "epsilon"), ({"epsilon": True}, "epsilon"),
                           ({"epsilon": "1"}, "epsilon"), ({"norm": "l7"}, "norm must be one of linf, l2")):
        with pytest.raises(ValueError, match=words):
            kind(**options)


@pytest.mark.parametrize("make, words", [
    (lambda: PGD(steps=0), "steps"), (lambda: FreeLB(steps=-1), "steps"), (lambda: Smart(steps=1.5), "steps"),
    (lambda: PGD(step_size=0), "step_size"), (lambda: FGM(clean_share=0), "clean_share"),
    (lambda: FGM(clean_share=1.1), "clean_share"), (lambda: VirtualAdversarial(probe=0), "probe"),
    (lambda: VirtualAdversarial(weight=-1), "weight"), (lambda: Smart(momentum=2), "momentum"),
    (lambda: Smart(smoothness=-1), "smoothness"), (lambda: RDrop(weight=-1), "weight"),
    (lambda: SynonymHull(NOBODY, steps=0), "steps"), (lambda: SynonymHull(NOBODY, clean_share=-1), "clean_share"),
    (lambda: SynonymHull(NOBODY, step_size=0), "step_size"),
    (lambda: AdversarialAugmentation(SynonymAttack(), max_changed=-1), "max_changed"),
    (lambda: WorstSynonyms(Substitutions(classifier(), TEXTS), most=1.5), "most"),
    (lambda: WorstSynonyms(Substitutions(classifier(), TEXTS), clean_share=0.0), "clean_share"),
    (lambda: UnlabelledTexts(classifier(), []), "at least one unlabelled text"),
    (lambda: UnlabelledTexts(classifier(), ["a"], batch_size=0), "batch_size"),
])
def test_bad_settings_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_unlabelled_texts_must_be_batches():
    for wrong in (["a text"], "a text"):
        with pytest.raises(TypeError, match="UnlabelledTexts"):
            VirtualAdversarial(unlabelled=wrong)
    with pytest.raises(TypeError, match="one string"):
        UnlabelledTexts(classifier(), "a text")


def test_substitutions_must_be_of_texts():
    with pytest.raises(TypeError, match="must be Substitutions of the training texts, got list"):
        WorstSynonyms(["a text"])
    with pytest.raises(TypeError, match="one string"):
        Substitutions(classifier(), "a text")


class Deaf(torch.nn.Module):
    "Has input embeddings and does not use them"

    def __init__(self):
        super().__init__()
        self.table, self.other = torch.nn.Embedding(40, 4), torch.nn.Embedding(40, 2)

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.other(input_ids).sum(1))


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "R-Drop"])
def test_no_model_is_trained_undefended_in_silence(name):
    with pytest.raises(RuntimeError, match="does not use its input embeddings"):
        trained(OBJECTIVES[name](epsilon=0.1), Deaf(), batch_of([3, 2]))
    with pytest.raises(TypeError, match="no input embeddings"):
        trained(OBJECTIVES[name](epsilon=0.1), torch.nn.Linear(2, 2), batch_of([3, 2]))


def test_a_hook_is_gone_after_an_error():
    model, batch = MODELS["BERT"]().eval(), batch_of([3, 2])
    before = logits_at(model, batch)
    with pytest.raises(ZeroDivisionError), perturbed(model, torch.ones(2, 3, 16)):
        1 / 0  # noqa: B018
    torch.testing.assert_close(logits_at(model, batch), before)
