"""The review on the front page: one word turns a plain classifier, and one that trained on the worst words holds.

Both see the same 3,000 movie reviews for two epochs. PWWS attacks both on test reviews of at most twelve words. Kept are
how often each keeps its right answer, and a review whose answer a single word turns with the plain classifier, while
the other is right and keeps its answer under an attack of its own: of those that both read with at least 80 % the one
whose meaning changes least, by the sentence encoder. It is chosen to show what the course is about; the shares of all
attacked reviews stand beside it.

    python benchmarks/front_page.py [--reviews 3000] [--attacked 200]
"""

import argparse

from common import write
from llm_course.adversarial_examples import AttackReport, SynonymAttack
from llm_course.adversarial_training import Substitutions, WorstSynonyms
from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier
from llm_course.words import split_words

LABELS = ["negative", "positive"]
SURE = 0.8  # the least probability of the right label, before the attack


def trained(train, defended: bool) -> TextClassifier:
    "A classifier after two epochs, with the worst synonyms or plainly"
    classifier = TextClassifier.from_pretrained("minilm", labels=LABELS, seed=0)
    options = {"objective": WorstSynonyms(Substitutions(classifier, train["text"]))} if defended else {}
    fine_tune(classifier, train, epochs=2, seed=0, progress=False, **options)
    return classifier


def shares(report: AttackReport) -> dict:
    "How many reviews were right before, and under attack"
    return {"reviews": len(report.results), "right": report.attacked,
            "right under attack": report.attacked - report.count("succeeded")}


def shown(plain: TextClassifier, defended: TextClassifier, reports: dict[str, AttackReport]) -> dict:
    "The review that one word turns, least changed in meaning, which the other classifier reads rightly and keeps"
    pairs = zip(reports["plain"].results, reports["worst synonyms"].results, strict=True)
    found = [(turned, kept) for turned, kept in pairs
             if turned.status == "succeeded" and len(turned.changes) == 1 and kept.status == "failed"
             and all(classifier.predict_proba([turned.text])[0, turned.label] >= SURE for classifier in (plain, defended))]
    if not found:
        raise SystemExit("no review that one word turns and that the other classifier keeps: raise --attacked")
    for turned, _ in found:
        print(f"{turned.similarity:.3f}", turned.text, turned.changes, flush=True)
    turned, kept = max(found, key=lambda pair: pair[0].similarity)
    [(place, new)] = turned.changes
    pieces = split_words(turned.text)
    probability = {name: classifier.predict_proba([turned.text, turned.perturbed])[:, turned.label].tolist()
                   for name, classifier in (("plain", plain), ("worst synonyms", defended))}
    return {"text": turned.text, "label": LABELS[turned.label], "word": pieces[place], "synonym": new, "attacked": turned.perturbed,
            "similarity": turned.similarity, "chosen from": len(found), "probability of the label": probability,
            "queries": kept.queries}


def main():
    "Train both, attack both, and keep one review with the shares of all"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=3000)
    parser.add_argument("--attacked", type=int, default=200)
    settings = parser.parse_args()
    movies = load_dataset("movies")
    train = movies["train"].shuffle(seed=0).select(range(settings.reviews))
    short = movies["test"].filter(lambda row: len(row["text"].split()) <= 12).select(range(settings.attacked))
    both = {"plain": trained(train, False), "worst synonyms": trained(train, True)}
    reports = {name: SynonymAttack(seed=0).attack(classifier, short, progress=False) for name, classifier in both.items()}
    write("front_page", {"data": f"{settings.attacked} movie reviews of at most 12 words, PWWS",
                         "settings": vars(settings), "shares": {name: shares(report) for name, report in reports.items()},
                         "shown": shown(both["plain"], both["worst synonyms"], reports)})


if __name__ == "__main__":
    main()
