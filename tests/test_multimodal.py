"""Pictures with words from outside: the bundled emoji, what is refused, equality with transformers, and that training is what it says."""

import gzip
import json
import math
import warnings
from functools import lru_cache

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT
from datasets import Dataset
from transformers import CLIPImageProcessor
from transformers.models.clip import modeling_clip

from llm_course.callbacks import Callback, Stop
from llm_course.data import SPLITS, load_dataset
from llm_course.few_labels import ContrastiveLoss
from llm_course.models import SentenceEncoder, model_source
from llm_course.multimodal import (DualEncoder, Matching, class_vectors, match, matching_scores, nearest, pairs_for,
                                   picture_occlusion, recall_at, retrieval_ranks, search, zero_shot)
from llm_course.pictures.hub import HubClip, write_random_clip
from llm_course.pictures.pairs import RememberedTexts, read_pairs
from llm_course.pictures.reading import pasted, picture_tensor
from llm_course.tokens import load_tokenizer


@lru_cache
def rows(part: str = "train", count: int = 24) -> Dataset:
    every = load_dataset("emoji")[part]
    return every.select([place for place, artist in enumerate(every["artist"]) if artist == "noto"][:count])


@lru_cache
def texts() -> RememberedTexts:
    return RememberedTexts(SentenceEncoder("tiny-bert", device="cpu"))


def fresh(**options: object) -> DualEncoder:
    return DualEncoder(texts(), **{"width": 4, **options})


def trained(model: DualEncoder, *data: Dataset, **changed: object):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return match(model, *(data or [rows()]), **{"epochs": 2, "batch_size": 8, "progress": False, **changed})


def weights(model: DualEncoder) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.model.parameters()])


# --- the data

def test_the_bundled_emoji_are_whole():
    """Each emoji by both artists in one part; no name in two parts; tiles are where the table says"""
    emoji = load_dataset("emoji")
    names = {}
    for part in SPLITS:
        pairs = set(zip(emoji[part]["text"], emoji[part]["artist"], strict=True))
        assert len(pairs) == len(emoji[part]) and {artist for _, artist in pairs} == {"noto", "fluent"}
        names[part] = {name for name, _ in pairs}
        assert all(keywords is not None for keywords in emoji[part]["keywords"])
    assert not names["train"] & names["test"] and not names["validation"] & (names["train"] | names["test"])
    with gzip.open(ROOT / "llm_course/assets/emoji.jsonl.gz", "rt", encoding="utf-8") as lines:
        table = {row["text"]: row for row in map(json.loads, lines)}
    sheet = PIL.Image.open(ROOT / "llm_course/assets/emoji.png").convert("RGB")
    for row in emoji["test"].select(range(5)):
        place = table[row["text"]]["tiles"][row["artist"]]
        left, top = place % 64 * 32, place // 64 * 32
        assert row["image"].tobytes() == sheet.crop((left, top, left + 32, top + 32)).tobytes()
    people = {name: part for part in SPLITS for name in names[part]}
    for one, other in (("man farmer", "woman farmer"), ("one o’clock", "ten-thirty"), ("up arrow", "left arrow"),
                       ("red apple", "green apple")):
        assert people[one] == people[other]


# --- the loss

def test_the_loss_is_that_of_transformers():
    generator = torch.Generator().manual_seed(0)
    for count, size, tau in ((2, 3, 1.0), (7, 16, 0.07), (40, 8, 0.01)):
        left, right = (torch.nn.functional.normalize(torch.randn(count, size, generator=generator), dim=-1) for _ in "ab")
        theirs = modeling_clip.image_text_contrastive_loss(left @ right.T / tau)
        torch.testing.assert_close(ContrastiveLoss(tau)(left, right), theirs, atol=1e-4, rtol=1e-5)


def test_pairs_of_one_name_are_no_wrong_answers():
    """Two texts of one thing, such as a name and keywords: where they are marked, either is right for either picture"""
    model = fresh().model
    pictures, words = picture_tensor(rows()["image"][:4]), texts().encode(["cat", "dog", "a pet that purrs", "fish"])
    with torch.no_grad():
        marked, apart = (model(pictures, torch.tensor(same), words=words) for same in ([0, 1, 0, 2], [0, 1, 2, 3]))
        right = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
        expected = model.loss(model.pictures(pictures), model.read(words), right)
    assert torch.equal(marked, expected) and not torch.isclose(marked, apart)


# --- training

@pytest.mark.parametrize("tuned", [False, True])
def test_training_moves_what_it_should(tuned):
    """All weights, the temperature's too; the text encoder only where it is tuned, and never the one that was given"""
    given = [weight.clone() for weight in texts().model.parameters()]
    model = fresh(tuned=tuned)
    before = {name: weight.clone() for name, weight in model.model.named_parameters()}
    run = trained(model, rows(), rows("validation", 12))
    unmoved = {name for name, weight in model.model.named_parameters() if torch.equal(weight, before[name])}
    assert not {name for name in unmoved if "pooler" not in name and "embed_positions" not in name}  # which are not learned
    assert any(name.startswith("texts.") for name in before) == tuned
    assert all(torch.equal(*pair) for pair in zip(given, texts().model.parameters(), strict=True))
    assert len(run.steps) == run.total_steps == 6 and run.examples == 48 and not model.model.training
    assert {"loss", "recall"} <= set(run.evaluations[-1]) and "6 of 6 steps, 48 pairs" in repr(run)


def test_training_is_the_same_again_and_another_with_another_seed():
    first, again, other = (fresh(seed=seed) for seed in (0, 0, 1))
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        trained(model, seed=seed)
    assert torch.equal(weights(first), weights(again)) and not torch.equal(weights(first), weights(other))


def test_looking_at_validation_pictures_changes_nothing():
    """Batch normalisation remembers what it is trained on, not what is looked at while training"""
    alone, watched = fresh(), fresh()
    trained(alone)
    trained(watched, rows(), rows("validation", 12))
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name


def test_pairs_that_fill_no_batch_wait():
    """26 pairs in batches of 8: three steps an epoch; fewer pairs than a batch make one step"""
    assert [len(trained(fresh(), rows("train", count), epochs=1).steps) for count in (26, 5)] == [3, 1]


def test_training_learns_pairs_by_heart():
    model = fresh(width=8)
    start = matching_scores(model, rows()["image"][:], rows()["text"][:])["loss"]
    trained(model, objective=Matching(pixels=0, degrees=0, zoom=0, mirror=0, hidden=0), epochs=30, learning_rate=5e-3, batch_size=24)
    end = matching_scores(model, rows()["image"][:], rows()["text"][:])
    assert end["loss"] < start - 1 and end["recall"] > 10 / 24 + 0.2


def test_a_callback_stops_it():
    class After(Callback):
        def on_step(self, run):
            if len(run.steps) == 2:
                raise Stop

    assert len(trained(fresh(), callbacks=[After()]).steps) == 2


def test_validation_names_of_the_training_are_told():
    with pytest.warns(UserWarning, match="validation recall will be too good"):
        match(fresh(), rows(), rows("train", 8), epochs=1, batch_size=8, progress=False)


# --- what is refused

PICTURES = rows()["image"][:3]


@pytest.mark.parametrize(("data", "options", "kind", "words"), [
    ({"image": PICTURES, "text": ["a", "b"]}, {}, ValueError, "3 values of 'image' and 2 values of 'text'"),
    ({"image": PICTURES, "text": ["a", "b", ""]}, {}, ValueError, "Text 2 of the training data is empty"),
    ({"image": PICTURES}, {}, ValueError, "no column 'text'"),
    ({"image": [*PICTURES[:2], "c.png"], "text": ["a", "b", "c"]}, {}, TypeError, "Picture 2 is of type str"),
    ({"image": PICTURES[:1], "text": ["a"]}, {}, ValueError, "there must be two at least"),
    ({"image": PICTURES, "text": ["a", "b", "c"]}, {"batch_size": 1}, ValueError, "batch_size is 1"),
    ({"image": PICTURES, "text": ["a", "b", "c"]}, {"epochs": 0}, ValueError, "epochs"),
    ({"image": PICTURES, "text": ["a", "b", "c"]}, {"objective": Matching}, TypeError, "write Matching()"),
])
def test_what_cannot_be_trained_on_says_why(data, options, kind, words):
    model = fresh()
    before = weights(model)
    with pytest.raises(kind, match=words.replace("(", r"\(").replace(")", r"\)")):
        match(model, data, progress=False, **options)
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(("setting", "words"), [({"pixels": -1}, "pixels"), ({"degrees": -2}, "degrees"),
                                               ({"zoom": float("nan")}, "zoom"), ({"mirror": 1.5}, "mirror"),
                                               ({"hidden": -1}, "hidden")])
def test_an_objective_checks_its_settings(setting, words):
    with pytest.raises(ValueError, match=words):
        Matching(**setting)


def test_pictures_of_any_size_and_mode_are_seen_as_on_white():
    model, picture = fresh(), rows()[0]["image"]
    vectors = model.embed_pictures([picture, picture.convert("RGBA"), picture.resize((64, 64), PIL.Image.Resampling.NEAREST)])
    torch.testing.assert_close(vectors[0], vectors[1])
    assert vectors[0] @ vectors[2] > 0.99
    mirrored = model.embed_pictures([picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)])
    torch.testing.assert_close(mirrored[0], vectors[0])  # each is looked at both ways
    grey = model.embed_pictures([picture.convert("L"), picture.convert("L").convert("RGB")])
    torch.testing.assert_close(grey[0], grey[1])
    with pytest.raises(ValueError, match="which number is white"):
        model.embed_pictures([PIL.Image.fromarray(np.zeros((4, 4), np.float32))])
    with pytest.raises(TypeError, match=r"write \[picture\]"):
        model.embed_pictures(picture)


def test_queries_and_collections_that_cannot_be_searched_say_why():
    model = fresh()
    gallery = model.embed_pictures(PICTURES)
    assert len(search(model, "cat", gallery, 3)) == 3
    for query in ("", " \n"):
        with pytest.raises(ValueError, match="query is empty"):
            search(model, query, gallery)
    with pytest.raises(TypeError):
        search(model, None, gallery)
    with pytest.raises(ValueError, match="the collection holds 3"):
        search(model, "cat", gallery, 5)
    with pytest.raises(ValueError, match="two classes or more"):
        class_vectors(model, {"one": ["a cat"]})
    with pytest.raises(ValueError, match="each with a list of texts"):
        zero_shot(model, PICTURES, {"cat": "a cat", "dog": "a dog"})
    with pytest.raises(ValueError, match="does not fit into 32 x 32"):
        picture_occlusion(model, PICTURES[0], "cat", side=40)
    with pytest.raises(ValueError, match="does not fit"):
        pasted(PICTURES[0], PICTURES[1], 64)
    with pytest.raises(ValueError, match="N at least 2"):
        matching_scores(model, PICTURES[:1], ["cat"])


# --- measures

def test_recall_is_that_of_a_plain_count():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.nn.functional.normalize(torch.randn(50, 4, generator=generator), dim=-1) for _ in "ab")
    ranks = retrieval_ranks(queries, gallery)
    for row in range(50):
        order = (gallery @ queries[row]).argsort(descending=True).tolist()
        assert order.index(row) + 1 == ranks[row]
        assert nearest(queries[row], gallery, 7) == order[:7]
    assert recall_at(ranks, 50) == 1 and math.isclose(recall_at(ranks, 5), sum(ranks.tolist()[i] <= 5 for i in range(50)) / 50)


def test_a_model_that_says_the_same_of_all_finds_nothing():
    same = torch.ones(30, 4) / 2
    assert recall_at(retrieval_ranks(same, same), 29) == 0 and recall_at(retrieval_ranks(same, same), 30) == 1


def test_an_occlusion_sees_what_a_planted_model_looks_at():
    class Corner:
        "Its similarity is the redness of one pixel"

        def embed_texts(self, texts):
            return torch.tensor([[1.0, 0.0]] * len(texts))

        def embed_pictures(self, pictures):
            red = torch.tensor([1 - picture.getpixel((5, 20))[1] / 255 for picture in pictures])
            return torch.stack([red, (1 - red**2).clamp(min=0).sqrt()], 1)

    fall = picture_occlusion(Corner(), PIL.Image.new("RGB", (32, 32), (255, 0, 0)), "red", side=8, step=8)
    assert fall.shape == (4, 4) and fall[2, 0] == 1 and fall.sum() == 1


def test_a_text_is_read_once_and_forms_are_names_and_keywords():
    pictures, forms = read_pairs(rows())
    assert len(pictures) == len(forms) == 24 and all(len(each) == 2 for each in forms)
    model = fresh()
    record = pairs_for(model, pictures, forms)
    assert record.columns["words"].shape[:2] == (24, 2) and len(texts().known) >= 24
    torch.testing.assert_close(record.columns["words"][3, 0], texts().encoder.encode([forms[3][0]])[0], atol=1e-5, rtol=0)


def test_a_clip_sees_a_picture_as_its_library_prepares_it(tmp_path):
    """Of the size that the model reads: the same colours, brought to the same mean and deviation"""
    clip = HubClip(write_random_clip(tmp_path, load_tokenizer(model_source("tiny-bert"))), device="cpu")
    side = clip.model.config.vision_config.image_size
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(256, size=(side, side, 3), dtype=np.uint8))
    prepare = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    with torch.inference_mode():
        found = clip.model.get_image_features(pixel_values=torch.tensor(np.array(prepare(picture)["pixel_values"])))
    theirs = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=-1)
    torch.testing.assert_close(clip.embed_pictures([picture]), theirs, atol=1e-5, rtol=0)
