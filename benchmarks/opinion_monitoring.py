"""Three rules that look for a turn of opinion: hours until the alarm at equal false alarms, and what an estimated start costs.

    python benchmarks/opinion_monitoring.py                    # all rows; goes on where an earlier call was stopped
    python benchmarks/opinion_monitoring.py --part estimated   # only one part
    python benchmarks/opinion_monitoring.py --small            # a quick try; writes nothing

Streams are drawn as in the lesson: 288 texts a day with a daily wave, whose busiest hour comes 2, 8, 14 or 20 hours after the
turn, one hour in fifty with five times as many, texts drawn with replacement from all bundled
product sentences, answered by the classifier of movie reviews; 60 of 100 are positive.

tuned: each rule's setting with the shortest delay after a fall from 60 to 40 at one false alarm in 250 hours, of six settings
each, on streams of its own. delays: at one false alarm in 250, 500 and 1,000 hours, the hours from a fall by 5 to 40 points to
the alarm, of streams that were quiet before. The threshold is that of calm streams, other ones than those that fall, in the 100
hours after the 48 in which they must be quiet. A stream that has not rung at its end counts as that long; how many, is kept.
estimated: the expected share of answers comes from a first week, the threshold from calm streams with the true one, for one
false alarm in 250 hours; how many hours there are for a false alarm then. Two processes work (or --processes)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from common import interval, make_parts, parser_of_parts

from llm_course.data import load_dataset
from llm_course.fine_tuning import baseline_classifier
from llm_course.monitoring.streams import drawn_counts, drawn_positives, hourly_rates
from llm_course.opinion_monitoring import BayesianChange, Cusum, MovingMean, run_lengths, threshold_for

NAME, EVERY, FALLS, BEFORE, CALM = "opinion_monitoring", (250, 500, 1000), (0.05, 0.1, 0.2, 0.3, 0.4), 48, 100
SETTINGS = {"CUSUM": (0.05, 0.1, 0.15, 0.2, 0.3, 0.4), "moving mean": (3, 6, 12, 24, 48, 96),
            "Bayesian": (0.1, 0.01, 0.003, 0.001, 0.0003, 0.0001)}


class Sizes(NamedTuple):
    "How much is drawn"

    texts: int | None  # None: all
    tuning: int  # streams that turn, and four times as many calm ones
    streams: int  # that are judged
    calm: int  # streams from which their thresholds come
    after: int  # hours after the turn
    weeks: int  # first weeks from which the expected share is estimated
    watched: int  # calm streams for each of them


FULL, SMALL = Sizes(None, 500, 2000, 10_000, 400, 200, 100), Sizes(120, 12, 12, 24, 60, 3, 8)


@lru_cache(1)
def known(most: int | None) -> tuple[np.ndarray, np.ndarray]:
    "Labels of product sentences, and the classifier's answers; read once a process"
    rows = [row for part in load_dataset("products").values() for row in part][:most]
    answers = baseline_classifier("movies", size=3000).predict_proba([row["text"] for row in rows], batch_size=64).argmax(1)
    return np.array([row["label"] for row in rows]), answers.cpu().numpy()


def share_of_answers(sizes: Sizes, share: float) -> float:
    "Of positive answers, for a share of positive texts"
    labels, answers = known(sizes.texts)
    return float(answers[labels == 1].mean() * share + answers[labels == 0].mean() * (1 - share))


def rule_of(sizes: Sizes, rule: str, setting: float, expected: float | None = None) -> object:
    "A new rule; the expected share of answers is the true one where none is given"
    expected = share_of_answers(sizes, 0.6) if expected is None else expected
    if rule == "CUSUM":
        fall = share_of_answers(sizes, 0.6) - share_of_answers(sizes, 0.6 - setting)
        return Cusum(expected, max(0.01, expected - fall))
    return MovingMean(expected, int(setting)) if rule == "moving mean" else BayesianChange(expected, setting)


def drawn(sizes: Sizes, shares: np.ndarray, streams: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    "Positive answers and texts of each hour and stream"
    parts = [drawn_counts(hourly_rates(len(shares), 288, busiest=busiest), -(-streams // 4), bursts=0.02,
                          seed=seed + 100_000 * busiest) for busiest in (2, 8, 14, 20)]
    counts = np.concatenate(parts, axis=1)[:, :streams]
    return drawn_positives(counts, shares, *known(sizes.texts), seed=seed + 1), counts


def statistics(rule: object, stream: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    "What a rule says after each hour"
    return np.array([rule.update(*hour) for hour in zip(*stream, strict=True)])


def delays(found: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    "Hours from the turn to the alarm, of the streams that were quiet until then, and whether they rang"
    quiet = ~(found[:BEFORE] >= threshold).any(0)
    return run_lengths(found[BEFORE:, quiet], threshold)


def falling(sizes: Sizes, fall: float, streams: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    "Streams that turn"
    return drawn(sizes, np.repeat([0.6, 0.6 - fall], [BEFORE, sizes.after]), streams, seed)


def tuned(sizes: Sizes, rows: dict, rule: str) -> dict:
    "The setting with the shortest delay"
    calm = drawn(sizes, np.full(BEFORE + CALM, 0.6), 4 * sizes.tuning, 100)
    turned, found = falling(sizes, 0.2, sizes.tuning, 102), {}
    for setting in SETTINGS[rule]:
        threshold = threshold_for(statistics(rule_of(sizes, rule, setting), calm), 250, BEFORE)
        found[setting] = float(np.mean(delays(statistics(rule_of(sizes, rule, setting), turned), threshold)[0]))
    return {"hours": {str(setting): hours for setting, hours in found.items()}, "setting": min(found, key=found.get)}


def judged(sizes: Sizes, rows: dict, rule: str) -> dict:
    "Hours until the alarm, by hours for a false alarm and by fall"
    setting = rows["tuned"][rule]["setting"]
    calm = statistics(rule_of(sizes, rule, setting), drawn(sizes, np.full(BEFORE + CALM, 0.6), sizes.calm, 200))
    thresholds, hours, silent = {every: threshold_for(calm, every, BEFORE) for every in EVERY}, {}, {}
    for fall in FALLS:
        turned = statistics(rule_of(sizes, rule, setting), falling(sizes, fall, sizes.streams, 300 + round(100 * fall)))
        for every, threshold in thresholds.items():
            late, rang = delays(turned, threshold)
            mean, width = map(float, interval(late.tolist()) if len(late) > 1 else [float("nan")] * 2)
            hours.setdefault(str(every), {})[str(round(100 * fall))] = [mean, width]
            silent.setdefault(str(every), {})[str(round(100 * fall))] = float((~rang).mean()) if len(rang) else float("nan")
    return {"hours": hours, "silent": silent, "setting": setting}


def estimated(sizes: Sizes, rows: dict, seed: int) -> dict:
    "Hours for a false alarm where the expected share comes from a first week"
    week, found = drawn(sizes, np.full(168, 0.6), 1, 10_000 + 10 * seed), {}
    share = float(week[0].sum() / week[1].sum())
    calm = drawn(sizes, np.full(1000, 0.6), sizes.watched, 10_002 + 10 * seed)
    for rule in SETTINGS:
        setting = rows["tuned"][rule]["setting"]
        threshold = threshold_for(statistics(rule_of(sizes, rule, setting), calm), 250)
        lengths, rang = run_lengths(statistics(rule_of(sizes, rule, setting, share), calm), threshold)
        found[rule] = float(lengths.sum() / max(1, rang.sum()))
    return {"off": share - share_of_answers(sizes, 0.6), "hours": found}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Settings; delays by hours for a false alarm, fall and rule; the middle half of hours for a false alarm"
    found = {"settings": {rule: row["setting"] for rule, row in rows.get("tuned", {}).items()}}
    judged_rows, weeks = rows.get("delays", {}), list(rows.get("estimated", {}).values())
    if len(judged_rows) == len(SETTINGS):
        found["delays"] = {str(every): {str(round(100 * fall)): {
            rule: judged_rows[rule]["hours"][str(every)][str(round(100 * fall))] for rule in SETTINGS}
            for fall in FALLS} for every in EVERY}
        found["never rang, at most"] = max(share for row in judged_rows.values() for by_fall in row["silent"].values()
                                           for share in by_fall.values())
    found["estimated"] = {rule: np.percentile([row["hours"][rule] for row in weeks], [25, 75]).tolist()
                          for rule in SETTINGS} if weeks else {}
    return found


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, ["tuned", "delays", "estimated"]).parse_args()
    sizes = SMALL if given.small else FULL
    jobs = {"tuned": {rule: (rule,) for rule in SETTINGS}, "delays": {rule: (rule,) for rule in SETTINGS},
            "estimated": {f"week {seed}": (seed,) for seed in range(sizes.weeks)}}
    rows = make_parts(NAME, given, sizes, jobs, {"tuned": tuned, "delays": judged, "estimated": estimated}, summary)
    print(summary(rows))


if __name__ == "__main__":
    main()
