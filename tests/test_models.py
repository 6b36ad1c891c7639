"""A classifier leaves the model that it is given as it was, and its methods are methods."""

import copy
import inspect
import runpy
import threading

import pytest
import torch
from conftest import ROOT, tiny_classifier
from families import SIZES, tokenizer_of
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

import llm_course.models as models
from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.imdb_at_full_scale import LongTextClassifier
from llm_course.models import TextClassifier

LABELS = ["negative", "positive"]
METHODS = ("as_read", "tokenize", "pad", "padded", "logits", "predict_proba", "predict", "save", "load", "from_pretrained")
KINDS = ("bert", "roberta", "distilbert", "albert", "gpt2", "bart", "t5")


def theirs(kind: str = "bert") -> PreTrainedModel:
    "A small model with dropout, half of it in training mode, with a frozen weight and a hook"
    tokenizer = tokenizer_of("WordPiece")
    sizes = {key: value for key, value in SIZES.items() if kind == "bert" or key not in (
        {"distilbert": "hidden_size num_attention_heads num_hidden_layers", "gpt2": "hidden_size num_hidden_layers "
         "num_attention_heads attention_window attention_type", "bart": "hidden_size num_hidden_layers num_attention_heads",
         "t5": "hidden_size num_hidden_layers num_attention_heads n_layer n_head"}.get(kind, "").split())}
    own = {"bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
                    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
           "t5": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16, "decoder_start_token_id": 0}}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), num_labels=2, **{
        **sizes, **own.get(kind, {}), "pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102, "forced_eos_token_id": 102})
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).train()
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    return model


def described(model: PreTrainedModel) -> list:
    "All that a classifier could change in a model"
    parts = [(name, id(part), type(part), part.training, [*part._forward_hooks, *part._forward_pre_hooks], [*vars(part)])
             for name, part in model.named_modules()]
    weights = [(name, id(value), value.data_ptr(), value._version, value.dtype, value.device, value.requires_grad)
               for name, value in [*model.named_parameters(), *model.named_buffers()]]
    return [parts, weights, model.config.to_dict(), model.config._attn_implementation]


def drawn(model: PreTrainedModel) -> torch.Tensor:
    "Logits after a seed, as the model is: with dropout where it trains"
    batch = tokenizer_of("WordPiece")(["a gorgeous film", "no"], padding=True, return_tensors="pt")
    torch.manual_seed(1)
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def ties(model: PreTrainedModel) -> set[frozenset[str]]:
    "Which names stand for one weight"
    names = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(value.data_ptr(), set()).add(name)
    return {frozenset(group) for group in names.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_leaves_the_model_that_it_is_given_as_it_was(kind, tmp_path):
    model, rows = theirs(kind), load_dataset("movies")["train"].select(range(8))
    before, answer, state = described(model), drawn(model), copy.deepcopy(model.state_dict())
    train = {"epochs": 1, "batch_size": 4, "learning_rate": 0.1, "progress": False}
    for dtype in (torch.float64, None):
        mine = TextClassifier(model, tokenizer_of("WordPiece"), LABELS, dtype=dtype, max_length=8, device="cpu")
        assert ties(mine.model) == ties(model) and not mine.model.training
    assert mine.model is not model and type(mine.model) is type(model)
    frozen = [value.requires_grad for value in model.parameters()]
    assert [value.requires_grad for value in mine.model.parameters()] == frozen
    torch.testing.assert_close(mine.logits(["a film"]), TextClassifier(model.eval(), mine.tokenizer, LABELS, max_length=8,
                                                                       device="cpu").logits(["a film"]))
    model.train()
    next(model.children()).eval()
    fine_tune(mine, rows, **train)
    mine.save(tmp_path / "mine")
    assert described(model) == before and torch.equal(drawn(model), answer)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, state[name]) for name, value in mine.model.state_dict().items())


def test_what_the_classes_read_and_load_is_not_copied(tmp_path, monkeypatch):
    saved = tiny_classifier().save(tmp_path / "saved")
    monkeypatch.setattr(models, "own_copy", None)
    classifier = TextClassifier.load(saved, device="cpu")
    assert TextClassifier.from_pretrained(saved, labels=LABELS, device="cpu").labels == classifier.labels
    assert LongTextClassifier(classifier).classifier is classifier


def test_the_model_of_a_classifier_may_be_given_to_another_again_and_again():
    first = tiny_classifier()
    second = TextClassifier(first.model, first.tokenizer, LABELS, device="cpu")
    third = TextClassifier(second.model, second.tokenizer, LABELS, device="cpu")
    texts = ["A gorgeous film.", "No."]
    assert torch.equal(third.logits(texts), first.logits(texts))
    for part, other in zip(third.model.modules(), first.model.modules(), strict=True):
        assert len(part._forward_pre_hooks) == len(other._forward_pre_hooks) and part is not other
    with torch.no_grad():
        third.model.classifier.bias.add_(1)
    assert not torch.equal(third.logits(texts), first.logits(texts))


def test_a_model_that_was_compiled_is_copied_with_its_weights():
    plain = theirs().eval()
    compiled = torch.compile(plain, backend="eager")
    mine = TextClassifier(compiled, tokenizer_of("WordPiece"), LABELS, device="cpu")
    before = mine.logits(["a film"])
    with torch.no_grad():
        plain.classifier.bias.add_(1)
    assert torch.equal(mine.logits(["a film"]), before)
    with torch.no_grad():
        dict(mine.model.named_parameters())["_orig_mod.classifier.bias"].add_(2)
    torch.testing.assert_close(mine.logits(["a film"]), before + 2)


class Recorder:
    "Something that a hook belongs to"

    def __init__(self):
        self.seen, self.lock = [], threading.Lock()

    def __call__(self, *_):
        self.seen.append(1)


def with_a_lock() -> PreTrainedModel:
    model = theirs()
    model.register_forward_hook(Recorder().__call__)
    return model


def on_no_device() -> PreTrainedModel:
    with torch.device("meta"):
        return theirs()


def with_a_result() -> PreTrainedModel:
    model = theirs()
    model.doubled = 2 * model.classifier.weight
    return model


def replaced() -> PreTrainedModel:
    model = theirs()
    forward = model.forward
    model.forward = lambda *given, **named: forward(*given, **named)
    return model


def dispatched() -> PreTrainedModel:
    from accelerate import dispatch_model

    return dispatch_model(theirs(), {"": "cpu"}, force_hooks=True)


@pytest.mark.parametrize(("make", "kind", "said"), [
    (with_a_lock, TypeError, r"cannot be copied \(cannot pickle '_thread.lock' object\).*TextClassifier.from_pretrained"),
    (on_no_device, ValueError, "on the device 'meta'.*Load it whole"),
    (with_a_result, TypeError, "cannot be copied.*Remove what stands in the way"),
    (replaced, TypeError, "its forward was replaced by a function that holds it.*Remove what"),
    (dispatched, TypeError, "was replaced by a function that holds it"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_model_that_cannot_be_copied_is_refused_with_what_to_do(make, kind, said):
    model = make()
    before = described(model)
    with pytest.raises(kind, match=said):
        TextClassifier(model, tokenizer_of("WordPiece"), LABELS, device="cpu")
    assert described(model) == before


def test_a_hook_that_can_be_copied_still_runs():
    model, seen = theirs(), []
    model.register_forward_hook(lambda *_: seen.append(1))
    TextClassifier(model, tokenizer_of("WordPiece"), LABELS, device="cpu").logits(["a film"])
    assert seen == [1]


def test_methods_are_found_in_the_class_and_nowhere_else():
    for name in METHODS:
        assert not hasattr(models, name) and name not in models.__all__, name
        method = inspect.getattr_static(TextClassifier, name)
        function = getattr(method, "__func__", method)
        assert function.__doc__ and function.__name__ == name and function.__module__ == "llm_course.models"
        first = next(iter(inspect.signature(function).parameters))
        assert first == {"load": "folder", "from_pretrained": "name"}.get(name, "self")
    assert list(inspect.signature(TextClassifier).parameters) == [
        "model", "tokenizer", "labels", "max_length", "device", "dtype", "word_map"]


def test_the_public_methods_have_pages_of_reference():
    page = runpy.run_path(str(ROOT / "tools/api_pages.py"))["page_of"]("models")
    shown = {cell["source"]: "".join(str(output) for output in cell.get("outputs", ())) for cell in page.cells}
    for name in METHODS:
        assert f"TextClassifier.{name}" in shown[f"show_doc(TextClassifier.{name})"]
