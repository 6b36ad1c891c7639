"""Draw nbs/images/course.png, the picture of the course: on the front page and where the site is shared.

    python tools/course_picture.py
"""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from llm_course.course import PARTS, read_lessons
from llm_course.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW, use_style

NBS = Path(__file__).parents[1] / "nbs"
SIZE = (1200, 630)  # pixels: what sites that show a link's picture expect
COLOURS = {0: GREY, 1: BLUE, 2: ORANGE, 3: PURPLE, 4: GREEN, 5: YELLOW, 6: SKY}


def draw() -> plt.Figure:
    "A box for each part, with its lessons, in the order in which they are read"
    use_style()
    plt.rcParams["figure.constrained_layout.use"] = False
    figure = plt.figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, SIZE[0]), ylim=(0, SIZE[1]))
    axes.axis("off")
    axes.text(60, 545, "llm_course", fontsize=44, weight="bold", color=BLUE, va="center")
    axes.text(60, 475, "Fine-tune, attack, defend and ship language models", fontsize=24, va="center")
    axes.text(60, 430, "Notebooks that run offline, on a laptop first, on real reviews", fontsize=18, color="#444444",
              va="center")
    lessons = read_lessons(NBS / "lessons")
    parts = [part for part in PARTS if any(lesson.number // 10 == part for lesson in lessons)]
    width = (SIZE[0] - 120 - 30 * (len(parts) - 1)) / len(parts)
    for place, part in enumerate(parts):
        left = 60 + place * (width + 30)
        axes.add_patch(FancyBboxPatch((left, 40), width, 345, boxstyle="round,pad=0,rounding_size=14", linewidth=3,
                                      edgecolor=COLOURS[part], facecolor="white"))
        columns = int((width - 36) / 8)  # of the small letters
        axes.text(left + 18, 365, textwrap.fill(PARTS[part], max(columns // 4 * 3, 10)), fontsize=15, weight="bold",
                  va="top", linespacing=1.3)
        lines = [textwrap.fill(f"{lesson.label} {lesson.title.partition(':')[0]}", columns, subsequent_indent="     ")
                 for lesson in lessons if lesson.number // 10 == part]
        axes.text(left + 18, 300, "\n".join(lines), fontsize=11, va="top", linespacing=1.7)
        if place:
            axes.annotate("", (left - 3, 215), (left - 27, 215), arrowprops={"arrowstyle": "-|>", "linewidth": 2.5,
                                                                           "color": GREY})
    return figure


if __name__ == "__main__":
    draw().savefig(NBS / "images/course.png", metadata={"Software": None})
