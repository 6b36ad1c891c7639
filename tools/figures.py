"""Write benchmarks/README.md, the page of all figures, and the measured lines of README.md, from the result files.

    python tools/figures.py

No figure in them is typed by hand.

A result file has a section here, or this ends with an error. What a section says in words must hold whatever the
figures are; where it compares, the words are chosen by the figures.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"
HEAD = """# Figures

What the project says of quality and speed, as it was measured: each section names the script that measured it and the
file that the script wrote, with the machine, the versions and the single runs. Rivals ran in the same rounds, in turn. A
ratio is the median of the rounds' ratios, not the ratio of the medians beside it.
This page is written from those files by `tools/figures.py`.
"""


def number(value: float | None) -> str:
    "A figure with three digits, or all digits before the point"
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float, digits: int = 1) -> str:
    "A share in percent"
    return f"{100 * value:.{digits}f} %"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    "A table in Markdown; numbers are rounded"
    head = list(head)
    lines = [head, ["---"] * len(head)]
    lines += [[number(cell) if isinstance(cell, (int, float)) or cell is None else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_contestant(medians: dict[str, dict], **columns: str) -> str:
    "The medians of each contestant: a column for each figure, by its name in the file"
    return table(["", *columns.values()], [[f"`{name}`", *(row.get(key) for key in columns)] for name, row in medians.items()])


def spread(values: Iterable[float], shown: Callable[[float], str] = percent) -> str:
    "The lowest and the highest of some figures, if there are any"
    values = list(values)
    return f"{shown(min(values))} to {shown(max(values))}" if values else "not measured"


def mean_and_width(pair: list[float] | None, form: str = ".1f") -> str:
    "A mean of shares in percent and the half width of its interval, if there is more than one seed"
    if pair is None:
        return ""
    return f"{100 * pair[0]:{form}}" + (f" ± {100 * pair[1]:.1f}" if pair[1] == pair[1] else "")


def with_limits(value: list[float] | None, form: str = ".1f", scale: float = 100) -> str:
    "A number and its interval, scaled: shares in percent, if nothing else is said"
    return "" if value is None else "{} [{}, {}]".format(*(format(scale * each, form) for each in value))


def times(ratios: dict[str, float], what: str) -> str:
    "A sentence of ratios"
    return f"{what}: " + ", ".join(f"{number(ratio)} times {name}" for name, ratio in ratios.items()) + "."


def training_speed(found: dict) -> str:
    accuracies = [f"`{name}` {spread(run['test_accuracy'] for run in runs)}" for name, runs in found["runs"].items()]
    return "\n\n".join([
        f"{found['data']}; medians of {len(found['runs']['fine_tune'])} rounds.",
        by_contestant(found["medians"], examples_per_second="texts per second", peak_memory_mib="peak memory in MiB",
                      test_accuracy="test accuracy"),
        times(found["fine_tune_times_faster_than"], "`fine_tune`, in the same round"),
        f"So few runs of one epoch say nothing of who learns better: their accuracies reach from {', '.join(accuracies)}."])


def inference_speed(found: dict) -> str:
    return "\n\n".join([
        f"{found['data']}; medians.",
        by_contestant(found["medians"], texts_per_second="texts per second", peak_memory_mib="peak memory in MiB"),
        times(found["predict_proba_times_faster_than"], "`predict_proba`, in the same round")])


def accuracy(found: dict) -> str:
    rows = [[name, runs[0]["reviews"], found["settings"][name]["epochs"], spread(run["accuracy"] for run in runs),
             max(run["training_seconds"] for run in runs)] for name, runs in found["runs"].items()]
    return f"{found['data']}; one row is {len(found['runs']['all data'])} seeds.\n\n" + table(
        ["", "training reviews", "epochs", "test accuracy", "seconds, at most"], rows)


def fine_tuning(found: dict) -> str:
    sizes, texts, made = found["sizes"], [], found["parts"]
    if "optimisers" in made:
        best: dict[str, dict] = {}
        for row in made["optimisers"]["means"]:
            if row["optimiser"] not in best or row["loss"] < best[row["optimiser"]]["loss"]:
                best[row["optimiser"]] = row
        texts += [f"Loss after 24 steps over the same {sizes['memorised']} reviews, at the best of {sizes['rates']} learning rates; "
                  f"means of {sizes['seeds']} seeds with 95 % intervals.",
                  table(["optimiser", "learning rate", "loss"], [[name, f"{row['learning_rate']:g}", f"{row['loss']:.3f} ± {row['loss ±']:.3f}"]
                                                                 for name, row in best.items()])]
    if "grid" in made:
        rows = {(row["learning_rate"], row["batch_size"]): percent(row["accuracy"], 0) for row in made["grid"]["means"]}
        rates, batches = (sorted({key[place] for key in rows}) for place in (0, 1))
        texts += [f"Validation accuracy after one epoch of {sizes['grid']} reviews, by learning rate and batch size.",
                  table(["", *map(str, batches)], [[f"{rate:g}", *(rows[rate, batch] for batch in batches)] for rate in rates])]
    if "epochs" in made:
        texts += [f"{sizes['epochs']} epochs of {sizes['long']} reviews.", table(
            ["", "lowest validation loss", "last validation loss", "last validation accuracy"],
            [[row["arm"], min(row["validation loss"]), row["validation loss"][-1], percent(row["validation accuracy"][-1])]
             for row in made["epochs"]["means"]])]
    if "labels" in made:
        texts += ["Test accuracy in percent, by the number of labelled reviews.", table(
            ["reviews", "encoder", "word counts"],
            [[row["reviews"], with_interval(row, "encoder"), with_interval(row, "word counts")] for row in made["labels"]["means"]])]
    if "trainer" in made:
        more = [f"{100 * row['mean']:+.1f} ± {100 * row['±']:.1f} points than {name}"
                for name, row in made["trainer"]["fine_tune more accurate by"].items()]
        texts += [f"One epoch of {sizes['trainer']} reviews, {sizes['trainer_seeds']} seeds; test accuracy in percent.", table(
            ["", "test accuracy"], [[row["contestant"], with_interval(row, "test_accuracy")] for row in made["trainer"]["means"]]),
            f"Seed by seed, `fine_tune` is more accurate by {' and by '.join(more)}."]
    return "\n\n".join(texts)


def two_processes(found: dict) -> str:
    return "\n\n".join([
        f"{found['data']}; medians.", by_contestant(found["medians"], texts_per_second="texts per second"),
        times(found["two_processes_times_as_fast_as"], "Two processes with a thread each")])


def linear_cross_entropy(found: dict) -> str:
    names = list(found["memory_as_share_of"])
    shares = [f"{percent(found['memory_as_share_of'][name])} of the memory and {percent(found['time_as_share_of'][name])} of the "
              f"time of {name}" for name in names]
    return "\n\n".join([
        f"{found['data']}; medians.",
        by_contestant(found["medians"], peak_memory_mb="peak memory in MB", seconds="seconds"),
        "`linear_cross_entropy` takes " + ", and ".join(shares) + "."])


def attention(found: dict) -> str:
    alone, lengths, steps = found["attention"], found["lengths"], found["written"]
    fit, longest = found["fit"], max(lengths)
    rows = [[tokens, *(alone[f"{way}, {tokens}"][key] * scale for key, scale in (("seconds", 1000), ("peak_memory_mb", 1))
                       for way in ("written out", "fused")), 1000 * found["layer"][str(tokens)]["seconds"]] for tokens in lengths]
    memory, time = ({way: alone[f"{way}, {longest}"][key] for way in ("written out", "fused")} for key in ("peak_memory_mb", "seconds"))
    grown = [[tokens, *(found["generation"][f"{way}, {tokens}"]["seconds"] for way in ("with a cache", "without")),
              *(found["multiplications"][f"{way}, {tokens}"] / 1e9 for way in ("with a cache", "without"))] for tokens in steps]
    return "\n\n".join([
        f"Of {found['data']}; medians of {len(next(iter(found['runs']['attention'].values())))} rounds or more. `attention` writes all "
        "weights down, fused attention does not.",
        table(["tokens", "ms, written out", "ms, fused", "MB, written out", "MB, fused", "ms of a whole layer"], rows),
        f"Fitted, a layer takes {1e6 * fit['a']:.3g} microseconds a token and {1e9 * fit['b']:.3g} nanoseconds a pair of tokens (largest "
        f"relative error {percent(fit['largest_relative_error'], 0)}): both parts are equal at {fit['equal_at']:,.0f} tokens. In "
        f"multiplications they are equal at {found['counted_equal_at']:,}.",
        f"At {longest:,} tokens fused attention takes {percent(time['fused'] / time['written out'], 0)} of the time and "
        f"{percent(memory['fused'] / memory['written out'])} of the memory.",
        "A decoder of six layers writes tokens one by one, with a cache of keys and values and without:",
        table(["tokens", "seconds, cache", "seconds, none", "10⁹ multiplications, cache", "none"], grown)])


def pretraining(found: dict) -> str:
    rows, means, ways = found["rows"], found["summary"], ("unigram", "bigram", "two-sided bigram")
    learnt = [[f"`tiny-{shape}`", row["places"], *(row.get(way) for way in ways), row["model"],
               "{:.2f}, {:.2f} to {:.2f}".format(row["lead"], *row["interval of the lead"]),
               *(", ".join(f"{run['model']:.2f}" for key, run in rows[part].items() if key.startswith(shape)) or "not measured"
                 for part in ("full", "seeds"))] for shape, row in rows["bundled"].items()]
    reached = {}
    for key, (mean, width) in means["transfer"].items():
        arm, labels, _ = key.rsplit(" ", 2)
        reached.setdefault(arm, {})[int(labels)] = f"{100 * mean:.1f} ± {100 * width:.1f}"
    labels = sorted({count for each in reached.values() for count in each})
    again = [[name, *(f"{scale * row[key][0]:.{digits}f} ± {scale * row[key][1]:.{digits}f}"
                      for key, scale, digits in (("loss", 1, 2), ("accuracy", 100, 1)))] for name, row in means["domain"].items()]
    chosen = [[*(*key.replace("None", "all").split(), "")[:5], f"{row['loss']:.3f}"] for key, row in sorted(rows["rates"].items())]
    return "\n\n".join([
        "Surprise in nats at tokens of the test texts, beside counts of the same training texts at the same places; the lead over "
        "the best count with its 95 % interval over blocks; other seeds with as many passes, and with a tenth of them:",
        table(["", "places", *ways, "bundled model", "lead", "other seeds", "a tenth of the passes"], learnt),
        "Test accuracy on movie reviews in percent, mean and 95 % interval of five seeds; the learning rate of each arm was chosen on "
        "the validation part:",
        table(["began as", *(f"{count:,} labels" for count in labels)], [[arm, *each.values()] for arm, each in reached.items()]),
        "A masked model that had read everything but tweets, then read on, and was fine-tuned on 200 tweets; three seeds:",
        table(["then it read", "surprise on new tweets, nats", "right of 100 new tweets"], again),
        "Reading tweets was worth {:+.1f} ± {:.1f} points.".format(*(100 * value for value in means["gain by reading tweets"])),
        "Validation loss after one pass, by learning rate, blocks of a step, share of the tokens that is asked for, and length of "
        "spans where it is not three:",
        table(["", "rate", "blocks", "share", "span", "loss"], chosen)])


def parameter_efficient(found: dict) -> str:
    rows, kept = found["rows"], found["summary"]
    if not kept["accuracy"]:
        return "Learning rates are being chosen; accuracies are not measured yet."

    lines = [[way, percent(share, 2), *(mean_and_width(kept["accuracy"].get(f"{labels} {way}")) for labels in ("200", "all")),
              with_limits(kept["gap"].get(way), "+.1f"), mean_and_width(kept["under attack"].get(way)),
              with_limits(kept["gap under attack"].get(way), "+.1f")]
             for way, share in kept["share"].items()]
    parts = ["Test accuracy on movie reviews in percent, mean and 95 % interval of three seeds, with 200 labels and with all; the "
             "learning rate of each way was chosen on the validation part. Under attack: of 60 reviews, with all labels. The points "
             "above all weights have intervals over seeds and reviews.",
             table(["trained", "of the weights", "200 labels", "all labels", "points above all weights", "under attack",
                    "points above all weights, under attack"], lines)]
    if rows.get("time") and rows.get("memory"):
        of_step = rows["time"]["all ways"]["milliseconds"]
        parts += ["A step of 16 reviews: milliseconds, the median of seven rounds in which all ways took turns; their share of the time "
                  "of all weights, round by round, median and range; and how far 12 steps lift the memory of a process.",
                  table(["trained", "milliseconds", "percent of all weights", "megabytes"],
                        [[way, of_step[way], with_limits(share, ".0f"), rows["memory"][way]["megabytes"]]
                         for way, share in kept["share of the time"].items()])]
    return "\n\n".join(parts)


def hyperparameters(found: dict) -> str:
    summary, shown = found["summary"], []
    if means := summary.get("samplers"):
        budgets = sorted({int(key.split()[1]) for key in means})
        rows = [[sampler, *("{:.3f} ± {:.3f}".format(*means[f"{sampler} {budget}"]["loss"]) for budget in budgets)]
                for sampler in ("grid", "random", "tpe") if f"{sampler} {budgets[0]}" in means]
        shown += ["A linear head on frozen vectors, four hyperparameters, 200 training and 200 validation reviews; lowest validation "
                  "loss by the number of trials, means of 20 seeds with 95 % intervals:", table(["", *map(str, budgets)], rows)]
        rows = [[sampler, *("{:.1%} ± {:.1%}".format(*means[f"{sampler} {budget}"]["accuracy"]) for budget in budgets)]
                for sampler in ("grid", "random", "tpe") if f"{sampler} {budgets[0]}" in means]
        shown += ["Test accuracy of that trial:", table(["", *map(str, budgets)], rows)]
    if curse := summary.get("curse"):
        rows = [[int(count), *("{:+.1%} ± {:.1%}".format(*row[name]) for name in ("too high", "derived", "nested"))]
                for count, row in curse.items()]
        shown += ["By how much the best validation accuracy of 50 trials is above the same trial's test accuracy; what is derived for "
                  "trials that are equally good; and the same of a score on the half that had no part in the choice:",
                  table(["validation reviews", "best of 50", "derived", "nested splits"], rows)]
    if real := summary.get("real"):
        rows = [[arm, f"{row['best score']:.1%}", f"{row['accuracy']:.1%}", row["epochs"]] for arm, row in real.items()]
        shown += ["The bundled encoder on 500 reviews, sixteen trials, one search each:",
                  table(["", "best of 200 validation reviews", "its test accuracy", "epochs trained"], rows)]
    return "\n\n".join(shown)


def regularisation(found: dict) -> str:
    kept, parts = found["summary"], []
    for part, said in (("remedies", "Whole models, all of their weights trained"), ("frozen", "Small networks on frozen vectors")):
        if part in kept:
            rows = [[row["model"], row["labels"], row["remedy"], row["strength"], row["runs"],
                     f"{row['loss'][0]:+.3f} ± {row['loss'][1]:.3f}", with_limits(row.get("points over seeds and reviews"), "+.1f", 1)
                     or f"{row['points'][0]:+.1f} ± {row['points'][1]:.1f}"] for row in kept[part]]
            parts += [f"{said}: differences on the test reviews of movies from no remedy, with 95 % intervals over runs, those "
                      "in brackets over runs and reviews; the strength was chosen on validation reviews.",
                      table(["model", "labels", "remedy", "strength", "runs", "loss", "points of accuracy"], rows)]
    if "seeds" in kept:
        rows = [[row["epochs"], row["bias correction"], row["warm-up"], row["runs"], percent(row["mean"]), percent(row["deviation"]),
                 row["failed"]] for row in kept["seeds"]]
        parts += ["Twenty seeds of one recipe; failed are runs with at most 55 % right.",
                  table(["epochs", "bias correction", "warm-up", "runs", "mean", "deviation", "failed"], rows)]
    return "\n\n".join(parts)


def tiny_models(found: dict) -> str:
    rows = [[f"`{name}`", row["parameters"], row["bytes"], row["passes"], row["learning_rate"], row["batch_size"],
             round(row["seconds"] / 60), min(each["loss"] for each in row["evaluations"])] for name, row in found["models"].items()]
    return "\n\n".join([
        "The models that the package carries; the loss is that of the pass that was kept, on the validation part, and losses of two "
        "objectives must not be compared. The file has the whole curves.",
        table(["", "parameters", "bytes", "passes", "learning rate", "blocks of a step", "minutes", "validation loss"], rows)])


def near_duplicates(found: dict) -> str:
    rows = [[threshold, name, row["seconds"], row["processor_seconds"]]
            for threshold, each in found["times"].items() for name, row in each["medians"].items()]
    recalls = [run["recall"] for each in found["recall"].values() for run in each["hashing"]]
    return "\n\n".join([
        f"`near_duplicate_groups` among {found['texts']:,} texts of {found['words_per_text']:.0f} words, on one core; "
        "*rare words* is the exact way.",
        table(["threshold", "way", "seconds", "of which the processor worked"], rows),
        f"Reviews with planted near-duplicates, and tweets, at several thresholds and with several seeds ({len(recalls)} runs): "
        f"hashing found {percent(min(recalls))} of the pairs at least."])


def augmentation(found: dict) -> str:
    rows = [row for row in found["summary"] if row["method"] != "none"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    above = sum(row["gain"][0] > row["gain"][1] for row in rows)
    below = sum(-row["gain"][0] > row["gain"][1] for row in rows)
    gains = {(row["method"], row["size"]): f"{100 * row['gain'][0]:+.1f} ± {100 * row['gain'][1]:.1f}" for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return "\n\n".join([
        f"Points of accuracy gained over as many steps without copies, with the half-width of the 95 % interval over "
        f"{rows[0]['seeds']} seeds, by the number of labelled reviews.",
        table(["", *map(str, sizes)], [[name, *(gains[name, size] for size in sizes)] for name in methods]),
        f"Of {len(rows)} mean gains, {above} lie above zero by more than the interval, and {below} below."])


def augmentation_speed(found: dict) -> str:
    names = list(dict.fromkeys(name for each in found["results"].values() for name in each["medians"]))
    rows = [[task, *(each["medians"].get(name, {}).get("texts_per_second") for name in names)]
            for task, each in found["results"].items()]
    return (f"Texts per second, with {percent(found['share_of_words'], 0)} of the words changed; medians of interleaved rounds. "
            "nlpaug's tagger was replaced by one that costs nothing.\n\n" + table(["", *names], rows))


def adversarial_examples(found: dict) -> str:
    parts = ["PWWS on the same victim, the same WordNet and the same reviews, each of which the victim answers rightly."]
    for name in ("27 words", "200 words"):
        rows = [[who, percent(row["turned"], 0), row["texts_per_second"], row["queries"], row["changed_words"]]
                for who, row in found[name]["totals"].items()]
        parts.append(table([f"{found[name]['texts']} reviews of {found[name]['words']:.0f} words", "turned", "texts per second",
                            "queries per text", "changed words per text"], rows))
        parts.append(times(found[name]["ratios"]["llm_course"], "`SynonymAttack`, in the same round, has the speed of"))
    many = found["thousand_reviews"]
    return "\n\n".join([*parts, f"TextAttack pads every text to 512 tokens; padded to the batch it does the same work. "
                        f"`TypoAttack` on {many['texts']:,} reviews took {many['seconds']:.0f} s, in at most "
                        f"{number(max(many['mib_after'].values()))} MiB."])


def with_interval(row: dict, key: str) -> str:
    "A share with the half-width of its interval, in percent"
    return f"{100 * row[key]:.1f} ± {100 * row[f'{key} ±']:.1f}" if key in row else ""


def adversarial_training(found: dict) -> str:
    columns = {"clean": "clean", "synonyms": "synonyms", "typos": "typing errors", "PGD 0.03": "PGD 0.03"}
    parts = []
    for key, name in (("summary", "test"), ("summary of all reviews", "all")):
        rows = [[who, *(with_interval(row, column) for column in columns)] for who, row in found[key].items()]
        how = found["settings"][name]
        parts += [f"Trained on {how['reviews']:,} reviews for {how['epochs']} epochs; accuracy in percent on the test reviews, "
                  f"and on {how['attacked']} of them under attack; means over three seeds with 95 % intervals.",
                  table(["", *columns.values()], rows)]
    told = ", ".join(f"{who} {number(cost)}" for who, cost in found["cost"]["times plain"].items())
    return "\n\n".join([*parts, f"Time of a training, as a multiple of plain training: {told}."])


def default_defences(found: dict) -> str:
    ways = list(dict.fromkeys(way for row in found["summary"].values() for way in row if way != "plain"))
    rows = [[name, with_limits(row["plain"]["right"]), *(with_limits(row[way]["gained"], "+.1f") for way in ways)]
            for name, row in found["summary"].items()]
    return ("The bundled encoder trained on 1,000 texts of each set, three seeds. Right of 100 after plain training, and the points that the "
            "objectives gain as they come, with 95 % intervals over seeds and test texts:\n\n" + table(["texts", "plain", *ways], rows))


def aims_of(found: dict) -> str:
    "The aims of the scoreboard, and who reaches them"
    judged = {name: row["reaches the aims"] for name, row in found["summary"].items()
              if "reaches the aims" in row and row["method"] != "plain"}
    reached = ", ".join(f"`{name}`" for name, good in judged.items() if good) or "none"
    said = f"Reached by: {reached}, of {len(judged)} with three seeds." if judged else "No defence has three seeds yet."
    aims = found["aims"]
    return (f"The aims, set before: at most {percent(aims['lost at most'])} lost, at least {percent(aims['kept at least'])} kept under "
            f"PWWS with all of WordNet. {said}")


def robustness(found: dict) -> str:
    columns = {"clean": "clean", "PWWS, own table": "own table", "PWWS, WordNet": "WordNet",
               "PWWS, WordNet, accepted": "WordNet, accepted", "PWWS, WordNet, new words": "WordNet, new words",
               "PWWS, encoder neighbours": "neighbours",
               "PWWS, Aiksaurus": "Aiksaurus", "TextFooler": "TextFooler", "typing mistakes": "typing mistakes",
               "PGD 0.2": "PGD 0.2", "transfer": "transfer", "certified, checked synonyms": "certified"}
    parts = []
    for kind, recipe in (("test", "1,000"), ("all", "all")):
        own = {name.removeprefix(f"{kind} "): row for name, row in found["summary"].items() if name.startswith(f"{kind} ")}
        if own:
            rows = [[name, row["seeds"], *(with_limits(row["columns"].get(column, {}).get("share")) for column in columns)]
                    for name, row in own.items()]
            parts += [f"Trained on {recipe} reviews; answered rightly, in percent, with intervals over seeds and reviews.",
                      table(["", "seeds", *columns.values()], rows)]
    return "\n\n".join([*parts, aims_of(found)])


def gradient_attacks(found: dict) -> str:
    return (f"Largest difference from torchattacks {found['torchattacks']} on {found['networks']} small networks: " + ", ".join(
        f"{name} {difference:.1e}" for name, difference in found["largest_difference"].items()) + ".")


def before_after(found: dict) -> str:
    rows = [[name, task["after_by_before"], task["by_the_clock"], "yes" if task["same_answers"] else "no"]
            for name, task in found["tasks"].items()]
    return (f"Commit {found['commits']['before']} (version 0.1.0) and commit {found['commits']['after']}, in turn: the speed after by "
            "that before, medians.\n\n" + table(["", "in processor time", "by the clock", "same answers"], rows))


def front_page(found: dict) -> str:
    shares, shown = found["shares"], found["shown"]
    rows = [[who, row["right"], row["right under attack"]] for who, row in shares.items()]
    return (f"{found['data']}; of {shares['plain']['reviews']}, both classifiers trained on {found['settings']['reviews']:,} reviews:\n\n"
            + table(["", "right", "right under attack"], rows)
            + f"\n\nThe front page shows “{shown['text']}”, where “{shown['word']}” becomes “{shown['synonym']}”.")


def federated(found: dict) -> str:
    rows, parts = {}, []
    for name, pair in found["summary"].get("accuracy", {}).items():
        case, way = name.rsplit(", ", 1)
        rows.setdefault(case, {})[way] = mean_and_width(pair)
    ways = list(dict.fromkeys(way for row in rows.values() for way in row))
    if rows:
        parts += ["Right of 100 test reviews after 40 rounds of four clients (mean of the last ten), a linear head on frozen vectors, "
                  "three seeds with 95 % intervals; step size and μ were chosen on validation reviews:",
                  table(["labels, share that answers, local steps", *ways],
                        [[case, *(row.get(way, "") for way in ways)] for case, row in rows.items()])]
    if run := found["summary"].get("flower"):
        parts.append(f"{run['clients']} clients as processes of Flower: {run['seconds to start']:.0f} s until the server knew them all, then "
                     f"{run['seconds']:.0f} s for {run['rounds']} rounds; the weights lie within {run['apart']:.0e} of the loop's.")
    return "\n\n".join(parts)


def privacy(found: dict) -> str:
    kept = found["summary"]
    if not kept["accuracy"]:
        return "Learning rates are being chosen; nothing is trained with them yet."
    rows = [[*key.rsplit(" ", 1), f"{kept['weights'][key]:,}", *(mean_and_width(kept[figure][key]) for figure in ("accuracy", "found"))]
            for key in kept["accuracy"]]
    guess = [key for key, (mean, half) in kept["accuracy"].items() if mean - half <= 0.5]
    guessing = [f"Not told from guessing: {', '.join(guess)}."] if guess else []
    return "\n\n".join(["2,000 movie reviews, read four times with a budget, in steps of 500, and twice without; means of the seeds made so far, with 95 % "
                        "intervals where there are several. Found: the share of the training reviews that a threshold on the loss finds "
                        "at 1 false positive of 100; guessing finds 1, and no training serves as a control in which it finds many.",
                        table(["trained", "epsilon", "weights", "right of 100", "found of 100"], rows), *guessing])


def memorisation(found: dict) -> str:
    kept, parts = found["summary"], []
    if rows := kept.get("canaries"):
        parts += [f"Exposure of a secret code among 500 candidates, in bits of 9, by how often it stood among 600 reviews; {len(found['rows']['canaries'])} "
                  "seeds with six codes for each number of times, means over the seeds with 95 % intervals:",
                  table(["times", "exposure", "in the twin that read none", "above the twin", "in the first place, of 100"],
                        [[times, *(f"{row[name][0]:{sign}.1f} ± {row[name][1]:.1f}"
                                   for name, sign in (("bits", ""), ("twin", ""), ("above the twin", "+"))),
                          f"{100 * row['in the first place']:.0f}"] for times, row in rows.items()])]
    if rows := kept.get("membership"):
        parts += ["tiny-bert, all of it fine-tuned: on half of 1,200 reviews, twelve times (overfits), or on half of 4,000, once; 33 trainings "
                  "for each seed, each the target once, the others its shadow models. Means over the seeds made so far, of 100, with 95 % intervals where there are several:",
                  table(["training", "right on members", "right on others", *(f"{attack}, at {100 * float(rate):.0f} of 100" for attack in
                                                                          ("loss", "likelihood ratio") for rate in ("0.01", "0.1"))],
                        [[arm, *(mean_and_width(value) for value in row.values())] for arm, row in rows.items()])]
    return "\n\n".join(parts)


def fairness(found: dict) -> str:
    kept = found["summary"]
    if not kept["gap"]:
        return "Settings are being chosen; gaps are not measured yet."
    rows = [[arm, *(mean_and_width(kept[figure][arm]) for figure in ("gap", "accuracy")),
             *(mean_and_width(kept["above"][other]["accuracy"].get(arm), "+.1f") for other in ("no remedy", "no bias"))]
            for arm in kept["gap"]]
    return "\n\n".join(["A bias planted in 2,000 movie reviews at the dose 0.8. The gap is the share of positive answers to test reviews "
                        "signed from one list less that from the other, in points (its size), with names and forms that were not in "
                        "training; means of the seeds made so far, with 95 % intervals where there are several. The last two columns compare "
                        "seed by seed.",
                        table(["remedy", "gap", "right of 100", "points above no remedy", "points above no bias"], rows)])


def interpretability(found: dict) -> str:
    kept, parts = found["summary"], []
    if rows := kept.get("completeness"):
        parts += ["Integrated gradients: the miss is what the sum of the numbers lacks of the change of the log-odds that they share out.",
                  table(["steps", "miss at most 1 % of the change, of 100", "mean miss, log-odds", "largest miss, log-odds", "reviews"],
                        [[steps, *row.values()] for steps, row in rows.items()])]
    if rows := kept.get("faithfulness"):
        columns = ("comprehensiveness", "sufficiency")
        parts += ["Probability lost when the first words are deleted (comprehensiveness, high is good), and with them alone "
                  "(sufficiency, low is good), with 95 % intervals over reviews:",
                  table(["method", *columns, "reviews"],
                        [[method, *("{:+.3f} ± {:.3f}".format(*row[name]) for name in columns), row["reviews"]]
                         for method, row in rows.items()])]
    if rows := kept.get("above"):
        parts += ["By how much comprehensiveness lies above that of a random order, and of Shapley values, on the same review:",
                  table(["method", *(f"above {other}" for other in rows)], [
                      [method, *("{:+.3f} ± {:.3f}".format(*found[method]["comprehensiveness"]) if method in found else ""
                                 for found in rows.values())] for method in kept["faithfulness"]])]
    if rows := kept.get("orders"):
        shares = [name for name in rows["random order"]]
        parts += [f"What is left of the class's probability when the first words are deleted; {rows['reviews']} reviews, before "
                  "{:.2f} ± {:.2f}:".format(*rows["whole"]),
                  table(["method", *(f"{share} of 100 words deleted" for share in shares)], [
                      [method, *("{:.2f} ± {:.2f}".format(*row[share]) for share in shares)]
                      for method, row in rows.items() if method not in ("whole", "reviews")])]
    if rows := kept.get("agreement"):
        parts += ["Mean rank correlation of the orders of two methods on the same review (of sizes, where one is attention):",
                  table(["methods", "correlation"], [[pair, "{:+.2f} ± {:.2f}".format(*value)] for pair, value in rows.items()])]
    if row := kept.get("attacked"):
        parts.append("Of the log-odds that {} turned reviews lost, {:.0f} of 100 ({:.0f} to {:.0f}) were lost at the words that the attack "
                     "exchanged, which are {:.0f} of 100 words ({} reviews with another number of words left out).".format(
                         row["reviews"], *row["at the words, of 100"], row["words exchanged, of 100"], row["left out"]))
    if rows := kept.get("shuffled"):
        parts += ["Rank correlation of explanations before and after the weights were shuffled:",
                  table(["method", "correlation", "reviews", "of sizes alone", "reviews of these"], [
                      [method, "{:+.2f} ± {:.2f}".format(*row["correlation"]), row["reviews"],
                       "{:+.2f} ± {:.2f}".format(*row["of sizes"]) if "of sizes" in row else "", row.get("reviews of these", "")]
                      for method, row in rows.items()])]
    if rows := kept.get("planted"):
        parts += ["A planted word, the only thing to learn: in how many of 100 texts it is put first; mean of the trainings (lowest "
                  "to highest):",
                  table(["model", *next(iter(rows.values()))],
                        [[model, row["trainings"], *("{:.0f} ({:.0f} to {:.0f})".format(*(100 * share for share in each))
                                                     for name, each in row.items() if name != "trainings")]
                         for model, row in rows.items()])]
    return "\n\n".join(parts)


def compression(found: dict) -> str:
    kept, parts = found["summary"], []
    if kept["accuracy"]:
        rows = [[name, mean_and_width(pair), mean_and_width(kept["gap"].get(name), "+.1f")] for name, pair in kept["accuracy"].items()]
        parts += ["Right of 100 test reviews, and points above the model of six layers in torch, seed by seed; means of the seeds made so "
                  "far, with 95 % intervals where there are several:", table(["runs in, model", "right of 100", "above the teacher"], rows)]
    if hidden := kept.get("hidden"):
        names = list(next(iter(hidden.values())))
        parts += ["What one accuracy hides, of 100:", table(["runs in, model", *hidden], [
            [name, *(mean_and_width(column.get(name)) for column in hidden.values())] for name in names])]
    if apart := {title: column for title, column in kept.get("apart", {}).items() if column}:
        apart["longest less shortest"] = kept["longest less shortest"]
        parts += ["The same less the model of six layers in torch, seed by seed, points; the last column is the longest quarter less "
                  "the shortest:", table(["runs in, model", *apart], [
                      [name, *(mean_and_width(column.get(name), "+.1f") for column in apart.values())] for name in kept["gap"]])]
    if taught := kept.get("taught less labels"):
        columns = list(next(iter(taught.values())))
        parts += ["Two layers: the student of the teacher less the student of labels alone, seed by seed, points:",
                  table(["runs in", *columns], [[runtime, *(mean_and_width(row.get(column), "+.1f") for column in columns)]
                                                for runtime, row in taught.items()])]
    if steps := kept.get("steps"):
        parts.append("Steps of training: " + ", ".join(f"{way}: {count:,.0f}" for way, count in steps.items()) + ".")
    if cost := kept["cost"]:
        parts += ["Cost, of the models of the first seed, by turns: milliseconds for one text and for a text of a batch of 32, megabytes "
                  "on the disk, and how many megabytes of memory loading and answering take:",
                  table(["runs in, model", *next(iter(cost.values()))], [[name, *row.values()] for name, row in cost.items()])]
    return "\n\n".join(parts) or "The models are being trained; nothing is judged yet."


def serving(found: dict) -> str:
    kept, rounds = found["summary"], found["rows"].get("load", {})
    if not kept["table"]:
        return "Settings are being chosen; nothing is loaded with them yet."
    most = max((key for row in rounds.values() for key in row if key.isdecimal()), key=int)

    def each_round(names: str, figure: str) -> list[float]:
        one, other = ([row[most][figure] for key, row in rounds.items() if key.rpartition(", ")[0] == name]
                      for name in names.split(" against "))
        return [a / b for a, b in zip(one, other, strict=False)]

    against = [[name, *(f"{number(row[figure])} ({spread(each_round(name, figure), number)})" for figure in ("rate", "p99"))]
               for name, row in kept["against"].items()]
    return "\n\n".join([
        "A closed loop of clients with one review each, the ways by turns, three times; latencies in milliseconds. Each way runs with the "
        "setting that had the most answers a second at the most clients.",
        table(["way, clients", *next(iter(kept["table"].values()))], [[name, *row.values()] for name, row in kept["table"].items()]),
        f"Ratios with {most} clients: the median of the rounds, and the lowest and the highest.",
        table(["", "answers a second", "99th percentile of the latency"], against)])


def hundred_thousand(found: dict) -> str:
    counts = found["counts"]
    lines = {"right": "answered rightly", "wrong": "answered wrongly", "lost": "without any reply", "other": "with another error",
             "told": "told to come again (429 or 503)", "hung up": "given up by their clients"}
    return "\n\n".join([
        f"{counts['sent']:,} requests of {found['clients']} clients in {found['seconds']:,.0f} seconds, while a worker was killed, the "
        "folder read again, the service restarted on the same socket, and a worker killed again.",
        table(["what became of them", "requests"], [[said, f"{counts[name]:,}"] for name, said in lines.items()])])


def in_use(found: dict) -> str:
    kept, parts = found["summary"], []
    if kept["rang"]:
        signals = list(next(iter(kept["rang"].values())))
        parts += ["Share of simulated months in which a signal rang from day 11 on, and the median day:",
                  table(["month", *signals], [[kind, *(f"{percent(share, 0)}, day {day:.0f}" if share else "never"
                                                       for share, day in row.values())] for kind, row in kept["rang"].items()])]
    if alarms := kept.get("false alarms"):
        parts.append(f"False alarms of the four signals without labels in a month in which nothing changes: {alarms['mean']:.2f} "
                     f"({alarms['low']:.2f} to {alarms['high']:.2f}, {alarms['months']} months).")
    if kept["errors"]:
        ways = list(next(iter(kept["errors"].values())))
        parts += ["Estimated less true accuracy of the last week, points, with 95 % intervals over months; in brackets the root of the "
                  "mean square:",
                  table(["month", *ways], [[kind, *(f"{mean_and_width(pair, '+.1f')} ({100 * kept['root mean square'][kind][way]:.1f})"
                                                    for way, pair in row.items())] for kind, row in kept["errors"].items()])]
    return "\n\n".join(parts) or "Confidence is measured; months are not simulated yet."


def few_labels(found: dict) -> str:
    kept, parts = found["summary"], []
    if kept["accuracy"]:
        rows = [[name, mean_and_width(pair), *(mean_and_width(kept[f"gain over {base}"].get(name), "+.1f") for base in ("plain", "frozen")),
                 kept["settings"].get(name, "")] for name, pair in kept["accuracy"].items()]
        parts += ["Right of 100 movie reviews after learning 50 of them (or as many as the name says), and points above plain "
                  "fine-tuning and above a line on frozen vectors, on the same labels, with 95 % intervals over draws. Settings were chosen on product reviews:",
                  table(["way", "right of 100", "above plain", "above frozen", "setting"], rows)]
    if kept["questions"]:
        counts, names = [*kept["questions"]], list(next(iter(kept["questions"].values())))
        parts += ["Active learning: right of 100 of a line on frozen vectors, by the number of labels; in brackets points ahead of labels "
                  "drawn by chance, same draws:",
                  table(["strategy", *counts], [[name, *(mean_and_width(kept["questions"][count].get(name)) + (
                      f" ({mean_and_width(lead, '+.1f')})" if (lead := kept["gain over random"].get(count, {}).get(name)) else "")
                      for count in counts)] for name in names])]
    if flawed := kept["wrong"]:
        columns = ("ours precision", "ours recall", "cleanlab precision", "cleanlab recall", "differing precision", "differing recall")
        parts += ["Labels turned on purpose, and what confident learning finds, of 100 (differing: flagged where the likeliest class is "
                  "another than the label):",
                  table(["share turned", *columns], [[share, *(mean_and_width(flawed[column].get(share)) for column in columns)]
                                                     for share in flawed[columns[0]]])]
    return "\n\n".join(parts) or "Settings are being chosen; nothing is compared yet."


def multimodal(found: dict) -> str:
    kept = found["summary"]
    if not kept:
        return "Nothing is trained yet."
    figures = list(next(iter(kept.values())))
    return ("Of 100 names of emoji that were never seen, how many find their picture at once and among the ten nearest of 320, and of 100 "
            "pictures, how many are told to be of the right group without labels; by the artist of the pictures, with 95 % intervals over "
            "seeds. Chance is 0.3, 3.1 and what the largest group gives:\n\n"
            + table(["training", *figures], [[way, *(mean_and_width(row[figure]) for figure in figures)] for way, row in kept.items()]))


def customer_service(found: dict) -> str:
    kept, parts = found["summary"], []
    for kind, said in (("right", "Questions of the test part whose intent is named rightly, of 100"),
                       ("area", "Pairs of a question with an intent and one out of scope that a score puts into the right order, of 100")):
        if by_count := kept.get(kind):
            ways = list(dict.fromkeys(way for row in by_count.values() for way in row))
            parts += [f"{said}, by examples of each intent, with 95 % intervals over draws:",
                      table(["way", *by_count], [[way, *(mean_and_width(row.get(way)) for row in by_count.values())] for way in ways])]
    return "\n\n".join(parts) or "Learning rates are being chosen; nothing is compared yet."


def opinion_monitoring(found: dict) -> str:
    kept, parts = found["summary"], []
    if delays := kept.get("delays"):
        rules = list(next(iter(next(iter(delays.values())).values())))
        parts += ["Hours from the turn to the alarm, at equally many false alarms, with 95 % intervals over streams:",
                  table(["hours for a false alarm", "fall, points", *rules],
                        [[every, fall, *(f"{hours:.1f} ± {reach:.1f}" for hours, reach in row.values())]
                         for every, by_fall in delays.items() for fall, row in by_fall.items()])]
    if estimated := kept.get("estimated"):
        parts.append("Hours for a false alarm where 250 were meant and the usual share came from a first week, middle half of the weeks: "
                     + "; ".join(f"{rule} {low:.0f} to {high:.0f}" for rule, (low, high) in estimated.items()) + ".")
    return "\n\n".join(parts) or "Settings are being chosen; nothing is compared yet."


def recommendation(found: dict) -> str:
    parts = []
    for kind, said in (("known", "Films with ratings"), ("new", "Films without a rating before the cut"),
                       ("unrated", "Of these, films that nobody else had rated by the day")):
        if rows := found["summary"].get(kind):
            of = rows["two towers"]
            parts += [f"{said}, {of['lists']} lists of {of['people']} people: NDCG and recall at 10, how far the two towers are ahead on "
                      "the same people, and the share of the films that is shown to anybody, all of 100, with 95 % intervals over people:",
                      table(["method", "NDCG", "recall", "two towers ahead in NDCG", "in recall", "coverage"],
                            [[name, *(mean_and_width(row[figure]) for figure in ("ndcg", "recall")),
                              *(mean_and_width(row[figure], "+.1f") for figure in ("ahead", "ahead in recall")),
                              f"{100 * row['coverage']:.1f}"] for name, row in rows.items()])]
    if apart := found["summary"].get("differences"):
        parts += ["Differences in NDCG, points, on the same people:",
                  table(["", "points"], [[name, mean_and_width(pair, "+.1f")] for name, pair in apart.items()])]
    return "\n\n".join(parts) or "Settings are being chosen; nothing is compared yet."


def substitutions(found: dict) -> str:
    questions = {"grammatical": "grammatical", "meaning": "same meaning", "label": "same label",
                 "grammatical and same in meaning": "grammatical and same meaning"}
    rows = []
    for name, row in found["summary"]["methods"].items():
        both = row["grammatical and same in meaning"]
        rows.append([name, row["meaning"]["of"], *(percent(row[key]["share"], 0) for key in questions),
                     " to ".join(percent(end, 0) for end in both["interval"])])
    again = found["summary"]["second reading"]
    same = ", ".join(f"{name} {percent(row['same'], 0)}" for name, row in again.items())
    return ("Copies read one by one, by a large language model that did not know the methods; the last column is the 95 % "
            "interval of the one before. PWWS and TextFooler: copies that turned a classifier's answer.\n\n"
            + table(["", "copies", *questions.values(), "interval"], rows)
            + f"\n\nA second reading of {again['label']['pairs']} of the copies says the same of: {same}.")


def transfer_learning(found: dict) -> str:
    summary, parts = found["summary"], []
    if seconds := summary.get("seconds of a step"):
        parts += ["Seconds of one core for a training step of 16 reviews, in float32, the ways by turns:",
                  table(["trained", "seconds"], seconds.items())]
    if ways := summary.get("ways"):
        rows = [[*key.split(" ", 1), row["rate"], mean_and_width(row["accuracy"]), mean_and_width(row["ahead of all"], "+.1f"),
                 row["seeds"]] for key, row in ways.items()]
        parts += ["Right of 100 new movie reviews, each way at the rate that was best on validation reviews, with 95 % intervals over "
                  "seeds; ahead of training all, seed by seed:",
                  table(["labels", "trained", "rate", "right of 100", "ahead of all", "seeds"], rows)]
    if domains := summary.get("domains"):
        rows = [[*key.split(" "), mean_and_width(row["target"]), mean_and_width(row["movies"])] for key, row in domains.items()]
        parts += ["From movie reviews (1,000 labels), or from nothing, into another domain: right of 100 there, and on movie reviews:",
                  table(["domain", "began with", "trained", "labels", "right there", "right on movies"], rows)]
    if means := summary.get("mean of the domains"):
        rows = [[*key.rsplit(" ", 1), mean_and_width(row["lost on movies"], "+.1f"), mean_and_width(row["ahead of nothing"], "+.1f")]
                for key, row in means.items()]
        parts += ["Means of the three domains, points, seed by seed: what is lost on movie reviews, and how far beginning with them is "
                  "ahead of beginning with nothing:", table(["trained", "labels", "lost on movies", "ahead of nothing"], rows)]
    return "\n\n".join(parts)


def report_card(found: dict) -> str:
    kept = found["summary"]
    if not kept["seeds"]:
        return "Some cards are made, and no pair of them yet."
    shown = {"share": lambda value: f"{100 * value:.1f}", "seconds": lambda value: f"{1000 * value:.0f} ms"}
    rows = [[name, *(f"{' · '.join(shown['seconds' if name == 'serve' else 'share'](value) for value in kept['numbers'][kind][name])} "
                     f"({' · '.join(kept['verdicts'][kind][name])})" for kind in kept["numbers"])] for name in kept["seconds"]]
    pairs = [[name, " · ".join(f"{100 * each['value']:+.1f} (p {number(each['p'])})" for each in row["each"]),
              mean_and_width(row["mean"], "+.1f")] for name, row in kept["defended less plain"].items()]
    bounds = "; ".join(f"{kind} {' · '.join(f'{percent(low, 0)} to {percent(high, 0)}' for low, high in some)}"
                       for kind, some in kept["proof and attack"].items())
    return "\n\n".join([
        f"A tiny BERT after 600 movie reviews, plain and defended against synonyms, {kept['seeds']} seeds: numbers in percent or points, and "
        "in brackets the verdicts, seed by seed.", table(["row", *kept["numbers"]], rows),
        "Of 12 verdicts the same over all seeds: " + ", ".join(f"{kind} {count}" for kind, count in kept["same verdicts"].items()) + ".",
        "Defended less plain on the same texts, points; p is corrected for the rows that have one; the interval of the mean is that over "
        "seeds, at 95 % for each row alone:",
        table(["row", "each seed", "mean"], pairs),
        f"Right whatever checked synonyms are written, between a proof and an attack: {bounds}.",
        "Seconds, medians of the cards:", table(["row", "took", "estimate"], [[name, *row.values()] for name, row in kept["seconds"].items()])])


SECTIONS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "training_speed": ("Speed of training", training_speed),
    "inference_speed": ("Speed of answers", inference_speed),
    "accuracy": ("Accuracy of fine-tuning", accuracy),
    "fine_tuning": ("What decides a fine-tuning run", fine_tuning),
    "two_processes": ("Two processes", two_processes),
    "linear_cross_entropy": ("The loss of a large vocabulary", linear_cross_entropy),
    "attention": ("Attention by the length of a text", attention),
    "pretraining": ("What pre-training teaches", pretraining),
    "hyperparameters": ("Searching for hyperparameters", hyperparameters),
    "tiny_models": ("The tiny models", tiny_models),
    "transfer_learning": ("How much to train, and what is forgotten", transfer_learning),
    "parameter_efficient": ("Few parameters", parameter_efficient),
    "regularisation": ("Which remedy against overfitting helps?", regularisation),
    "near_duplicates": ("Near-duplicates", near_duplicates),
    "augmentation": ("Does augmentation help?", augmentation),
    "substitutions": ("What readers say of copies", substitutions),
    "augmentation_speed": ("Speed of augmentation", augmentation_speed),
    "adversarial_examples": ("Adversarial examples", adversarial_examples),
    "adversarial_training": ("Adversarial training", adversarial_training),
    "default_defences": ("Defences as they come", default_defences),
    "robustness": ("Robustness judged by strangers", robustness),
    "few_labels": ("Fifty labels", few_labels),
    "multimodal": ("Pictures that are found by words", multimodal),
    "interpretability": ("Are explanations true?", interpretability),
    "fairness": ("A planted bias, and remedies", fairness),
    "privacy": ("What a budget of privacy costs", privacy),
    "memorisation": ("What fine-tuned models remember", memorisation),
    "federated": ("Clients that keep their texts", federated),
    "compression": ("Smaller models", compression),
    "serving": ("A service under load", serving),
    "hundred_thousand": ("What becomes of 100,000 requests", hundred_thousand),
    "in_use": ("Signals in a simulated month", in_use),
    "customer_service": ("Which intent?", customer_service),
    "opinion_monitoring": ("When has opinion turned?", opinion_monitoring),
    "recommendation": ("What to show next", recommendation),
    "report_card": ("Report cards", report_card),
    "front_page": ("The review on the front page", front_page),
    "gradient_attacks": ("Gradient attacks against torchattacks", gradient_attacks),
    "before_after": ("Before and after the package was taken apart", before_after),
}


def machine_of(found: dict) -> str:
    "A sentence about the machine"
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"On {machine['cores']} cores of an {machine['processor']}, {machine['device']}; Python {machine['python']}, {versions}."


def page(folder: Path = FOLDER) -> str:
    "The whole page; ValueError where a result file has no section"
    names = {path.stem for path in (folder / "results").glob("*.json")}
    if unknown := sorted(names - set(SECTIONS)):
        raise ValueError(f"{', '.join(unknown)}: write a section for it in tools/figures.py")
    parts = [HEAD.strip()]
    for name, (title, written) in SECTIONS.items():
        if name in names:
            found = json.loads((folder / f"results/{name}.json").read_text(encoding="utf-8"))
            script = f"{name}.py" if (folder / f"{name}.py").is_file() else f"../tools/{found['script']}"
            parts += [f"## {title}", written(found), f"{machine_of(found)} [Result](results/{name}.json) · [script]({script})"]
    measured = {path.stem for path in folder.glob("*.py")} - names - {"common", "rivals", "serving_rivals", "strangers", "__init__"}
    waiting = ", ".join(f"[{name}]({name}.py)" for name in sorted(measured))
    return "\n\n".join([*parts, "## Not measured yet", f"Ready, and tested at small size: {waiting}." if waiting else "Nothing."]) + "\n"


def results_of(name: str) -> dict:
    "What a benchmark has kept"
    return json.loads((FOLDER / f"results/{name}.json").read_text(encoding="utf-8"))


def measured_lines() -> str:
    "Three lines for the README: accuracy, speed, and robustness"
    reached, labels = results_of("accuracy")["runs"]["all data"], results_of("fine_tuning")["parts"]["labels"]["means"]
    by_labels = {row["reviews"]: row for row in labels}
    speed = results_of("training_speed")
    runs = {who: [run["examples_per_second"] for run in rounds] for who, rounds in speed["runs"].items()}

    def faster(rival: str) -> str:
        "How many times, and in which rounds least and most"
        rounds = [ours / theirs for ours, theirs in zip(runs["fine_tune"], runs[rival], strict=True)]
        return f"{number(speed['fine_tune_times_faster_than'][rival])} ({spread(rounds, number)})"

    more = results_of("fine_tuning")["parts"]["trainer"]["fine_tune more accurate by"]["Trainer"]
    robust = results_of("robustness")
    board = {row["method"]: row for name, row in robust["summary"].items() if name.startswith("test ")}
    plain, defended = (board[method] for method in ("plain", "worst synonyms"))
    kept, gained = (with_limits(row["columns"]["PWWS, Aiksaurus"][what]) for row, what in ((plain, "share"), (defended, "more than plain")))
    mean, low, high = defended["columns"]["clean"]["more than plain"]
    few = by_labels[200]
    network, counting = (mean_and_width([few[who], few[f"{who} ±"]]) for who in ("encoder", "word counts"))
    return "\n".join([
        f"- **Accuracy.** {spread(run['accuracy'] for run in reached)} of the test reviews with all {reached[0]['reviews']:,} training "
        f"reviews; with 200 of them, and 300 to choose settings by, {network} of 100, where counting words reaches {counting} "
        f"({few['seeds']} seeds).",
        f"- **Speed.** `fine_tune` trains {faster('Trainer')} times as fast as `Trainer` as it comes, "
        f"{faster('Trainer, grouped by length')} times as fast as with batches of similar length (medians of {len(runs['Trainer'])} rounds, "
        f"lowest and highest); over {more['seeds']} seeds its accuracy differs by {100 * more['mean']:+.1f} ± {100 * more['±']:.1f} points, "
        f"which cannot be told from chance.",
        f"- **Robustness.** Under PWWS, which exchanges words for synonyms, with a thesaurus that no defence has seen (Aiksaurus, without "
        f"the words trained on), {kept} of 100 answers stay right after plain training on 1,000 reviews. Training on the worst synonyms "
        f"keeps {gained} more than plain training with the same seeds, and loses {with_limits([-mean, -high, -low])} points of accuracy "
        f"({plain['seeds']} seeds of plain training, {defended['seeds']} of the defence; 95 % intervals). {aims_of(robust)}"])


BETWEEN = ("<!-- measured: written by tools/figures.py -->\n", "<!-- end -->")


def readme(text: str) -> str:
    "The README with its measured lines as they are now; ValueError where it has no place for them"
    before, start, rest = text.partition(BETWEEN[0])
    _, end, after = rest.partition(BETWEEN[1])
    if not (start and end):
        raise ValueError(f"README.md has no place for the measured lines, between {BETWEEN[0].strip()} and {BETWEEN[1].strip()}")
    return before + start + measured_lines() + "\n" + end + after


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")
    path = FOLDER.parent / "README.md"
    path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")
