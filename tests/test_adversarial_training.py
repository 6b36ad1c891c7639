"""Objectives of adversarial training: encoders and decoders, accumulation, mixed precision, two processes, bad input."""

import math
import socket
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from datasets import Dataset
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
    FreeLB,
    RDrop,
    Smart,
    Substitutions,
    SynonymHull,
    UnlabelledTexts,
    VirtualAdversarial,
    WorstSynonyms,
    logits_at,
    perturbed,
    robustness_curve,
    synonym_table,
)
from llm_course.data import load_dataset
from llm_course.defences.linear import SumOfEmbeddings
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier

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


def double(seed: int = 0) -> SumOfEmbeddings:
    "A linear model of forty tokens, in double precision"
    return SumOfEmbeddings(40, seed=seed).double()


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


# Words


SYNONYMS = {"film": ["movie", "picture", "docudrama"], "great": ["big", "good", "overwhelmingly"], "plot": ["story"],
            "docudrama": ["film", "movie"]}
LISTED = SynonymAttack(candidates=lambda word: SYNONYMS.get(word, []))
TEXTS = ["A great film with no plot.", "The plot of a docudrama is not great, and the film is great.", "Nothing here."]


def wordy(seed: int) -> tuple[TextClassifier, SumOfEmbeddings]:
    "The bundled tokenizer, and a linear model of its tokens in float32"
    mine = classifier()
    return mine, SumOfEmbeddings(len(mine.tokenizer), seed=seed)


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


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_model_in_double_precision_trains(name):
    loss, gradient = trained(OBJECTIVES[name](epsilon=0.3), double(), batch_of([4, 2, 3]))
    assert math.isfinite(loss) and gradient.dtype == torch.float64 and gradient.any() and gradient.isfinite().all()


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


def objective_for(name: str, mine: TextClassifier, reviews):
    "One of them, with synonyms or unlabelled texts of a classifier where it needs them"
    return {"plain": CrossEntropy,
            "hull": lambda: SynonymHull(synonym_table(mine, count=3)),
            "worst synonyms": lambda: WorstSynonyms(Substitutions(mine, reviews["text"])),
            "unlabelled": lambda: VirtualAdversarial(unlabelled=UnlabelledTexts(mine, reviews["text"], batch_size=4)),
            }.get(name, lambda: OBJECTIVES[name](epsilon=0.1))()


ALL = ["plain", *OBJECTIVES, "worst synonyms", "unlabelled"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", [*OBJECTIVES, "unlabelled", "worst synonyms"])
def test_every_objective_trains_with_accumulation_and_mixed_precision(reviews, name, precision):
    mine = classifier()
    before = {key: value.clone() for key, value in mine.model.state_dict().items()}
    run = fine_tune(mine, reviews, objective=objective_for(name, mine, reviews), epochs=1, batch_size=6,
                    gradient_accumulation=2, mixed_precision=precision, learning_rate=1e-3, progress=False)
    assert len(run.steps) == 2 and all(math.isfinite(row["loss"]) for row in run.steps)
    assert any(not torch.equal(before[key], value) for key, value in mine.model.state_dict().items())
    twin = classifier(seed=1)  # which never saw mixed precision
    twin.model.load_state_dict(mine.model.state_dict())
    assert torch.equal(mine.logits(list(reviews["text"])), twin.logits(list(reviews["text"])))


def in_one_of_two(rank: int, port: int, folder: str, names: list[str]):
    "One of two processes: a step with each objective; the weights are written down"
    import os

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                      ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    rows = load_dataset("movies")["train"].select(range(400))
    rows = rows.filter(lambda text: len(text.split()) < 12, input_columns="text").select(range(24))
    for name in names:
        mine = classifier(dropout=False)
        objective = objective_for(name, mine, rows)
        fine_tune(mine, rows, objective=objective, epochs=1, batch_size=6, learning_rate=1e-3, optimizer="sgd",
                  progress=False)
        save_file(mine.model.state_dict(), f"{folder}/{name}-{rank}.safetensors")


@pytest.mark.parametrize("names", [pytest.param(["plain", "FGM", "worst synonyms"], id="some"),
                                   pytest.param(ALL, id="all", marks=pytest.mark.slow)])
def test_two_processes_train_one_model(reviews, tmp_path, names):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(in_one_of_two, (port, str(tmp_path), names), nprocs=2)
    for name in names:
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
    of_text = robustness_curve(mine, reviews, (0.0, 1.0), steps=3, batch_size=5, per_token=False)  # a smaller set
    assert of_text[0.0] == curve[0.0] and of_text[1.0] >= curve[1.0]


@pytest.mark.parametrize("kind", [FGM, PGD, FreeLB])
def test_as_it_comes_it_leaves_a_classifier_whole(kind):
    """Too large a radius ends at one answer for all texts; a radius of 1, which was the default once, did"""
    rows = load_dataset("movies")["train"].shuffle(seed=0).select(range(64))
    right = []
    for objective in (kind(), kind(epsilon=1.0)):
        classifier = TextClassifier.from_pretrained("tiny-bert", labels=["negative", "positive"], seed=0)
        fine_tune(classifier, rows, objective=objective, epochs=8, batch_size=16, learning_rate=1e-3, seed=0, progress=False)
        answers = classifier.logits(list(rows["text"])).argmax(-1)
        right.append((answers == torch.tensor(rows["label"])).double().mean().item())
    assert right[0] > 0.9 and right[1] < 0.7, right


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
