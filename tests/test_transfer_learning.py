"""Transfer learning from outside: which layers are trained and how fast, three shapes of classifiers, what is recommended."""

import copy
import itertools
import math
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, run_tool, tiny_classifier
from datasets import Dataset
from families import model_folder, without_ends
from transformers import AutoConfig, AutoModelForSequenceClassification

from llm_course.adversarial_examples import pgd
from llm_course.adversarial_training import FGM, PGD, Smart, SynonymHull, VirtualAdversarial, synonym_table
from llm_course.augmentation import Mixup
from llm_course.callbacks import Callback
from llm_course.data import load_dataset
from llm_course.embeddings import input_embeddings, logits_at, replaced
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier
from llm_course.training.layers import depths, layer_names, layers_in_training
from llm_course.transfer_learning import (FEW, MODELS, READINGS, TASKS, PublishedModel, layer_features, probe, read_states,
                                          recommend_model, training_memory)

LABELS = ["negative", "positive"]
SHAPES = ("tiny-bert", "tiny-gpt", "tiny-t5")
MOVIES = load_dataset("movies")["train"].select(range(24))
OPTIONS = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "progress": False}
RESULT = ROOT / "benchmarks/results/transfer_learning.json"


def new(name: str = "tiny-gpt", **options: object) -> TextClassifier:
    return TextClassifier.from_pretrained(name, labels=LABELS, device="cpu", **options)


def moved(before: dict[str, torch.Tensor], classifier: TextClassifier) -> set[int]:
    "The depths at which a weight is another one"
    return {depth for name, depth in depths(classifier.model).items()
            if not torch.equal(before[name], classifier.model.get_parameter(name))}


def trained(name: str = "tiny-gpt", classifier: TextClassifier | None = None, **options: object):
    "A classifier after a short run, and the depths at which it moved"
    classifier = classifier or new(name)
    before = copy.deepcopy(classifier.model.state_dict())
    run = fine_tune(classifier, MOVIES, **{**OPTIONS, **options})
    return run, moved(before, classifier)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("trainable", "expected"), [("all", {0, 1, 2, 3, 4}), ("head", {4}), (0, {4}), (1, {3, 4}),
                                                      (3, {1, 2, 3, 4}), ("gradual", {0, 1, 2, 3, 4})])
def test_what_is_chosen_moves_and_nothing_else(name, trainable, expected):
    run, found = trained(name, trainable=trainable)
    assert found == expected and all(weight.requires_grad for weight in run.classifier.model.parameters())
    assert not run.classifier.model.training


def test_the_usual_arguments_change_nothing():
    plain, said = trained()[0], trained(trainable="all", layer_decay=1.0)[0]
    for a, b in zip(plain.classifier.model.parameters(), said.classifier.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_weights_stay_frozen_whatever_is_chosen():
    for trainable in ("all", 2, "gradual"):
        classifier = new()
        for weight in classifier.model.transformer.h[2].parameters():
            weight.requires_grad_(False)
        _, found = trained(classifier=classifier, trainable=trainable)
        assert 3 not in found and 4 in found
        frozen = [weight.requires_grad for weight in classifier.model.transformer.h[2].parameters()]
        assert not any(frozen) and classifier.model.score.weight.requires_grad


def test_an_error_gives_everything_back():
    classifier = new()

    class Fails(Callback):
        def on_step(self, run):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fine_tune(classifier, MOVIES, trainable="head", callbacks=[Fails()], **OPTIONS)
    assert all(weight.requires_grad for weight in classifier.model.parameters())


BAD = {
    "a word": ({"trainable": "top"}, "trainable must be one of all, head, gradual, got 'top'"),
    "a fraction": ({"trainable": 1.5}, "trainable must be a whole number of at least 0, got 1.5, or one of all, head"),
    "too many layers": ({"trainable": 4}, "trainable is 4, but the model has 3 layers"),
    "less than none": ({"trainable": -1}, "got -1"),
    "true": ({"trainable": True}, "got True"),
    "none": ({"trainable": None}, "got None"),
    "a decay of 0": ({"layer_decay": 0}, "layer_decay must be a number above 0 and at most 1, got 0"),
    "a decay above 1": ({"layer_decay": 1.2}, "layer_decay must be .*got 1.2"),
    "a decay of nan": ({"layer_decay": math.nan}, "layer_decay must be .*nan"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_changes_nothing_and_says_what_is_wrong(name):
    wrong, words = BAD[name]
    classifier = new()
    before = copy.deepcopy(classifier.model.state_dict())
    with pytest.raises(ValueError, match=words):
        fine_tune(classifier, MOVIES, **{**OPTIONS, **wrong})
    assert not moved(before, classifier) and all(weight.requires_grad for weight in classifier.model.parameters())


def test_nothing_left_to_train():
    classifier = new()
    for name, weight in classifier.model.named_parameters():
        weight.requires_grad_(depths(classifier.model)[name] < 4)
    with pytest.raises(ValueError, match=r"No weight is left to train: trainable is 'head'.*frozen"):
        fine_tune(classifier, MOVIES, trainable="head", **OPTIONS)


def test_a_model_without_layers():
    model = torch.nn.Sequential(torch.nn.Embedding(4, 2), torch.nn.Linear(2, 2))
    with layers_in_training(model, "all", SimpleNamespace(num_processes=1)):
        pass
    with pytest.raises(ValueError, match="Sequential has no stack of layers"), layers_in_training(
            model, 1, SimpleNamespace(num_processes=1)):
        pass


@pytest.mark.parametrize("options", [{"trainable": "gradual"}, {"trainable": 1}, {"layer_decay": 0.5},
                                     {"trainable": "gradual", "layer_decay": 0.5}])
def test_a_stopped_run_goes_on_bit_for_bit(options, tmp_path):
    class Stops(Callback):
        def on_step(self, run):
            if len(run.steps) == 3:
                raise KeyboardInterrupt

    options = {**options, "checkpoints": tmp_path / "run", "checkpoint_every": 2, "resume": "auto"}
    whole, _ = trained(**{**options, "checkpoints": tmp_path / "whole"})
    with pytest.warns(UserWarning, match="Interrupted after 3"):
        trained(callbacks=[Stops()], **options)
    again, _ = trained(**options)
    assert len(again.steps) == len(whole.steps) == 6
    for a, b in zip(whole.classifier.model.parameters(), again.classifier.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other = {"trainable": "head"} if "trainable" in options else {"layer_decay": 0.9}
    with pytest.raises(ValueError, match=next(iter(other))):
        trained(**{**options, **other})


def test_rates_of_the_layers_are_those_of_the_optimiser():
    """One step of plain gradient descent, beside the gradients that it had"""
    classifier = new()
    for module in classifier.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = classifier.pad(classifier.tokenize(MOVIES["text"][:8])[0])
    loss = F.cross_entropy(classifier.model(**batch).logits, torch.tensor(MOVIES["label"][:8]))
    loss.backward()
    before = {name: (weight.detach().clone(), weight.grad.clone()) for name, weight in classifier.model.named_parameters()}
    classifier.model.zero_grad()
    fine_tune(classifier, MOVIES.select(range(8)), epochs=1, batch_size=8, learning_rate=0.1, layer_decay=0.5, warmup=0.0,
              max_gradient_norm=1e9, progress=False, optimizer=lambda groups, rate: torch.optim.SGD(groups, lr=rate),
              weight_decay=0.0)
    for name, depth in depths(classifier.model).items():
        old, gradient = before[name]
        torch.testing.assert_close(classifier.model.get_parameter(name).detach(),
                                   old - 0.1 * 0.5 ** (4 - depth) * gradient, rtol=1e-4, atol=1e-6)


def test_layers_of_many_families():
    """Each weight has a depth, in the order of the pass; a layer's own stand together"""
    one = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
    kinds = {"bert": one, "roberta": one, "electra": one, "deberta-v2": one, "modernbert": {**one, "pad_token_id": 0},
             "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 16, "vocab_size": 50},
             "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 50},
             "llama": {**one, "num_key_value_heads": 2}, "qwen3": {**one, "num_key_value_heads": 2, "head_dim": 8},
             "bart": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 50,
                      "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
             "t5": {"d_model": 16, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16,
                    "vocab_size": 50}}
    for kind, sizes in kinds.items():
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, num_labels=2, **sizes))
        places = depths(model)
        assert len(layer_names(model)) == 3 and set(places.values()) == {0, 1, 2, 3, 4}, kind
        assert places[next(name for name in places if name == "score.weight" or "classif" in name)] == 4, kind
        table = next(name for name, weight in model.named_parameters() if weight is model.get_input_embeddings().weight)
        assert places[table] == 0, kind
        for depth, layer in enumerate(layer_names(model), 1):
            assert {places[name] for name in places if name.startswith(layer)} == {depth}, kind


ONE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 8, "norm_rel_ebd": "layer_norm"}
XLM = {"emb_dim": 16, "n_layers": 3, "n_heads": 2, "n_words": 50}
HEADS = {  # by the family: its sizes, and where the weights stand that `head` trains
    "mpnet": (ONE, {"classifier"}), "bert": (ONE, {"bert.pooler", "classifier"}),
    "deberta-v2": ({**ONE, **RELATIVE}, {"pooler", "classifier"}),
    "opt": ({"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 16, "vocab_size": 50,
             "word_embed_proj_dim": 8}, {"score", "model.decoder.final_layer_norm", "model.decoder.project_out"}),
    "nomic_bert": (ONE, {"nomic_bert.pooler", "classifier"}),
    "xlm": (XLM, {"sequence_summary"}), "flaubert": (XLM, {"sequence_summary"}),
    "gpt2": ({"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 50}, {"transformer.ln_f", "score"}),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_what_lies_behind_the_last_layer(kind):
    """Nothing of it acts on the layers: what they give needs no gradient"""
    sizes, heads = HEADS[kind]
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(kind, num_labels=2, pad_token_id=0, **sizes)).eval()
    assert len(layer_names(model)) == 3
    seen = []
    for name in layer_names(model):
        model.get_submodule(name[:-1]).register_forward_hook(
            lambda module, given, output: seen.append((output[0] if isinstance(output, tuple) else output).requires_grad))
    with layers_in_training(model, "head", SimpleNamespace(num_processes=1)):
        found = {name for name, weight in model.named_parameters() if weight.requires_grad}
        model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.sum().backward()
    assert seen == [False] * 3
    assert all(any(name.startswith(f"{head}.") for head in heads) for name in found), found
    assert all(any(name.startswith(f"{head}.") for name in found) for head in heads), found
    with layers_in_training(model, 1, SimpleNamespace(num_processes=1)):
        seen.clear()
        model(input_ids=torch.tensor([[5, 6, 7, 8]]))
    assert seen == [False, False, True]


TEXTS = ["a gorgeous film about people", "dull", "not a dull film , and not a long one"]


@pytest.mark.filterwarnings("ignore:.*longer than 128 tokens")
@pytest.mark.parametrize("name", SHAPES)
def test_padding_and_names_of_special_tokens_change_no_answer(name):
    classifier = new(name)
    texts = [*TEXTS, "", "[SEP] [PAD] <extra_id_0> [CLS] good", "good " * 300]
    together = classifier.logits(texts, batch_size=6)
    alone = torch.cat([classifier.logits([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_a_decoder_that_pads_with_its_end_token(kind, tmp_path):
    """As GPT-2 comes: no token of its own for padding; the text before it must not look shorter"""
    more = {"ffn_dim": 16, "word_embed_proj_dim": 16} if kind == "opt" else {}
    tokenizer = copy.deepcopy(without_ends("byte-level"))
    tokenizer.pad_token = tokenizer.eos_token
    folder = model_folder(tmp_path, kind, "byte-level", names=tuple(LABELS), tokenizer=tokenizer, **more)
    classifier = TextClassifier.from_pretrained(folder, labels=LABELS, device="cpu")
    texts = [*TEXTS, "</s> a film </s>", ""]
    together, alone = classifier.logits(texts), torch.cat([classifier.logits([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        ids = torch.tensor([classifier.tokenize([TEXTS[0]])[0][0]])
        states = classifier.model.base_model(ids).last_hidden_state
        torch.testing.assert_close(classifier.model.score(states[:, -1]), together[:1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_the_slope_of_a_moved_word_is_that_of_differences(name):
    """In an encoder-decoder the word moves in both; nothing changes at padding"""
    classifier = new(name)
    model = classifier.model.double()
    batch = classifier.pad(classifier.tokenize(TEXTS)[0])
    shape = (*batch["input_ids"].shape, input_embeddings(model).weight.shape[1])
    start = torch.zeros(shape, dtype=torch.float64, requires_grad=True)

    def loss(moved):
        return F.cross_entropy(logits_at_double(model, batch, moved), torch.tensor([1, 0, 1]))

    [slope] = torch.autograd.grad(loss(start), start)
    padding = batch["attention_mask"] == 0
    assert not slope[padding].any() and slope[~padding].any()
    for place in ((0, 1, 3), (1, 1, 0), (2, 4, 5)):
        step = torch.zeros(shape, dtype=torch.float64)
        step[place] = 1e-2  # T5 computes its attention in float32: smaller steps drown in rounding,
        by_differences = (loss(step) - loss(-step)).item() / 2e-2
        # and what is left of it, about 1e-7 of the loss, is 5e-6 of a slope
        assert by_differences == pytest.approx(slope[place].item(), rel=1e-2, abs=5e-6 if name == "tiny-t5" else 1e-7)


def logits_at_double(model, batch, moved):
    from llm_course.embeddings import perturbed

    with perturbed(model, moved):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.mark.parametrize("name", ["tiny-gpt", "tiny-t5"])
def test_other_vectors_are_other_words(name):
    classifier = new(name)
    first, second = (classifier.pad(classifier.tokenize([text])[0]) for text in ("a fine film", "a dull film"))
    vectors = input_embeddings(classifier.model)(second["input_ids"])
    with torch.no_grad(), replaced(classifier.model, vectors):
        torch.testing.assert_close(logits_at(classifier.model, first), classifier.logits(["a dull film"]))


@pytest.mark.parametrize("kind", ["bart", "t5", "mt5"])
def test_encoder_decoders_of_others_move_words_too(kind):
    sizes = {"bart": {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
                      "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "scale_embedding": True}}.get(
                          kind, {"num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16, "decoder_start_token_id": 0})
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(
        kind, vocab_size=50, d_model=16, num_labels=2, pad_token_id=0, eos_token_id=2, bos_token_id=1, **sizes)).eval()
    ids, other = torch.tensor([[5, 6, 7, 2]]), torch.tensor([[5, 9, 7, 2]])
    mask = torch.ones_like(ids)
    layer = model.get_encoder().get_input_embeddings()
    with torch.no_grad(), replaced(model, layer(other)):
        moved = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(moved, model(input_ids=other, attention_mask=mask).logits)
    assert not any(part._forward_hooks for part in model.modules())


@pytest.mark.parametrize("name", ["tiny-gpt", "tiny-t5"])
def test_defences_and_attacks_reach_decoders(name):
    objectives = [FGM(), PGD(steps=2), VirtualAdversarial(), Smart(), Mixup(), SynonymHull(synonym_table(new(name)))]
    for objective in objectives:
        run = fine_tune(new(name), MOVIES.select(range(8)), objective=objective, epochs=1, batch_size=4, progress=False)
        assert all(math.isfinite(row["loss"]) for row in run.steps), objective
    classifier = new(name)
    fine_tune(classifier, MOVIES, epochs=3, learning_rate=1e-3, progress=False)
    found = pgd(classifier, MOVIES["text"][:8], MOVIES["label"][:8], epsilon=2.0, steps=5)
    losses = [F.cross_entropy(logits, found.targets) for logits in (classifier.logits(MOVIES["text"][:8]), found.after)]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("name", SHAPES)
def test_features_do_not_depend_on_the_batch(name):
    classifier = new(name)
    classifier.model.train()
    for read in READINGS:
        together = layer_features(classifier, TEXTS, read=read)
        alone = torch.cat([layer_features(classifier, [text], read=read, batch_size=1) for text in TEXTS], 1)
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert classifier.model.training and together.shape == (4, 3, 128)


def test_readings_of_other_shapes_and_types():
    states, mask = torch.randn(2, 3, 4, 5).half(), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    for read in READINGS:
        assert read_states(states, mask, read).shape == (2, 3, 5)
    torch.testing.assert_close(read_states(states.float(), mask, "last")[:, 1], states[:, 1, 3].float())


def test_a_probe_of_bad_input():
    features = torch.randn(8, 2)
    lost = features.clone()
    lost[3, 1] = math.nan
    for wrong, words in (((features, [0] * 8), "all the same"), ((features, [0, 1]), "8.*2"),
                         ((features, [0, 1] * 4, {"weights": [1.0]}), "8.*1"),
                         ((features[None], [0, 1] * 4), r"features must be .* shape \(1, 8, 2\)"),
                         ((lost, [0, 1] * 4), "features must be finite"),
                         ((features, ["bad", "good"] * 4), "labels must be class numbers.*'bad'"),
                         ((features, [0, 0.5] * 4), "labels must be class numbers"),
                         ((features, [0, 1] * 4, {"weights": [1.0] * 7 + [-1.0]}), "weights must be at least 0, got -1"),
                         ((features, [0, 1] * 4, {"weights": [1.0] * 7 + [math.nan]}), "weights must be numbers"),
                         ((features, [0, 1] * 4, {"weights": [1.0, 0.0] * 4}), "all the same"),
                         ((features, [0, 1] * 4, {"strength": -1}), "strength")):
        options = wrong[2] if len(wrong) > 2 else {}
        with pytest.raises(ValueError, match=words):
            probe(*wrong[:2], **options)


def test_a_probe_takes_tensors_of_any_kind():
    features, labels = torch.randn(40, 3), torch.arange(40) % 2
    expected = probe(features, labels.tolist()).predict(features.numpy()).tolist()
    for given in (features.requires_grad_(), features.tolist(), features.detach().double()):
        assert probe(given, labels).predict(features.detach().numpy()).tolist() == expected
    assert probe(features.detach().bfloat16(), labels) is not None


@pytest.mark.parametrize(("options", "words"), [({"read": "middle"}, "read must be one of"), ({"batch_size": 0}, "batch_size"),
                                                ({"texts": []}, "no text"), ({"texts": [1]}, "Text 0 is 1")])
def test_features_of_bad_input_leave_the_model_in_training(options, words):
    classifier = new()
    classifier.model.train()
    with pytest.raises((ValueError, TypeError), match=words):
        layer_features(classifier, **{"texts": TEXTS, **options})
    assert classifier.model.training


def test_an_error_on_the_way_leaves_the_model_in_training(monkeypatch):
    classifier = new()
    classifier.model.train()
    monkeypatch.setattr(classifier, "pad", lambda rows: {})
    with pytest.raises((ValueError, TypeError, KeyError)):
        layer_features(classifier, TEXTS)
    assert classifier.model.training


@pytest.mark.parametrize("mask", [[[0, 1, 1]], [[1, 0, 1]], [[0, 0, 0]]])
def test_padding_in_front_is_refused(mask):
    for read in READINGS:
        with pytest.raises(ValueError, match="before the padding"):
            read_states(torch.randn(1, 3, 2), torch.tensor(mask), read)


def test_memory_of_nothing():
    with pytest.raises(ValueError, match="no text"):
        training_memory(tiny_classifier(), [])
    classifier = tiny_classifier()
    classifier.model.requires_grad_(False)
    with pytest.raises(ValueError, match="No weight is left to train"):
        training_memory(classifier, TEXTS)


def test_a_text_of_weight_nothing_changes_nothing():
    features = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    labels = (features[:, 0] > 0).int()
    more = torch.cat([features, torch.full((1, 4), 1e4)]), torch.cat([labels, torch.tensor([0])])
    lines = probe(features, labels), probe(*more, weights=[1.0] * 40 + [0.0])
    answers = [line.decision_function(features.numpy()) for line in lines]
    assert answers[0] == pytest.approx(answers[1], abs=1e-3)


def test_a_model_that_shortens_texts_has_no_vector_for_each_token(monkeypatch):
    classifier = new()
    two = SimpleNamespace(hidden_states=(torch.zeros(3, 9, 4), torch.zeros(3, 5, 4)))
    monkeypatch.setattr(classifier.model, "forward", lambda **batch: two)
    with pytest.raises(ValueError, match="have vectors of different shapes"):
        layer_features(classifier, TEXTS)


def test_memory_is_what_is_kept_and_nothing_changes():
    classifier = tiny_classifier()
    before, random = copy.deepcopy(classifier.model.state_dict()), torch.get_rng_state()
    rows = [training_memory(classifier, MOVIES["text"][:4], trainable=way) for way in ("head", 1, "all")]
    assert torch.equal(random, torch.get_rng_state()) and not moved(before, classifier)
    assert rows[0]["activations"] < rows[1]["activations"] <= rows[2]["activations"]
    for way, row in zip(("head", 1, "all"), rows, strict=True):
        weights = [weight for name, weight in classifier.model.named_parameters()
                   if way == "all" or depths(classifier.model)[name] > len(layer_names(classifier.model)) - int(way == 1)]
        assert row["gradients"] == pytest.approx(sum(weight.nbytes for weight in weights) / 1e6)
    with pytest.raises(ValueError, match="trainable must be"):
        training_memory(classifier, MOVIES["text"][:4], trainable="some")


@pytest.mark.parametrize("task", TASKS)
def test_what_is_recommended_keeps_every_limit(task):
    for labels, milliseconds, memory, language, tokens in itertools.product(
            (0, 60, 5000), (None, 5, 60), (None, 0.3, 4), ("en", "de", "cy"), (32, 600)):
        table = recommend_model(task=task, labels=labels, milliseconds=milliseconds, memory=memory, language=language,
                                tokens=tokens, speed=2e11)
        assert sorted(table.index) == sorted(model.name for model in MODELS)
        fits = table["fits"].tolist()
        assert fits == sorted(fits, reverse=True) and table["why"].str.len().min() > 0
        known = {model.name: model for model in MODELS}
        for name, row in table[table["fits"]].iterrows():
            model = known[name]
            assert model.kind in TASKS[task][0] and tokens <= model.context
            assert {"many", language} & set(model.languages.split())
            assert milliseconds is None or row["milliseconds"] <= milliseconds
            frozen = task != "classify" or not labels or (labels < FEW and model.kind == "sentence encoder")
            assert memory is None or (4 if frozen else 16) * (model.layers + model.table) / 1000 <= memory
            assert labels or task != "classify" or model.kind == "instructed decoder"


def published(name: str, **other: object) -> PublishedModel:
    return PublishedModel(name, "encoder", 10, 10, "en", 512, 2024, "MIT", {"MNLI": 84.0}, "here")._replace(**other)


def test_close_figures_are_called_close_and_the_smallest_goes_first():
    own = [published(name, layers=layers, figures={"MNLI": figure})
           for name, layers, figure in (("a", 30, 84.0), ("b", 10, 83.0), ("c", 5, 82.9), ("d", 40, 84.0), ("e", 1, 81.8))]
    for models in (own, own[::-1]):
        table = recommend_model(models=models, speed=1e11)
        assert list(table.index) == ["b", "a", "d", "c", "e"]
        said = ["smallest of 3", "close to b", "close to b", None, None]
        for why, words in zip(table["why"], said, strict=True):
            assert (words in why) if words else ("close" not in why)


@pytest.mark.parametrize("task", ["classify", "compare"])
def test_close_figures_of_sentence_encoders_are_called_close(task):
    own = [published(name, kind="sentence encoder", layers=layers, figures={"sentences": figure})
           for name, layers, figure in (("a", 80, 69.0), ("b", 10, 68.5), ("c", 5, 60.0))]
    table = recommend_model(task=task, labels=60, models=own, speed=1e11)
    assert list(table.index) == ["b", "a", "c"] and table["figure"].tolist() == [68.5, 69.0, 60.0]
    assert "smallest of 2" in table.loc["b", "why"] and "close to b" in table.loc["a", "why"]


def test_a_licence_that_is_not_accepted_throws_a_model_out():
    own = [published("a", licence="CC-BY-NC-4.0", figures={"MNLI": 99.0}), published("b")]
    table = recommend_model(models=own, licences=["mit", "Apache-2.0"], speed=1e11)
    assert list(table.index) == ["b", "a"] and table.loc["a", "why"] == "its licence is CC-BY-NC-4.0"
    table = recommend_model(models=own, speed=1e11)
    assert table.index[0] == "a" and "read what it allows" in table.loc["a", "why"]


def test_large_models_stand_behind_where_labels_are_few():
    own = [published("large", layers=304, figures={"MNLI": 95.0}), published("base", layers=86)]
    few, many = (recommend_model(labels=labels, models=own, speed=1e11) for labels in (FEW - 1, FEW))
    assert few.index[0] == "base" and "large for 499 labels" in few.loc["large", "why"]
    assert many.index[0] == "large" and "large for" not in many.loc["large", "why"]


def test_what_fits_into_the_memory_depends_on_what_is_trained():
    """20 million weights: 0.08 GB as they are, 0.32 GB to train all; a frozen sentence encoder is not trained"""
    own = [published("a"), published("s", kind="sentence encoder")]
    for memory, labels, fits in ((0.3, 1000, set()), (0.33, 1000, {"a", "s"}), (0.3, 60, {"s"}), (0.07, 60, set())):
        table = recommend_model(labels=labels, memory=memory, models=own, speed=1e11)
        assert set(table.index[table["fits"]]) == fits
        assert all("GB" in why for why in table["why"][~table["fits"]])
    assert "trainable='head' takes about 0.08" in recommend_model(memory=0.3, models=own, speed=1e11).loc["a", "why"]


NO_ADVICE = {
    "a word for licences": ({"licences": "MIT"}, "licences must be a list of names"),
    "no licence": ({"licences": []}, "licences must be a list"),
    "no speed": ({"speed": 0}, "speed must be a number above 0"),
    "a negative speed": ({"speed": -1e11}, "speed must be a number above 0"),
    "a speed of nan": ({"speed": math.nan}, "speed"),
    "names for models": ({"models": ["bert"]}, "models must hold PublishedModels only, got 'bert'"),
    "no models": ({"models": ()}, "at least one"), "none for models": ({"models": None}, "at least one"),
    "a model twice": ({"models": MODELS[:1] * 2}, "different names.*bert"),
    "a task": ({"task": "guess"}, "task must be one of classify, compare, write"),
    "labels": ({"labels": -1}, "labels"), "half a label": ({"labels": 0.5}, "labels"),
    "milliseconds": ({"milliseconds": 0}, "milliseconds"), "memory": ({"memory": -2}, "memory"),
    "a language in words": ({"language": "English"}, "two letters"), "accents": ({"language": "éñ"}, "two letters"),
    "no language": ({"language": None}, "two letters"), "tokens": ({"tokens": 0}, "tokens"),
}


@pytest.mark.parametrize("name", NO_ADVICE)
def test_bad_needs_are_named(name):
    wrong, words = NO_ADVICE[name]
    with pytest.raises(ValueError, match=words):
        recommend_model(**{"speed": 1e11, **wrong})


def test_sizes_of_the_table_are_those_of_the_models():
    """Where the library's own configuration is that of the published model"""
    for kind, name, options in (("bert", "google-bert/bert-base-uncased", {}), ("gpt2", "openai-community/gpt2", {}),
                                ("modernbert", "answerdotai/ModernBERT-base", {}),
                                ("distilbert", "distilbert/distilbert-base-uncased", {}),
                                ("minilm", "sentence-transformers/all-MiniLM-L6-v2", None)):
        with torch.device("meta") if options is not None else nullcontext():
            model = new("minilm").model if options is None else AutoModelForSequenceClassification.from_config(
                AutoConfig.for_model(kind, **options))
        places, weights = depths(model), dict(model.named_parameters())
        table = sum(weights[key].numel() for key, depth in places.items() if depth == 0) / 1e6
        layers = sum(weights[key].numel() for key, depth in places.items() if 0 < depth <= len(layer_names(model))) / 1e6
        known = next(each for each in MODELS if each.name == name)
        assert known.layers == pytest.approx(layers, abs=1) and known.table == pytest.approx(table, abs=1), name


def test_sources_are_addresses_and_figures_are_points():
    for model in MODELS:
        assert model.source.startswith("https://") and 2017 < model.year < 2027 and model.licence in ("MIT", "Apache-2.0")
        assert all(0 < figure < 100 for figure in model.figures.values())


@pytest.mark.slow
def test_the_benchmark_runs_whole_at_small_size():
    before = RESULT.read_bytes() if RESULT.is_file() else None
    output = run_tool(sys.executable, ROOT / "benchmarks/transfer_learning.py", "--small", timeout=1500,
                      PYTHONWARNINGS="ignore", HF_HUB_OFFLINE="1")
    assert {line.split()[0] for line in output.splitlines() if line.strip()} >= {"steps", "rates", "ways", "domains"}
    assert (RESULT.read_bytes() if RESULT.is_file() else None) == before


def test_a_dataset_with_strings_and_gradual_steps_of_one_epoch():
    """More depths than steps: the last are opened together; with one step only the head moves. Both are said"""
    rows = Dataset.from_dict({"text": [*TEXTS, "a good film"], "label": [1, 0, 1, 0]})
    for batch_size, steps in ((2, 2), (4, 1)):
        classifier = new("tiny-bert")
        before = copy.deepcopy(classifier.model.state_dict())
        with pytest.warns(UserWarning, match=f"has {steps} steps for 5 parts"):
            fine_tune(classifier, rows, epochs=1, batch_size=batch_size, trainable="gradual", progress=False,
                      learning_rate=1e-2, warmup=0.0)
        found = moved(before, classifier)
        assert (found == {4}) if steps == 1 else (found >= {3, 4})


BASE, XSMALL, LARGE = (f"microsoft/deberta-v3-{size}" for size in ("base", "xsmall", "large"))


@pytest.mark.parametrize(("measured", "words"), [
    ({"no-such-model": 5.0}, "no-such-model, which is not among the models"), ({BASE: 0.0}, f"the time of {BASE}"),
    ({BASE: "slow"}, f"the time of {BASE}")])
def test_times_of_other_models_and_no_times_are_refused(measured, words):
    with pytest.raises(ValueError, match=words):
        recommend_model(speed=1e12, measured=measured)


def test_a_time_that_was_measured_takes_the_place_of_the_estimate():
    call = {"labels": 5000, "speed": 1e11, "milliseconds": 40}
    before, after = recommend_model(**call), recommend_model(**call, measured={XSMALL: 500, LARGE: 20.0})
    assert before.loc[XSMALL, "fits"] and not after.loc[XSMALL, "fits"] and "measured" in after.loc[XSMALL, "why"]
    assert not before.loc[LARGE, "fits"] and after.index[0] == LARGE and "timed by you" in after.loc[LARGE, "why"]
    assert after.loc[[XSMALL, LARGE], "milliseconds"].tolist() == [500, 20]


def test_multilingual_encoders_are_compared_by_the_english_part_of_xnli_and_say_so():
    table = recommend_model(labels=5000, speed=1e12)
    assert "XNLI, English 88.2" in table.loc["microsoft/mdeberta-v3-base", "why"]
    assert table.loc["microsoft/mdeberta-v3-base", "figure"] == 88.2 and "MNLI 84.7" in table.loc["google-bert/bert-base-uncased", "why"]
    assert "no figure" in table.loc["answerdotai/ModernBERT-base", "why"]
