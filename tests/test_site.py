"""The site without Quarto: what JupyterLab, GitHub, Colab and the site must all show; each check sees a planted fault.

Headings have other addresses in JupyterLab (spaces become hyphens, capitals stay) than on the site and on GitHub
(lower case, punctuation dropped). Only the glossary links to headings, as the site spells them; JupyterLab then opens
the lesson at its top. All other links lead to a notebook as a whole, which works everywhere.
"""

import html
import importlib
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import NBS, NOTEBOOKS, ROOT, cells_of, name_of, run_tool, settings

from llm_course.command_line import parser_of_commands
from llm_course.course import PARTS, course_map, read_lesson, role_map, support_map
from llm_course.plots import new_axes, picture_of

sys.path.insert(0, str(ROOT / "tools"))
import api_pages
import check_links
import check_site
import offline_site
import sidebar
import site_pages

LESSONS = [path for path in NOTEBOOKS if path.parent.name == "lessons"]
GLOSSARY = NBS / "glossary.ipynb"


def shown_of(path: Path) -> list[str]:
    "The Markdown of a notebook: of its cells, and of what its code cells show"
    texts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        outputs = ["".join(output.get("data", {}).get("text/markdown", "")) for output in cell.get("outputs", [])]
        texts += ["".join(cell["source"])] if cell["cell_type"] == "markdown" else filter(None, outputs)
    return texts


def without_code(text: str) -> str:
    "Markdown without fenced code, code in lines, and mathematics"
    text = re.sub(r"^(```+).*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(`+)[^`].*?\1", "``", text)
    return re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "$$", text, flags=re.DOTALL)


def headings_of(texts: list[str]) -> list[tuple[int, str]]:
    "Level and words of each heading, in order"
    text = re.sub(r"^(```+).*?^\1\s*$", "", "\n\n".join(texts), flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), words.strip()) for marks, words in re.findall(r"^(#{1,6}) +(.+)$", text, re.MULTILINE)]


def anchors_of(texts: list[str]) -> list[str]:
    "The addresses that the site gives to the headings below the title (Pandoc's rule)"
    seen, anchors = Counter(), []
    for _, words in headings_of(texts)[1:]:
        anchor = re.sub(r"[^\w\-. ]", "", words).lower().replace(" ", "-")
        anchor = re.sub(r"^[^a-z]+", "", anchor) or "section"
        anchors.append(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return anchors


def opening_faults(texts: list[str]) -> list[str]:
    "The first cell is a title and a promise: nbdev takes them for the page's head, and drops the rest of the cell"
    fine = texts and re.fullmatch(r"# .+\n\n> .+", texts[0].strip())
    return [] if fine else [f"the first cell must be '# Title' and '> promise' alone, not: {texts[:1]}"]


def heading_faults(texts: list[str]) -> list[str]:
    "One title, which comes first; below it no level is left out"
    headings = headings_of(texts)
    levels = [level for level, _ in headings]
    faults = [] if levels[:1] == [1] and levels.count(1) == 1 else [f"not one title, and first: {headings[:2]}"]
    return faults + [f"from level {before} to {level} at '{words}'"
                     for (before, _), (level, words) in itertools.pairwise(headings) if level > before + 1]


def link_faults(path: Path, texts: list[str]) -> list[str]:
    "Links inside of the course lead somewhere, and to headings from the glossary only"
    faults = []
    for target in re.findall(r"\]\((?!https?:|mailto:|data:)([^)\s]+)\)", without_code("\n\n".join(texts))):
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        if not other.is_file() or not other.is_relative_to(NBS.resolve()):
            faults.append(f"{target}: no such file in nbs")
        elif anchor and path.name != GLOSSARY.name:
            faults.append(f"{target}: JupyterLab and the site spell headings differently; link to the notebook")
        elif anchor and anchor not in anchors_of(texts if other == path else shown_of(other)):
            faults.append(f"{target}: no such heading")
    return faults


def image_faults(notebook: dict) -> list[str]:
    "Images in Markdown and in outputs have a text that stands for them"
    faults, texts = [], []
    for cell in notebook["cells"]:
        texts += ["".join(cell["source"])] if cell["cell_type"] == "markdown" else []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            described = re.search(r"""\salt=("[^"]{10,}"|'[^']{10,}')""", "".join(data.get("text/html", "")))
            faults += [f"{kind} has no text: use plots.show" for kind in data if kind.startswith("image/") and not described]
            texts += ["".join(data[kind]) for kind in ("text/html", "text/markdown") if kind in data]
    for text in texts:
        tags = re.findall(r"<img\b[^>]*>", text)
        faults += [tag[:60] for tag in tags if not re.search(r"""\salt=("[^"]{10,}"|'[^']{10,}')""", tag)]
        faults += [f"![{alt}]({source[:60]})" for alt, source in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text)
                   if len(alt.strip()) < 10]
    return faults


FOREIGN = {
    "a fenced div": r"^\s*:{3,}", "a shortcode": r"\{\{[<%]", "attributes": r"\{[#.][\w-]+[^}]*\}|[\])]\{[^}]*\}",
    "a citation": r"\[-?@\w", "a cross-reference": r"(?<![\w@.])@(?:fig|tbl|sec|eq|lst|thm)-\w", "a cell option": r"^#\|",
    "a MyST target": r"^\([\w-]+\)=\s*$", "a MyST break": r"^\+\+\+", "front matter": r"\A---\s*$",
    "a comment": r"^%\s",
}


def foreign_syntax(texts: list[str]) -> list[str]:
    "What Quarto or MyST would read, and JupyterLab shows as it is"
    faults = []
    for text in texts:
        faults += [f"{kind}: {found[0]}" for kind, pattern in FOREIGN.items()
                   for found in re.finditer(pattern, without_code(text), re.MULTILINE)]
        faults += [f"a directive: {found}" for found in re.findall(r"^\s*(?:```+|:::+)\s*\{[^}]*\}", text, re.MULTILINE)]
        faults += [f"a role: {found}" for found in re.findall(r"\{[\w:-]+\}`[^`]+`", text)]
    return faults


def sidebar_faults(settings: dict, names: list[str]) -> list[str]:
    "Every notebook stands in the sidebar once, and a lesson in its part"
    entries = [(item, "") if isinstance(item, str) else (name if isinstance(name, str) else name["href"], item["section"])
               for item in settings["website"]["sidebar"]["contents"]
               for name in ([item] if isinstance(item, str) else item["contents"])]
    counts = Counter(name for name, _ in entries)
    faults = [f"{name} stands there {counts[name]} times" for name in sorted({*names, *counts})
              if counts[name] != 1 or name not in names]
    for name, section in entries:
        if name.startswith("lessons/") and section != f"{name[8]} · {PARTS[int(name[8])]}":
            faults.append(f"{name} stands in '{section}'")
    return faults


def reference_faults(texts: list[str], bibliography: str) -> list[str]:
    "Every address elsewhere is in the bibliography, once, and nothing there is unused"
    own = r"https://(?:colab\.research\.google\.com|github\.com/llm-course|llm-course\.github\.io)"
    used = {url.rstrip(".,;:") for text in texts for url in re.findall(rf"(?!{own})https?://[^\s)>\"\]]+", without_code(text))}
    entries = check_links.entries_of(bibliography)
    faults = [f"{entry['key']} has no {field}" for entry in entries for field in ("title", "author", "url")
              if not entry.get(field)]
    for field in ("key", "url"):
        counts = Counter(entry.get(field) for entry in entries)
        faults += [f"{value} is there {count} times" for value, count in counts.items() if count > 1]
    listed = {entry.get("url") for entry in entries}
    return faults + [f"not listed: {url}" for url in used - listed] + [f"not used: {url}" for url in listed - used]


def terms_of(texts: list[str]) -> list[tuple[str, str, str, str]]:
    "Rows of the glossary: term, Chinese name, lesson's file, anchor"
    rows = re.findall(r"^\| (.+?) \| (.+?) \| .+ \| \[\d\d\]\(lessons/([^#)]+)#([^)]+)\) \|$", "\n".join(texts), re.MULTILINE)
    assert len(rows) == "\n".join(texts).count("](lessons/"), "a row of the glossary has another form"
    return rows


def section_of(texts: list[str], anchor: str) -> str:
    "A heading and what stands below it, down to the next one of its level; emphasis and code marks are dropped"
    lines = re.sub(r"^(```+).*?^\1\s*$", "", "\n\n".join(texts), flags=re.MULTILINE | re.DOTALL).splitlines()
    places = [place for place, line in enumerate(lines) if re.match(r"#{1,6} +\S", line)]
    anchors = dict(zip(anchors_of(texts), places[1:], strict=True))
    if anchor not in anchors:
        return ""
    start, level = anchors[anchor], len(lines[anchors[anchor]].split()[0])
    ends = [place for place in places if place > start and len(lines[place].split()[0]) <= level]
    return re.sub(r"[*`]", "", "\n".join(lines[start:ends[0] if ends else None]))


def glossary_faults(texts: list[str], lessons: dict[str, list[str]]) -> list[str]:
    "Sorted, without repetition; each term stands in its section; each lesson has three terms or more; Chinese is there"
    rows = terms_of(texts)
    names = [term.lower() for term, *_ in rows]
    faults = [f"{second} stands after {first}" for first, second in itertools.pairwise(names) if first >= second]
    faults += [f"{term} has no Chinese name" for term, chinese, *_ in rows if not re.search(r"[一-鿿]", chinese)]
    for term, _, lesson, anchor in rows:
        if term.lower() not in section_of(lessons.get(lesson, ["# "]), anchor).lower():
            faults.append(f"{term} does not occur in {lesson}#{anchor}")
    counts = Counter(lesson for _, _, lesson, _ in rows)
    return faults + [f"{lesson} has {counts[lesson]} terms" for lesson in lessons if counts[lesson] < 3]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
@pytest.mark.parametrize("check", [opening_faults, heading_faults, foreign_syntax], ids=lambda check: check.__name__)
def test_markdown(check, path):
    assert not check(cells_of(path, "markdown"))


@pytest.mark.parametrize(("check", "texts"), [
    (opening_faults, ["# Title\n\n> Promise.\n\nMore, which the site would drop."]),
    (opening_faults, ["## Title\n\n> Promise."]),
    (heading_faults, ["# Title", "## A", "#### B"]),
    (heading_faults, ["# Title", "# Another"]),
    (heading_faults, ["## A", "# Title"]),
    *((foreign_syntax, ["# Title", text]) for text in (
        "::: {.callout-note}\nx\n:::", "{{< include x.qmd >}}", "## A {#sec-a}", "[a](b.ipynb){target=_blank}", "see [@shannon]",
        "in @fig-loss", "#| echo: false", "(target)=\n## A", "```{note}\nx\n```", "{ref}`target`", "+++", "---\ntitle: x\n---",
        "% a comment", "![A curve that falls](x.png){width=50%}", "[words]{.smallcaps}")),
])
def test_markdown_checks_see_planted_faults(check, texts):
    assert check(texts)


def test_markdown_checks_leave_what_is_fine():
    texts = ["# Title\n\n> Promise.", "## A\n\n### B", "## C\n\n`@fig-x` and `{#id}`, $x_{#}$, a@fig.org, {a}, [a](b.ipynb) {c}",
             "```python\n# a comment\n#| x\n```"]
    assert not opening_faults(texts) and not heading_faults(texts) and not foreign_syntax(texts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_links_inside_of_the_course_resolve(path):
    assert not link_faults(path, shown_of(path))


def test_the_link_check_sees_planted_faults():
    path, lesson = NBS / "index.ipynb", "lessons/12_fine_tuning.ipynb"
    for link in ("lessons/99_nothing.ipynb", f"{lesson}#resuming", "../README.md", "lessons"):
        assert link_faults(path, [f"# T\n\n[x]({link})"]), link
    assert link_faults(GLOSSARY, [f"# T\n\n[x]({lesson}#Resuming)"]) and link_faults(GLOSSARY, ["# T\n\n[x](#nowhere)"])
    assert not link_faults(GLOSSARY, [f"# T\n\n## Here\n\n[x]({lesson}#resuming) [y](#here) `[z](nothing)`"])


def test_anchors_follow_the_rule_of_the_site():
    texts = ["# T", "## `fine_tune`\n\n### 1. Macro F1", "## McNemar's *test*, again\n\n```\n## no heading\n```", "### By hand",
             "### By hand", "## 42"]
    assert anchors_of(texts) == ["fine_tune", "macro-f1", "mcnemars-test-again", "by-hand", "by-hand-1", "section"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_every_image_has_a_text_alternative(path):
    assert not image_faults(json.loads(path.read_text(encoding="utf-8")))


def test_the_image_check_sees_planted_faults():
    def notebook(source: str = "", **data: str) -> dict:
        return {"cells": [{"cell_type": "markdown", "source": [source]},
                          {"cell_type": "code", "source": [], "outputs": [{"data": data}]}]}
    html = "text/html"
    for planted in (notebook("![](x.png)"), notebook("![x](x.png)"), notebook('<img src="x.png">'), notebook(**{"image/png": "AA"}),
                    notebook(**{html: "<p>text</p>", "image/png": "AA"}), notebook(**{html: '<img src="x">'}), notebook(**{html: '<img alt="" src="x">'}),
                    notebook(**{html: '<img alt="short" src="a long source">'})):
        assert image_faults(planted), planted
    described = {html: '<img src="x" alt="A curve that falls, then rises">'}
    for fine in (notebook("![A curve that falls](x.png)", **described), notebook(**described, **{"image/png": "AA"})):
        assert not image_faults(fine)


FIGURE = r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"[^>]*>'  # as plots.figure_html writes it


def figure_faults(notebook: dict) -> list[str]:
    "A shown figure is a PNG, HTML and text at once, of one drawing; a live display, which is none, has HTML alone"
    faults = []
    for cell in notebook["cells"]:
        live = re.search(r"\bLivePlot\(", "".join(cell["source"]))
        for output in cell.get("outputs", []):
            data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if isinstance(text, str | list)}
            found = re.fullmatch(FIGURE, data.get("text/html", "").strip())
            if found and "image/png" not in data and not live:
                faults.append(f"only HTML, run tools/run_notebooks.py: {found[2][:60]}")
            elif found and "image/png" in data and data["image/png"].strip() != found[1]:
                faults.append(f"two drawings: {found[2][:60]}")
            elif found and "image/png" in data and data.get("text/plain") != html.unescape(found[2]):
                faults.append(f"two descriptions: {found[2][:60]}")
    return faults


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_every_figure_is_a_picture_for_plain_viewers_too(path):
    faults = figure_faults(json.loads(path.read_text(encoding="utf-8")))
    assert not faults, faults


def test_the_figure_check_sees_planted_faults():
    alt = "A curve that falls & rises"
    shown = picture_of(new_axes(), alt)._repr_mimebundle_()

    def notebook(source: str = "show(ax, alt=alt)", **changed: str | None) -> dict:
        data = {kind: text for kind, text in {**shown, **changed}.items() if text is not None}
        return {"cells": [{"cell_type": "code", "source": [source], "outputs": [{"data": data}]}]}
    assert not figure_faults(notebook()) and not image_faults(notebook())
    for planted in (notebook(**{"image/png": None}), notebook(**{"image/png": "AA"}), notebook(**{"text/plain": "<Figure>"})):
        assert len(figure_faults(planted)) == 1
    assert not figure_faults(notebook("fine_tune(classifier, train, callbacks=[LivePlot()])", **{"image/png": None}))
    assert not figure_faults(notebook(**{"image/png": None, "text/html": f"{shown['text/html']}<p>A widget's words</p>"}))


def test_the_sidebar_is_derived_from_the_folders():
    text = (NBS / "_quarto.yml").read_text(encoding="utf-8")
    assert sidebar.with_sidebar(text, sidebar.sidebar()) == text, "run: tools/sidebar.py"
    pages = [f"api/{module}.ipynb" for module in api_pages.modules()]
    assert not sidebar_faults(yaml.safe_load(text), [*(name_of(path) for path in NOTEBOOKS), *pages])


def test_the_sidebar_knows_new_folders_and_refuses_lessons_of_no_part(tmp_path):
    opening = ["# Title\n\n> Promise.", "[![badge](b)](c)\n*1 minute on a laptop · needs no other lesson · annotator*"]
    cells = [{"cell_type": "markdown", "source": text} for text in opening]
    for name in ("lessons/10_b.ipynb", "lessons/22_a.ipynb", "support/z.ipynb", "wing/b.ipynb", "wing/base.ipynb", "api/b.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"cells": cells}), encoding="utf-8")
    contents = sidebar.sidebar(tmp_path)
    sections = {part["section"]: part["contents"] for part in contents if isinstance(part, dict)}
    assert sections["Wing"] == ["wing/base.ipynb", "wing/b.ipynb"] and sections["Support"] == ["support/z.ipynb"]
    assert sections["API: lessons"] == ["api/b.ipynb", "api/a.ipynb"] and sections["API: support"] == ["api/z.ipynb"]
    assert sections["API: wing"] == ["api/wing.base.ipynb", "api/wing.b.ipynb"]
    assert sections["1 · Fine-tuning"] == [{"text": "10 · Title", "href": "lessons/10_b.ipynb"}]
    assert [name for name in sections if name[:1].isdigit()] == ["1 · Fine-tuning", f"2 · {PARTS[2]}"]
    (tmp_path / "lessons/90_c.ipynb").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"90_c.ipynb belong to no part"):
        sidebar.sidebar(tmp_path)
    with pytest.raises(ValueError, match="no list of contents"):
        sidebar.with_sidebar("website:\n", contents)


def test_the_sidebar_check_sees_planted_faults():
    def settings(*parts: str) -> dict:
        return {"website": {"sidebar": {"contents": ["index.ipynb", {"section": "1 · Fine-tuning", "contents": list(parts)}]}}}
    names = ["index.ipynb", "lessons/10_a.ipynb"]
    assert not sidebar_faults(settings("lessons/10_a.ipynb"), names)
    for parts in ([], ["lessons/10_a.ipynb"] * 2, ["lessons/10_a.ipynb", "lessons/11_b.ipynb"]):
        assert sidebar_faults(settings(*parts), names), parts
    assert sidebar_faults(settings("lessons/20_a.ipynb"), ["index.ipynb", "lessons/20_a.ipynb"])  # in another part


def test_every_reference_is_in_the_bibliography_once():
    bibliography = (NBS / "references.bib").read_text(encoding="utf-8")
    assert not reference_faults([text for path in NOTEBOOKS for text in shown_of(path)], bibliography)
    assert bibliography.count("\n@") == len(check_links.entries_of(bibliography)), "an entry has another form"


def test_the_reference_check_sees_planted_faults():
    one = "@misc{a,\n  title = {{A}},\n  author = {{B}},\n  url = {https://a.org/x}\n}\n"
    text = "[A](https://a.org/x), see `https://no.reference` and [us](https://github.com/llm-course/llm_course)."
    assert not reference_faults([text], one)
    assert reference_faults([text, "<https://b.org>"], one) == ["not listed: https://b.org"]
    assert reference_faults([], one) == ["not used: https://a.org/x"]
    assert reference_faults([text], one + one.replace("{a,", "{b,")) == ["https://a.org/x is there 2 times"]
    assert reference_faults([text], one.replace("{B}", "")) == ["a has no author"]


def test_glossary_keeps_its_promises():
    lessons = {path.name: cells_of(path, "markdown") for path in LESSONS}
    texts = cells_of(GLOSSARY, "markdown")
    assert not glossary_faults(texts, lessons) and len(terms_of(texts)) >= 60


def test_the_glossary_check_sees_planted_faults():
    def row(term: str, chinese: str = "词", lesson: str = "10_a.ipynb", anchor: str = "words") -> str:
        return f"| {term} | {chinese} | $x$ | in short | [10](lessons/{lesson}#{anchor}) |"
    lessons = {"10_a.ipynb": ["# T", "## Words\n\nA *batch*, a batch size, an epoch, a logit.", "## Else\n\nA token."]}
    fine = [row("batch"), row("epoch"), row("logit")]
    assert not glossary_faults(fine, lessons)
    for planted in (fine[::-1], [*fine, fine[-1]], fine[:2], [*fine, row("token")], [*fine, row("token", anchor="nowhere")],
                    [*fine, row("token", lesson="11_b.ipynb", anchor="else")], [*fine, row("token", "token", anchor="else")]):
        assert glossary_faults(planted, lessons), planted


ORDINARY = r"output projection|each precision|precision of the activations|full precision|double precision|no kernel runs|kernel runs|the kernel|kernel of its own|without a kernel|; energy: \[|money and energy"  # no terms here


def without_headings(texts: list[str]) -> str:
    "What is read below the opening: no headings, no code, no mathematics, and ordinary uses of a term's word left out"
    text = re.sub(r"^#{1,6} .*$", lambda found: " " * len(found[0]), without_code("\n\n".join(texts[2:])), flags=re.MULTILINE)
    return re.sub(ORDINARY, lambda found: " " * len(found[0]), text, flags=re.IGNORECASE)


def marked(text: str) -> list[tuple[int, int]]:
    "Where links and emphasised words stand: a link leads to an explanation, an emphasised word is explained there"
    return [found.span() for pattern in (r"\[[^\]]+\]\([^)]+\)", r"\*\*[^*]+\*\*", r"(?<!\*)\*[^*\n]+\*(?!\*)")
            for found in re.finditer(pattern, text)]


def first_places(text: str, terms: list[str]) -> dict[str, int]:
    "Where each term is first used; within a longer term it is not used, nor with a capital where the term has none"
    places = {}
    for term in sorted(terms, key=len, reverse=True):
        ending = r"(?:s|es)?(?![\w-])" if term[-1].isalnum() else ""
        start = rf"[{term[0].upper()}{term[0]}]" if term[0].isalpha() and term[1:].islower() else re.escape(term[0])
        pattern = rf"(?<![\w-]){start}{re.escape(term[1:])}{ending}"
        if found := re.search(pattern, text):
            places[term] = found.start()
        text = re.sub(pattern, lambda found: " " * len(found[0]), text)
    return places


def explained_from(texts: list[str], anchor: str) -> int:
    "Where the section of an anchor begins in the text without headings"
    lines = without_code("\n\n".join(texts[2:])).splitlines(keepends=True)
    for place, line in enumerate(lines):
        if line.startswith("#") and anchors_of(["# x", line])[:1] == [re.sub(r"-\d$", "", anchor)]:
            return sum(map(len, lines[:place]))
    return 0


def unexplained(lesson: str, texts: list[str], rows: list[tuple[str, str, str, str]], known: set[str]) -> list[str]:
    "Terms that a lesson uses before it, or a lesson that it needs, has explained them, and without a link"
    text, faults = without_headings(texts), []
    spans, homes = marked(text), {term: (home, anchor) for term, _, home, anchor in rows}
    for term, place in first_places(text, list(homes)).items():
        home, anchor = homes[term]
        if home in known or (home == lesson and place >= explained_from(texts, anchor)):
            continue
        if not any(start <= place < end for start, end in spans):
            faults.append(f"{term}: …{text[max(0, place - 40):place + 40]}…".replace("\n", " "))
    return faults


def needed_by(lesson: Path) -> set[str]:
    "The file names of all lessons that a lesson needs, and that these need"
    numbered = {path.name[:2]: path for path in LESSONS}
    known, waiting = set(), [lesson]
    while waiting:
        for number in read_lesson(waiting.pop()).needs:
            if numbered[f"{number:02}"].name not in known:
                known.add(numbered[f"{number:02}"].name), waiting.append(numbered[f"{number:02}"])
    return known


@pytest.mark.parametrize("path", LESSONS, ids=name_of)
def test_terms_are_explained_or_linked_before_they_are_used(path):
    rows = terms_of(cells_of(GLOSSARY, "markdown"))
    assert not unexplained(path.name, cells_of(path, "markdown"), rows, needed_by(path))


def test_the_check_of_terms_sees_planted_faults():
    rows = [("batch", "词", "10_a.ipynb", "padding"), ("mixed precision", "词", "12_c.ipynb", "x"),
            ("precision", "词", "13_d.ipynb", "x"), ("token budget", "词", "10_a.ipynb", "padding"),
            ("token", "词", "10_a.ipynb", "padding"), ("Adam", "词", "12_c.ipynb", "x")]

    def faults(text: str, lesson: str = "11_b.ipynb", known: tuple[str, ...] = ()) -> list[str]:
        return [fault.partition(":")[0] for fault in unexplained(lesson, ["# T", "o", *text.split("§")], rows, set(known))]

    assert faults("A batch. Then a *batch*.") == ["batch"] and faults("Batches.") == ["batch"]
    assert not faults("A [batch](../glossary.ipynb). A batch.") and not faults("A *batch of texts* is so. A batch.")
    assert not faults("A batch.", known=("10_a.ipynb",)) and not faults("`batch` and $batch$ and one-batch.\n\n## Batch")
    assert faults("Two token budgets") == ["token budget"] and faults("Mixed precision.", known=("13_d.ipynb",)) == ["mixed precision"]
    assert not faults("In full precision; no kernel runs.") and not faults("An atom. Adamant.") and faults("By Adam") == ["Adam"]
    assert faults("A batch.§## Padding§Tokens.", "10_a.ipynb") == ["batch"]
    assert not faults("## Padding\n\nA batch.§Tokens.", "10_a.ipynb")


def missing_maps(texts: list[str]) -> list[str]:
    "The derived tables that a page does not show as they are now, seen from the folder of the notebooks"
    return [made.__name__ for made in (course_map, role_map, support_map) if made().data not in texts]


def test_the_front_page_shows_the_course_as_it_is(monkeypatch):
    monkeypatch.chdir(NBS)
    assert not missing_maps(shown_of(NBS / "index.ipynb")), "run: tools/run_notebooks.py nbs/index.ipynb"
    linked = set(re.findall(r"\]\(([\w/]+\.ipynb)\)", support_map().data))
    assert linked == {name_of(path) for path in NOTEBOOKS if path.parent != NBS and path.parent.name != "lessons"}


def test_the_check_of_the_front_page_sees_a_new_notebook(tmp_path, monkeypatch):
    for path in NOTEBOOKS:
        (tmp_path / name_of(path)).parent.mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / name_of(path))
    monkeypatch.chdir(tmp_path)
    shown = [course_map().data, role_map().data, support_map().data]
    assert not missing_maps(shown)
    shutil.copy("support/core.ipynb", "support/later.ipynb")
    assert missing_maps(shown) == ["support_map"]
    shutil.copy("lessons/53_imdb_at_full_scale.ipynb", "lessons/64_later.ipynb")
    assert missing_maps(shown) == ["course_map", "role_map", "support_map"]


def missing_plans(texts: list[str]) -> list[str]:
    "The plans that the page for teachers does not show as the lessons state them now"
    names, missing = {}, []
    for source in cells_of(NBS / "teaching.ipynb"):
        if "plan_table(" not in source:
            exec(source, names)
        elif eval(source.partition("\n")[2], names).data not in texts:
            missing.append(source.splitlines()[-1])
    return missing


def test_the_page_for_teachers_shows_the_lessons_as_they_are(monkeypatch):
    monkeypatch.chdir(NBS)
    texts = shown_of(NBS / "teaching.ipynb")
    assert not missing_plans(texts), "run: tools/run_notebooks.py nbs/teaching.ipynb"
    plans = [text for text in texts if text.startswith("| When |")]
    told = [set(re.findall(r"\]\(lessons/([^)]+)\) \||\]\(lessons/([^)]+)\),", plan)) for plan in plans]
    assert len(plans) == 3 and len(told[2]) == len(LESSONS), "the term has all lessons"
    assert len(missing_plans([text.replace("minutes", "hours") for text in texts])) == 3


def test_the_commands_for_teachers_are_those_of_the_package():
    page = "\n\n".join(cells_of(NBS / "teaching.ipynb", "markdown"))
    lines = re.findall(r"^(?:course/bin/)?llm-course ?(.*)$", page, re.MULTILINE)
    given = [parser_of_commands().parse_args(line.split()) for line in lines]  # another command ends the test
    assert {each.command for each in given} == {None, "start", "collect"}
    assert "llm_course[lab] @ git+" + settings()["git_url"] in page and "--find-links wheels" in page


def test_a_reference_page_shows_every_public_name(tmp_path):
    pages = api_pages.write_pages(tmp_path / "api")
    assert [path.stem for path in pages] == api_pages.modules() and (NBS / "lessons").is_dir()
    for path in pages:
        shown, module = "\n\n".join(shown_of(path)), importlib.import_module(f"llm_course.{path.stem}")
        missing = [name for name in module.__all__ if name not in shown]
        assert not missing, f"{path.stem}: {missing}"
        assert not heading_faults(cells_of(path, "markdown")) and not opening_faults(cells_of(path, "markdown"))


PROCESS = "from nbdev.serve import proc_nbs\nif __name__ == '__main__': proc_nbs(n_workers=0)"


def process(folder: Path) -> subprocess.CompletedProcess:
    "nbdev's processing of all notebooks of a copy of the repository, into its folder _proc"
    return subprocess.run([sys.executable, "-c", PROCESS], cwd=folder, capture_output=True, text=True, timeout=500,
                          env={**os.environ, "PYTHONPATH": str(folder)})


def lost_cells(source: list[str], processed: list[str]) -> list[str]:
    "Markdown cells after the first of which the processed notebook lacks the first line, links aside"
    def bare(text: str) -> str:
        return re.sub(r"[`*]|\]\([^)]*\)|[\[\]!]", "", text)
    whole = bare("\n\n".join(processed))
    return [text for text in source[1:] if bare(text).strip().splitlines()[0] not in whole]


@pytest.mark.timeout(520)
def test_nbdev_processes_every_notebook(copy_of_repository):
    done = process(copy_of_repository)
    assert done.returncode == 0, done.stderr[-4000:]
    for path in NOTEBOOKS:
        made = copy_of_repository / "_proc" / name_of(path)
        head = json.loads(made.read_text(encoding="utf-8"))["cells"][0]
        assert "title:" in "".join(head["source"]) and "description:" in "".join(head["source"]), name_of(path)
        assert not lost_cells(cells_of(path, "markdown"), cells_of(made, "markdown")), name_of(path)
    for name in ("404.md", "images/course.png", "images/favicon.svg", "fonts/course-math.woff2", "offline.scss", "styles.css", "_quarto.yml"):
        assert (copy_of_repository / "_proc" / name).is_file(), f"nbdev left {name} behind"


def test_the_processing_check_sees_planted_faults(tmp_path):
    for name in ("settings.ini", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "nbs").mkdir()
    source = (NBS / "support/claims.ipynb").read_text(encoding="utf-8")
    planted = source.replace('"#| export\\n",\n    "import html\\n"', '"#| export\\n",\n    "import no_such_module\\n"')
    assert planted != source
    (tmp_path / "nbs/claims.ipynb").write_text(planted, encoding="utf-8")
    shutil.copytree(ROOT / "llm_course", tmp_path / "llm_course", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    done = process(tmp_path)
    assert done.returncode != 0 and "no_such_module" in done.stderr
    assert lost_cells(["# T", "[![badge](a)](b)", "## A\n\nx"], ["## A"]) == ["[![badge](a)](b)"]


def test_site_settings_serve_what_they_promise():
    settings = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))
    html, website = settings["format"]["html"], settings["website"]
    assert settings["metadata-files"] == ["nbdev.yml"]  # where nbdev writes title, addresses and output folder
    assert html["html-math-method"] == "mathml" and set(html["theme"]) == {"light", "dark"}
    assert html["code-fold"] is False and html["respect-user-color-scheme"] is True
    assert website["image"] == f"/{settings['project']['resources'][0]}" == site_pages.PICTURE.removeprefix("image: ")
    for name in (website["favicon"], *settings["project"]["resources"], html["css"], *(theme[-1] for theme in html["theme"].values())):
        assert (NBS / name).is_file(), name
    picture = (NBS / website["image"][1:]).read_bytes()
    assert struct.unpack(">II", picture[16:24]) == (1200, 630) and len(picture) < 150_000


def test_without_quarto_docs_says_in_one_line_how_to_get_it(copy_of_repository):
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "quarto").exists()]
    done = subprocess.run(["make", "--no-print-directory", "docs"], cwd=copy_of_repository, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PATH": os.pathsep.join(folders)})
    assert done.returncode != 0 and len(done.stdout.splitlines()) == 1, done.stdout
    assert all(way in done.stdout for way in ("conda-forge quarto", "quarto-cli", "https://quarto.org"))
    assert not (copy_of_repository / ".venv").exists()  # it looks before it installs anything
    assert "sudo" not in done.stdout + done.stderr + (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_site_loads_nothing_from_elsewhere(tmp_path):
    cdn = ('<script src="https://cdnjs.cloudflare.com/require.min.js" crossorigin="anonymous"></script>\n'
           '<script type="application/javascript">define(\'jquery\', [],function() {return window.jQuery;})</script>\n'
           '<link href="https://fonts.example/x.css" rel="stylesheet">\n')
    own = '<script src="site_libs/x.js"></script><a href="https://arxiv.org/abs/1">a</a><link href="styles.css" rel="stylesheet">'
    link = '<a class="x" href="https://a.org/course/api/core.html#f">f</a>'

    def left(text: str, name: str = "index.html") -> list[str]:
        return check_site.loaded_from_elsewhere(check_site.Site(tmp_path, "https://a.org/course", {}), name, text)

    assert left(cdn) and not left(own)
    page = offline_site.offline(cdn + own + link, 1, "https://a.org/course")
    assert page == own + '<a class="x" href="../api/core.html#f">f</a>'
    style = '@import"https://fonts.googleapis.com/css2?family=Lato&display=swap";body{color:red}'
    assert left(style, "x.css") and offline_site.offline(style, 0, "https://a.org") == "body{color:red}"
    assert left("@font-face{src:url(https://a.org/x.woff)}", "x.css")


def test_the_built_site_is_made_to_read_offline_or_refused(tmp_path):
    page = tmp_path / "lessons/a.html"
    page.parent.mkdir()
    page.write_text(f'<script src="//cdn.example/x.js"></script><a href="{check_site.site_address()}/b.html">b</a>', encoding="utf-8")
    names = ["api/x.html", "index.html", "lessons/b.html#q", "api/a.html", "lessons/a.html"]
    (tmp_path / "search.json").write_text(json.dumps([{"href": name} for name in names]), encoding="utf-8")
    run_tool(sys.executable, "tools/offline_site.py", tmp_path)
    found = [item["href"] for item in json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))]
    assert found == ["lessons/b.html#q", "lessons/a.html", "index.html", "api/x.html", "api/a.html"]
    assert page.read_text(encoding="utf-8") == '<a href="../b.html">b</a>'
    page.write_text('<img src="https://cdn.example/x.png">', encoding="utf-8")
    with pytest.raises(AssertionError, match=r"a\.html: loads from elsewhere: https://cdn\.example/x\.png"):
        run_tool(sys.executable, "tools/offline_site.py", tmp_path)


class Server(BaseHTTPRequestHandler):
    "Answers /NUMBER with that status; asks HEAD at /get to come back with GET"

    def do_GET(self):
        status = 200 if self.path == "/get" else int(self.path[1:])
        self.send_response(405 if self.path == "/get" and self.command == "HEAD" else status)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments):
        "Says nothing"


def test_link_checker_tells_the_living_from_the_dead(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        answers = {path: check_links.answer_of(f"{address}/{path}", 5) for path in ("200", "get", "404", "403")}
        server.shutdown()
    assert answers == {"200": 200, "get": 200, "404": 404, "403": 403}
    lines, code = check_links.verdict(answers)
    assert code == 1 and lines == ["refuses a program (403): 403", "gone (404): 404", "4 addresses, 1 gone, 1 refuse a program"]
    assert check_links.verdict({"200": 200, "403": 403})[1] == 0
    assert isinstance(check_links.answer_of(f"{address}/200", 5), str)  # nobody is there any more
    bibliography = tmp_path / "one.bib"
    bibliography.write_text(f"@misc{{a,\n  url = {{{address}/200}}\n}}\n", encoding="utf-8")
    done = subprocess.run([sys.executable, ROOT / "tools/check_links.py", bibliography], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "No address answers: is there a network here?\n"


def test_make_links_is_there():
    assert "tools/check_links.py" in run_tool("make", "-n", "links")
