"""What the site shows of a processed notebook: folds, levels of headings, the picture, widgets, unanswered exercises."""

import copy
import json
import sys

import pytest
from conftest import NBS, ROOT, run_tool

sys.path.insert(0, str(ROOT / "tools"))
from site_pages import EXPORTED, JUDGED, PICTURE, SLIDERS, TESTS, folded, is_tests, last_level, lowered, site_page, widgets

CHECKS = "\n".join(f"assert f({number}) == {number}" for number in range(9))
TEACHES = "def f(x):\n    'The formula'\n    y = x\n    z = y\n    return z\n"


def page(*cells: tuple) -> dict:
    "A processed notebook of (kind, source, outputs)"
    kinds = ({"cell_type": kind, "source": source, "metadata": {}} | ({"outputs": list(out)} if kind == "code" else {})
             for kind, source, *out in cells)
    return {"cells": list(kinds), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def output(**data: str) -> dict:
    "An output of these kinds"
    kinds = {"html": "text/html", "plain": "text/plain", "markdown": "text/markdown"}
    return {"output_type": "display_data", "metadata": {}, "data": {kinds[name]: text for name, text in data.items()}}


@pytest.mark.parametrize(("source", "tests"), [
    (CHECKS, True),
    (CHECKS.replace("assert f", "assert_close(f"), False),  # does not parse
    ("\n".join(f"np.testing.assert_allclose(f({n}), {n})" for n in range(9)), True),
    ("for n in range(3):\n    assert f(n)\n" + "\n".join(f"    assert g({n})" for n in range(8)), True),
    ("x = 1\n" * 9 + CHECKS, True), ("x = 1\n" * 10 + CHECKS, False),  # half, and less than half
    ("\n".join(CHECKS.splitlines()[:7]), False),  # short
    (TEACHES + "\n".join(CHECKS.splitlines()[:4]), False),  # what mirrors a formula is read
    (TEACHES + CHECKS + "\n" + CHECKS, True),
    ("import a\n" * 9, False), ("", False), ("%matplotlib inline\n" + CHECKS, True),
])
def test_long_blocks_of_checks_are_told_from_what_is_read(source, tests):
    assert is_tests(source) == tests


def test_exported_source_and_tests_fold_away_under_their_names():
    assert folded(EXPORTED + "x = 1", False) == '#| code-fold: true\n#| code-summary: "Exported source"\nx = 1'
    assert folded(CHECKS, False) == TESTS + CHECKS and folded(CHECKS, True) == CHECKS  # what shows something stays open
    assert folded("#| code-fold: true\nx = 1", False) == TESTS + "x = 1"
    for kept in (TEACHES, "#| echo: false\n" + CHECKS, '#| code-fold: true\n#| code-summary: "Setup"\nx = 1'):
        assert folded(kept, False) == kept


def test_functions_stand_one_level_under_the_text():
    doc = "---\n\n[source](x){style}\n\n### f\n\n```python\n# no heading\n```"
    assert lowered(doc, 1) == doc.replace("### f", "## f") and lowered(doc, 3) == doc.replace("### f", "#### f")
    assert lowered(doc, 6) == doc.replace("### f", "###### f")
    call = "```python\ndef Wrong(\n    *args, **kwargs\n):\n```\n\n"
    assert lowered(f"### Wrong\n\n{call}*An error*", 2) == "### Wrong\n\n*An error*"
    assert lowered(call.replace("**kwargs", "n:int, **kwargs"), 2) == call.replace("**kwargs", "n:int, **kwargs")
    assert last_level("## A\n\n### B\n\nx", 1) == 3 and last_level("```\n# code\n```", 2) == 2 and last_level("x", 4) == 4
    made = site_page(page(("markdown", "### B"), ("code", "#| echo: false\n#| output: asis\nshow_doc(f)", output(markdown=doc))),
                     set())
    assert "\n#### f\n" in made["cells"][1]["outputs"][0]["data"]["text/markdown"]


def test_pages_are_shared_with_the_picture():
    head = "---\ntitle: T\n---\n"
    made = site_page(page(("raw", head), ("raw", "no front matter"), ("raw", f"---\n{PICTURE}x\n---\n")), set())
    assert [cell["source"] for cell in made["cells"]] == [head.replace("---\n", f"---\n{PICTURE}\n", 1), "no front matter",
                                                          f"---\n{PICTURE}x\n---\n"]


def test_widgets_are_announced_and_unanswered_exercises_show_nothing():
    assert {"Explorer", "Judge", "LossExplorer", "ThresholdSlider"} <= widgets()
    slider, judged = output(html="<img>", plain="LossExplorer"), output(html="<ol></ol>", plain="3 things to judge: a, b")
    other = output(html="<p>3 things to judge</p>", plain="Table")
    undone = output(html="<p>… mean: not done yet. Replace the ... in the cell above; hint() helps.</p>")
    done = output(html="<p>✓ mean</p>", plain="right")
    made = site_page(page(("code", "x", slider, other), ("code", "y", judged), ("code", "check()", undone, done)), widgets())
    first, second, third = (cell["outputs"] for cell in made["cells"])
    assert [len(first), len(second), len(third)] == [3, 2, 1] and first[1:] == [slider, other] and third == [done]
    assert SLIDERS in first[0]["data"]["text/html"] and JUDGED in second[0]["data"]["text/html"]


def test_what_was_done_is_not_done_again(tmp_path):
    whole = page(("raw", "---\ntitle: T\n---\n"), ("markdown", "## A"), ("code", EXPORTED + "x = 1"), ("code", CHECKS),
                 ("code", "y", output(html="<img>", plain="LossExplorer")),
                 ("code", "#| echo: false\nshow_doc(f)", output(markdown="### f\n")))
    once = site_page(copy.deepcopy(whole), widgets())
    assert once != whole and site_page(copy.deepcopy(once), widgets()) == once
    (tmp_path / "a").mkdir()
    path = tmp_path / "a/b.ipynb"
    path.write_text(json.dumps(whole), encoding="utf-8")
    run_tool(sys.executable, "tools/site_pages.py", tmp_path)
    assert json.loads(path.read_text(encoding="utf-8")) == once
    before = path.stat().st_mtime_ns
    run_tool(sys.executable, "tools/site_pages.py", tmp_path)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(AssertionError, match="run nbdev_proc_nbs first"):
        run_tool(sys.executable, "tools/site_pages.py", tmp_path / "none")


def test_the_site_is_made_in_this_order():
    lines = [line.strip() for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()]
    steps = ["nbdev_proc_nbs", "tools/site_pages.py _proc", "nbdev_docs", "tools/offline_site.py _docs"]
    places = [next(i for i, line in enumerate(lines) if line.endswith(step)) for step in steps]
    assert places == sorted(places) and places[-1] - places[0] == 3


def test_the_lists_on_a_phone_name_the_columns_that_the_map_has():
    from llm_course.course import columns_of, read_lessons
    columns = columns_of(read_lessons(NBS / "lessons"))
    assert columns[:3] == ["Laptop", "Study", "Before"], "name the columns in nbs/styles.css anew"
