"""Draw nbs/images/front.png, the picture at the top of the README and of the front page, from its result file.

    python tools/front_picture.py            # after benchmarks/front_page.py
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from llm_course.plots import BLUE, GREY, ORANGE, use_style

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/front_page.json"
PICTURE = ROOT / "nbs/images/front.png"
SIZE = (1120, 390)  # pixels of the layout; twice as many are drawn




def put_review(axes: plt.Axes, text: str, word: str, height: float, colour: str):
    "A review on one line, one word of it on a ground of colour; each part begins where the one before has ended"
    before, _, after = text.replace("''", '"').partition(word)
    renderer, left = axes.figure.canvas.get_renderer(), 60.0
    size = min(19, 19 * 66 / len(text))
    for part, ground in ((f"“{before}", None), (word, colour), (f"{after}”", None)):
        box = {"facecolor": ground, "edgecolor": "none", "pad": 2} if ground else None
        drawn = axes.text(left, height, part, fontsize=size, va="baseline", bbox=box, weight="bold" if ground else "normal")
        left = axes.transData.inverted().transform(drawn.get_window_extent(renderer).corners())[:, 0].max() + (3 if ground else 0)
        if part.endswith(" "):  # whose width matplotlib does not count
            left += 6


def put_answer(axes: plt.Axes, left: float, bottom: float, label: str, sure: str, right: bool):
    "A box with an answer: what was said, how sure the right label is, and whether it is right"
    colour = BLUE if right else ORANGE
    axes.add_patch(FancyBboxPatch((left, bottom), 250, 70, boxstyle="round,pad=0,rounding_size=12", linewidth=2.5,
                                  edgecolor=colour, facecolor="white"))
    axes.text(left + 125, bottom + 45, f"{'✓' if right else '✗'} {label}", fontsize=17, weight="bold", color=colour, ha="center",
              va="center")
    axes.text(left + 125, bottom + 17, sure, fontsize=12, color="#444444", ha="center", va="center")


def draw(found: dict) -> plt.Figure:
    "The review before and after, and what two classifiers say of both"
    use_style()
    plt.rcParams["figure.constrained_layout.use"] = False
    shown = found["shown"]
    other = {"negative": "positive", "positive": "negative"}
    figure = plt.figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=200, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, SIZE[0]), ylim=(0, SIZE[1]))
    axes.axis("off")
    for row, (text, word, colour, height) in enumerate((
        (shown["text"], shown["word"], "#BFE3FF", 315), (shown["attacked"], shown["synonym"], "#FFD9B3", 130),
    )):
        axes.text(60, height + 36, ("A review that people call " + shown["label"], "One word replaced by a synonym")[row], fontsize=13,
                  color=GREY)
        put_review(axes, text, word, height, colour)
        for place, (name, title) in enumerate((("plain", "fine-tuned"), ("worst synonyms", "fine-tuned on the\nworst synonyms"))):
            share = shown["probability of the label"][name][row]
            said = shown["label"] if share > 0.5 else other[shown["label"]]
            left = 60 + place * 560
            axes.text(left, height - 62, title, fontsize=14, va="center", linespacing=1.4)
            put_answer(axes, left + 200, height - 97, said, f"{shown['label']}: {100 * share:.0f} %", said == shown["label"])
    return figure


if __name__ == "__main__":
    draw(json.loads(RESULT.read_text(encoding="utf-8"))).savefig(PICTURE, metadata={"Software": None})
