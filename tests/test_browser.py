"""A learner's first hour, in a real browser: open a lesson, run all of it, move its sliders; a failure leaves a picture."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import BIN, NBS, ROOT, headless_chromium

sys.path.insert(0, str(ROOT / "tools"))
import accessibility
import lab_settings

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
MINUTES = 60_000  # milliseconds, as Playwright counts


def free_port() -> int:
    "A port that nobody listens on"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url: str):
    "The JSON at an address of the server"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def new_kernel(url: str, before: set[str]) -> str | None:
    "The id of a kernel that was not there before, once the server can say so"
    try:
        return next((kernel["id"] for kernel in get(f"{url}/api/kernels") if kernel["id"] not in before), None)
    except urllib.error.HTTPError as error:
        if error.code != 500:
            raise
        return None  # asked while a kernel begins, jupyter-server lists it before it has a state, and fails


@pytest.fixture(scope="module")
def lab(tmp_path_factory, shared_cache) -> Iterator[tuple[str, Path]]:
    "JupyterLab on a copy of the notebooks: its address and its folder"
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NBS, folder / "nbs", ignore=shutil.ignore_patterns(".*"))
    lab_settings.main(folder)  # as `make setup` does for the environment
    (folder / "app").mkdir()
    shutil.copy(folder / lab_settings.PLACE, folder / "app")
    settings = folder / "settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)
    # All cells in the page, so that the test sees those that are out of sight.
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    url = f"http://127.0.0.1:{free_port()}"
    command = [BIN / "jupyter", "lab", "--no-browser", f"--port={url.rsplit(':', 1)[1]}", "--ip=127.0.0.1",
               "--allow-root", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True",
               f"--LabApp.app_settings_dir={folder / 'app'}", f"--ServerApp.root_dir={folder / 'nbs'}"]
    variables = {**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "LLM_COURSE_CACHE": shared_cache,
                 "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    with open(folder / "lab.log", "w") as log:
        process = subprocess.Popen([str(part) for part in command], env=variables, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                get(f"{url}/api/status")
                break
            except OSError:
                assert process.poll() is None, (folder / "lab.log").read_text()
                time.sleep(0.5)
        yield url, folder / "nbs"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def chromium():
    "Headless Chromium"
    with headless_chromium() as launched:
        yield launched


@pytest.fixture
def browser(chromium, request, tmp_path_factory):
    "A window of its own for a test; where the test fails, what its pages show is kept as pictures"
    window = chromium.new_context(viewport={"width": 1280, "height": 900})
    yield window
    if getattr(request.node, "failed", False):
        folder = tmp_path_factory.mktemp("screens")
        for number, page in enumerate(window.pages):
            page.screenshot(path=folder / f"{number}.png")
            print(f"What the browser showed: {folder / f'{number}.png'}")
    window.close()


def run_all(browser, lab: tuple[str, Path], lesson: str):
    "Open a lesson, choose Run All, wait until the kernel is done and save; the page and the saved notebook"
    url, folder = lab
    before = {kernel["id"] for kernel in get(f"{url}/api/kernels")}
    page = browser.new_page()
    page.goto(f"{url}/lab/tree/lessons/{lesson}.ipynb?reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell", timeout=MINUTES)
    kernel = wait_for(lambda: new_kernel(url, before), 60)
    wait_for(lambda: get(f"{url}/api/kernels/{kernel}")["execution_state"] == "idle", 60)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator(".lm-Menu-item").filter(has_text="Run All Cells").first.click()
    last = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputArea-prompt").last
    wait_for(lambda: "*" not in last.inner_text() and idle(url, kernel), 600)
    page.keyboard.press("Control+s")
    path = folder / f"lessons/{lesson}.ipynb"
    counts = [cell["execution_count"] for cell in wait_for(lambda: all_run(path), 60)]
    assert counts == list(range(1, len(counts) + 1))
    return page, json.loads(path.read_text(encoding="utf-8"))


def written(lab: tuple[str, Path], name: str, source: str) -> str:
    "The name of a new notebook of one cell, beside the lessons"
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=kernel)
    nbformat.write(notebook, lab[1] / f"lessons/{name}.ipynb")
    return name


def idle(url: str, kernel: str) -> bool:
    "Whether the kernel rests, now and two seconds later"
    first = get(f"{url}/api/kernels/{kernel}")["execution_state"]
    time.sleep(2)
    return first == get(f"{url}/api/kernels/{kernel}")["execution_state"] == "idle"


def all_run(path: Path) -> list[dict]:
    "The code cells of the saved notebook, once each has run"
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    return cells if all(cell["execution_count"] for cell in cells) else []


def wait_for(check, seconds: float):
    "What a check returns, as soon as it is true"
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"nothing after {seconds} s"
        time.sleep(0.5)
    return found


def outputs_of(notebook: dict) -> list[dict]:
    "All outputs of a notebook"
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def assert_clean(notebook: dict, page):
    "No error and no stderr, neither in the file nor on the page"
    for output in outputs_of(notebook):
        assert output["output_type"] != "error", output
        assert output.get("name") != "stderr", output
    for mime in ("application/vnd.jupyter.stderr", "application/vnd.jupyter.error"):
        assert page.locator(f'[data-mime-type="{mime}"]').count() == 0


@pytest.mark.slow
def test_lesson_12_runs_from_top_to_bottom(browser, lab):
    page, notebook = run_all(browser, lab, "12_fine_tuning")
    assert_clean(notebook, page)
    figure = page.locator('.jp-OutputArea-output img[alt^="The loss falls"]').first
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    assert figure.is_visible() and box["width"] > 300 and box["height"] > 150
    assert figure.evaluate("image => image.naturalWidth") > 300  # it was drawn, not only placed
    text = page.locator(".jp-NotebookPanel").inner_text()
    assert "reads at least 75 of 100 new reviews correctly" in text
    page.close()


def moved_right(page, name: str, output, shows):
    "Press the arrow five times on the slider of this name; wait until the output shows it, with another picture"
    slider, picture = page.locator(".widget-hslider").filter(has_text=name), output.locator("img").get_attribute("src")
    slider.scroll_into_view_if_needed()
    slider.locator(".noUi-handle").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_for(lambda: shows(output.inner_text()), 20)
    assert output.locator("img").get_attribute("src") != picture


THRESHOLDS = """from llm_course.widgets.evaluation import ThresholdSlider
ThresholdSlider([number % 3 > 0 for number in range(90)], [(number * 37 % 90 + number % 3 * 30) / 150 for number in range(90)])"""


@pytest.mark.parametrize("lesson", [pytest.param("", id="alone"), pytest.param("13_evaluation", marks=pytest.mark.slow)])
def test_slider_of_lesson_13_moves_precision_against_recall(browser, lab, lesson):
    page, notebook = run_all(browser, lab, lesson or written(lab, "threshold_trial", THRESHOLDS))
    assert_clean(notebook, page)
    output = page.locator(".widget-html").filter(has_text="texts are called positive").first
    assert "At 0.50" in output.inner_text()
    moved_right(page, "threshold", output, lambda text: "At 0.55" in text)
    page.close()


TEMPERATURES = """from llm_course.widgets.cross_entropy import SoftmaxExplorer
SoftmaxExplorer()"""


@pytest.mark.parametrize("lesson", [pytest.param("", id="alone"), pytest.param("14_information", marks=pytest.mark.slow)])
def test_slider_of_lesson_14_moves_the_temperature(browser, lab, lesson):
    page, notebook = run_all(browser, lab, lesson or written(lab, "temperature_trial", TEMPERATURES))
    assert_clean(notebook, page)
    output = page.locator(".widget-html").filter(has_text="its loss is").first
    before = output.inner_text()
    moved_right(page, "temperature", output, lambda text: text != before)
    page.close()


LOSSES = """import torch
from llm_course.widgets.cross_entropy import DescentExplorer, LossExplorer
from IPython.display import display
display(LossExplorer())
DescentExplorer(torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([1.0, 0.0, 0.0]))"""


@pytest.mark.parametrize("lesson", [pytest.param("", id="alone"), pytest.param("11_cross_entropy", marks=pytest.mark.slow)])
def test_two_widgets_of_lesson_11_move(browser, lab, lesson):
    page, notebook = run_all(browser, lab, lesson or written(lab, "losses_trial", LOSSES))
    assert_clean(notebook, page)
    for name, sentence in (("logit", "is a probability of"), ("learning rate", "It started at")):
        output = page.locator(".widget-html").filter(has_text=sentence).first
        before = output.inner_text()
        moved_right(page, name, output, lambda text, before=before: text != before)
    page.locator("button").filter(has_text="one step").click()
    wait_for(lambda: "after 6 steps" in output.inner_text(), 20)
    page.close()


def test_a_quiz_is_answered_by_keyboard_alone(browser, lab):
    from llm_course.answers import QUIZZES
    page, notebook = run_all(browser, lab, written(lab, "quiz_trial", "from llm_course.exercises import quiz\nquiz(10)"))
    assert_clean(notebook, page)
    question = QUIZZES[10][0]
    said = page.locator('[role="status"]').filter(has_text=question.choices[question.right][1])
    buttons = page.locator(".jp-OutputArea .jupyter-button")
    assert said.count() == 0 and page.locator(".jp-OutputArea details").count() == 0
    buttons.first.focus()
    for _ in range(question.right):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for(lambda: said.count() == 1 and "✓" in said.inner_text(), 20)
    page.close()


def test_a_lesson_opens_on_its_question_and_nothing_asks_about_news(browser, lab):
    url, _ = lab
    page = browser.new_page()
    page.set_viewport_size({"width": 1366, "height": 900})
    page.goto(f"{url}/lab/tree/lessons/12_fine_tuning.ipynb?reset", wait_until="domcontentloaded")
    heading = page.locator(".jp-NotebookPanel h2").filter(has_text="The question").first
    heading.wait_for(timeout=MINUTES)
    assert heading.bounding_box()["y"] < 800
    time.sleep(5)  # an older JupyterLab asked within two seconds
    assert page.locator(".Toastify__toast").count() == 0, page.locator(".Toastify__toast").first.inner_text()
    page.close()


FORMULA = """<math display="block"><mi>z</mi><mo>=</mo><mrow><mo>(</mo><mfrac><msup><mi>e</mi><mi>z</mi></msup><mi>p</mi></mfrac>
<mo>)</mo></mrow></math>"""
ROWS = "".join(f"""<tr><td>{number}</td><td><a href="lessons/{number}.html">Title of a lesson</a></td><td>What it promises, in a
sentence</td><td>1 minute</td><td>3 hours</td><td>10</td></tr>""" for number in (10, 11))
PAGE = f"""<!doctype html><html lang="en"><title>T</title><meta charset="utf-8"><link rel="stylesheet" href="styles.css"><style>
.quarto-dark {{background: #222; color: #fff}} .breadcrumb-item a, summary {{color: #999; opacity: .6}} table td {{padding: 9px}}
body {{margin: 0; font-size: 17px}}</style><body class="THEME"><main>
<nav class="quarto-page-breadcrumbs"><ol><li class="breadcrumb-item"><a href="x">Part</a></li></ol></nav>
<h1>adversarial_training_substitutions_and_more</h1>{FORMULA}<details class="code-fold"><summary>Tests</summary></details>
<table class="table"><thead><tr>{"<th>x</th>" * 6}</tr></thead><tbody>{ROWS}</tbody></table>
<table class="table" id="wide"><tbody><tr>{"<td>unbreakable_words</td>" * 9}</tr></tbody></table></main>SCRIPT</body></html>"""


def put_page(folder: Path, theme: str = "quarto-light", **changed: str):
    "A page as the site has them, with its style, its font and its script"
    for name in ("styles.css", "fonts/course-math.woff2"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(NBS / name, folder / name)
    script = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))["format"]["html"]["include-after-body"]["text"]
    text = PAGE.replace("SCRIPT", script).replace("THEME", theme)
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "page.html").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("theme", ["quarto-light", "quarto-dark"])
def test_a_page_of_the_site_fits_a_phone_and_is_read_in_both_themes(browser, tmp_path, theme):
    put_page(tmp_path, theme)
    page = browser.new_page()
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto((tmp_path / "page.html").as_uri())
    page.evaluate("document.fonts.ready")
    assert page.evaluate("[...document.fonts].map(font => font.family + ' ' + font.status)") == ["Course Math loaded"]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("wide => wide.scrollWidth > wide.clientWidth", page.locator("#wide").element_handle())
    ink = page.evaluate("getComputedStyle(document.body).color")
    for part in (".breadcrumb-item a", "summary"):  # the themes' grey is too pale
        assert page.locator(part).evaluate("part => getComputedStyle(part).color + getComputedStyle(part).opacity") == f"{ink}1"
    cells = page.locator("td").filter(has_text="hours").first
    assert cells.evaluate("cell => getComputedStyle(cell, '::before').content") == '"· Study: "'
    assert page.locator("thead").first.is_hidden() and page.locator("td").filter(has_text="Title").first.is_visible()
    page.close()


def test_axe_finds_nothing_grave_on_such_a_page_and_what_is_planted(chromium, tmp_path):
    put_page(tmp_path)
    assert [path.name for path in accessibility.pages_of(tmp_path)] == ["page.html"]
    for scheme, width in (("light", 390), ("dark", 1366)):
        found = list(accessibility.findings(chromium, tmp_path / "page.html", scheme, width))
        assert not [said for impact, said in found if impact in accessibility.GRAVE]
    for old, new, name in (("<h1>", "<p style='color: #bbb'>pale</p><h1>", "color-contrast"), ("<h1>", "<img src='x'><h1>", "image-alt"),
                           ('lang="en"', "", "html-has-lang"), ("part.tabIndex = 0", "0", "scrollable-region-focusable")):
        put_page(tmp_path, **{old: new})
        said = [said for impact, said in accessibility.findings(chromium, tmp_path / "page.html", "light", 390)
                if impact in accessibility.GRAVE]
        assert len(said) == 1 and said[0].startswith(f"{name}: "), said
