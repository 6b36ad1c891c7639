"""What may be replaced by what: senses that were confused once, names, code, dates, titles, expressions, articles."""

import re
import sys
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch

from llm_course.adversarial_examples import Draft, SynonymAttack, TypoAttack
from llm_course.augmentation import ContextualReplacement, RandomDeletion, RandomInsertion, RandomSwap
from llm_course.augmentation import SynonymReplacement, TypingNoise
from llm_course.data import load_dataset
from llm_course.gaps import labelled
from llm_course.language_models import LanguageModel
from llm_course.pretraining import pretrain
from llm_course.words import STOP_WORDS, begins_with_vowel, in_expression, may_be_replaced, may_change, readings
from llm_course.words import split_words, synonyms

pytestmark = pytest.mark.filterwarnings("ignore::llm_course.augmentation.UnchangedTexts")

SENTENCES = """
We put off the meeting until Monday, but the report is due in March.
She turned down the job and went back to her old school.
The first day was long and the night was cold.
Interest rates rose again after the central bank met on Thursday.
He dealt with the problem in a calm and friendly way.
The bread was as hard as a rock, and the soup had no taste.
I love her sense of humour and the way she tells a story.
Robert called me last week about the car.
Jokes aside, the hotel was clean and the staff were kind.
Run `pip install numpy` and set max_depth = 3 before you start the test.
The function returns None if the list is empty.
“The Good Wife” is a better show than “House of Cards”.
Have you read The Great Gatsby? It is a short book.
A white shirt and a black tie are fine for the wedding.
Please call me back as soon as you can.
My phone died after two months, so I sent it back for a refund.
The battery lasts a whole day, and the screen is bright.
It took us an hour to find a place to park.
The company said on Friday that it will cut 300 jobs next year.
Police found the missing boy near the lake early in the morning.
The prime minister made a speech about health care and housing.
I can't put up with the noise any longer.
lol that movie was so funny, we laughed the whole time
hey are you free tonight? we could grab a bite and catch a film
Thanks for your help, I really appreciate it.
The plot falls apart in the second half, but the acting is great.
This is an awful film with a weak script and poor acting.
The kids had a good time, and so did I.
Take a look at the big picture before you make up your mind.
By the way, the train leaves at 9:15 from platform 4.
The doctor told him to give up smoking and get more rest.
An interesting idea, but the writer runs out of steam.
Mark said that Grace and Joy will come to the party in May.
In the end it was a fair game, and the better team won.
The price of oil fell sharply after the talks in Vienna.
Students must hand in their homework on time.
I bought this camera for my wife, and she is very happy with it.
Your order has been shipped and should arrive within three days.
The food was excellent and the waiter was polite, but we waited for ages.
Scientists say that the new drug could save many lives.
""".strip().splitlines()
WRONG = """day daytime|day year|night nighttime|night dark|days daytimes|interest involvement|rates involvement
white whitenesses|dealt considered|humour temper|humour humor|jokes gags|white whiteness|phone name|died exited
called named|school schoolhouse|rose arose|met encountered|better best|health wellness|steam steamer|food nutrient
minister pastor|prime premier|staff faculty|boy son|order ordering|came arrived|party company|hard difficult
funny curious|made created|image icon|picture impression|told said|tells says|bright smart|talks talkings
big large|mind brain|make create|look face|job chore|jobs chores|way style|wife better|function mapping""".split("|")


def replaced(text: str) -> set[tuple[str, str]]:
    "Every word of a text with each word that ever takes its place, in lower case"
    pairs, old = set(), split_words(text)
    for copy in SynonymReplacement(1.0).augment([text], n=12, seed=0)[0]:
        new = split_words(copy)
        assert len(new) == len(old)
        pairs |= {(a.lower(), b.lower()) for a, b in zip(old[1::2], new[1::2], strict=True) if a != b}
    return pairs


@pytest.mark.parametrize("sentence", SENTENCES)
def test_no_sense_is_confused_in_everyday_sentences(sentence):
    wrong = {tuple(pair.split()) for line in WRONG for pair in line.split("\n")}
    assert not replaced(sentence) & wrong


def test_two_of_five_everyday_sentences_can_be_changed():
    assert sum(bool(replaced(sentence)) for sentence in SENTENCES) >= 16


@pytest.mark.parametrize("text", [
    "We put off the talk.", "Put the talk off!", "He gave up.", "Take it easy.", "It is hard as a rock.", "Good luck!",
    "She has a sense of humor.", "Free of charge.", "Jokes aside.", "Kind regards", "A great deal", "Thank you guys",
])
def test_expressions_stay_whole(text):
    pieces = split_words(text)
    assert any(in_expression(pieces, place) for place in range(1, len(pieces), 2))
    assert not replaced(text)


@pytest.mark.parametrize("text", [
    "Robert called. Grace! Joy. Mark?", "friday, on MONDAY and in january", "`start the film` and print(film)",
    "March. Boston! Turkey? China", "```python film = great; print the funny movie now and then again```",
    "@film #movie https://film.org/movie film_name filmName film/movie", "“Great Movie” and \"Bad Film\" by NASA",
    "Great Expectations",
])
def test_names_dates_code_and_titles_stay(text):
    pieces = split_words(text)
    stays = [place for place in range(1, len(pieces), 2) if pieces[place] not in ("called",)]
    assert not any(may_change(pieces, place) for place in stays)
    for kind in (SynonymReplacement, TypingNoise):
        for copy in kind(1.0).augment([text], n=4)[0]:
            assert all(split_words(copy)[place] == pieces[place] for place in stays)


def articles_agree(text: str, original: str) -> bool:
    "Whether every a and an that has a new neighbour sounds right"
    def pairs(of: str) -> set[tuple[str, str]]:
        return {(a.lower(), b.lower()) for a, b in re.findall(r"\b([Aa]n?|AN) (\w+)", of)}

    spelled = re.findall(r"\b[A-Z]{2,3}\b", text)  # abbreviations go by the names of their letters
    new = [(article, word) for article, word in pairs(text) - pairs(original) if word.upper() not in spelled]
    return all((article == "an") == bool(begins_with_vowel(word) or re.match(r"8|1[18]\b", word)) for article, word in new)


@pytest.mark.parametrize("kind", [SynonymReplacement, RandomInsertion, RandomSwap, RandomDeletion,
                                  partial(RandomSwap, any_word=True), partial(RandomDeletion, any_word=True)])
def test_articles_agree_after_every_operation(kind):
    texts = [*load_dataset("movies")["test"]["text"][:300], "An awful film and a great idea.", "A GREAT IDEA, AN EASY ONE"]
    for text, copies in zip(texts, kind(0.5).augment(texts, n=3), strict=True):
        for copy in copies:
            assert articles_agree(copy, text), copy


def test_articles_agree_under_attack():
    class Dislikes:
        labels = ("negative", "positive")

        def predict_proba(self, texts, batch_size=32):
            good = [sum(word in {"great", "funny"} for word in split_words(text)[1::2]) for text in texts]
            return torch.tensor([[0.9 - 0.3 * n, 0.1 + 0.3 * n] for n in good], dtype=torch.float64)

    report = SynonymAttack(candidates=lambda word: {"great": ["awesome"], "funny": ["amusing"]}.get(word, ())).attack(
        Dislikes(), {"text": ["A great film with a funny cast"], "label": [1]}, progress=False)
    (result,) = report.results
    assert articles_agree(result.perturbed, result.text) and "an a" in result.perturbed.lower()
    assert all(new in ("awesome", "amusing") for _, new in result.changes)  # the article is no change of its own
    draft = Draft("An old idea", 1)
    assert draft.with_word(3, "new") == "A new idea" and draft.changes == {}


def test_attacks_leave_expressions_and_names_but_a_typing_mistake_may_hit_an_expression():
    assert SynonymAttack().changeable is may_be_replaced and TypoAttack().changeable is may_change


def test_graded_words_stay_after_not():
    assert synonyms("great", "so") and not synonyms("great", "not") and not synonyms("really", "isn't")


def test_what_was_said_already_is_not_said_again():
    assert ("film", "movie") not in replaced("A film is not a movie, nor is a movie a film.")


def test_the_word_after_decides():
    assert "difficult" in synonyms("hard", "is", "to") and not synonyms("hard", "as", "as")
    assert "opportunity" in synonyms("chance", "a", "to") and not synonyms("chance", "by", "")
    assert not synonyms("love", "i", "her") and "adore" in synonyms("love", "i", "films")


sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))


def test_every_checked_pair_is_read_and_none_is_an_antonym():
    from synonym_table import checked_pairs
    pairs = checked_pairs()
    assert len(pairs) > 1200
    for (part, word, after), words in pairs.items():
        assert part in {"n", "v", "a", "r", "ns", "vd", "vg", "at"} and word.isalpha() and word not in words
        assert all(each.isalpha() and each.islower() for each in (*words, *after.split()))
        assert word not in STOP_WORDS
        tags = {reading.tag[0] for reading in readings(word)}
        assert not words or part[0] in tags, (word, part)


def test_a_model_that_read_labels_fills_gaps_by_them(tmp_path):
    names, words = ["negative", "positive"], (("dull", "awful", "weak"), ("great", "funny", "fine"))
    draws, frames = Random(0), ("the film was {}", "a {} story", "we saw a {} movie there", "this cast is {}")
    labels = [draws.randrange(2) for _ in range(1000)]
    texts = [draws.choice(frames).format(draws.choice(words[label])) for label in labels]
    model = LanguageModel.from_pretrained("tiny-bert", device="cpu")
    pretrain(model, labelled(texts, labels, names), epochs=10, learning_rate=2e-3, batch_size=8, progress=False)
    model.save(tmp_path / "model")
    filler = ContextualReplacement(0.2, model_name=str(tmp_path / "model"), condition="label", names=names, top=5)
    asked = ["the film was strange", "a strange story", "we saw a strange movie there"]
    for label, own in enumerate(words):
        copies = [copy for row in filler.augment(asked, labels=[label] * 3, n=20) for copy in row]
        told = [word for copy in copies for word in copy.split() if word in (*words[0], *words[1])]
        assert len(told) > 15 and sum(word in own for word in told) > 0.9 * len(told), (label, told)
