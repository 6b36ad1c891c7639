"""Make the pages of the site read well: what nbdev has processed, before Quarto draws it.

    python tools/site_pages.py _proc         # `make docs` does it between nbdev_proc_nbs and nbdev_docs, which keeps it

Exported source and long tests fold away under their names; a function is documented one level under the heading that
it stands under; each page is shared with the picture of the course; where a widget would stand, a line says so; an
exercise that nobody has solved shows nothing. What was done once is not done again.
"""

import argparse
import ast
import json
import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "llm_course"
PICTURE = "image: /images/course.png"
EXPORTED = '#| code-fold: show\n#| code-summary: "Exported source"\n'
TESTS = '#| code-fold: true\n#| code-summary: "Tests"\n'
LONG = 8  # lines of tests from which on they fold
SLIDERS = "In Jupyter, sliders or buttons stand here and the picture follows them; on this page it stands still."
JUDGED = "In Jupyter, buttons stand beside each text, and your answers are counted."


def is_check(statement: ast.stmt) -> bool:
    "Whether a statement only makes sure of something"
    if isinstance(statement, ast.Assert):
        return True
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return "assert" in ast.unparse(statement.value.func)
    if isinstance(statement, ast.For | ast.With | ast.Try | ast.If):
        return any(map(is_check, [*statement.body, *getattr(statement, "orelse", ())]))
    return False


def is_tests(source: str) -> bool:
    "Whether a cell is a long block of checks: half of its statements, beside definitions of a third of its lines at most"
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith(("#|", "%", "!"))]
    try:
        found = ast.parse("\n".join(lines)).body
    except SyntaxError:
        return False
    defined = [node for node in found if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    if len(lines) < LONG or 3 * sum(node.end_lineno - node.lineno + 1 for node in defined) > len(lines):
        return False  # what mirrors a formula is read
    statements = [node for node in found if node not in defined and not isinstance(node, ast.Import | ast.ImportFrom)]
    return 2 * sum(map(is_check, statements)) >= len(statements) > 0


def folded(source: str, has_output: bool) -> str:
    "A cell whose exported source is closed, or whose long tests fold away"
    if source.startswith(EXPORTED):
        return source.replace("code-fold: show", "code-fold: true", 1)
    if source.startswith("#| code-fold: true\n") and "code-summary" not in source:
        return TESTS + source.split("\n", 1)[1]
    return TESTS + source if not has_output and not source.startswith("#|") and is_tests(source) else source


def lowered(markdown: str, level: int) -> str:
    "What nbdev shows of a function or class: its heading one level under the text, and no call that tells nothing"
    text = re.sub(r"^```python\ndef \w+\(\n +\*args, \*\*kwargs\n\):\n```\n+", "", markdown, flags=re.MULTILINE)
    return re.sub(r"^#+ ", "#" * min(level + 1, 6) + " ", text, count=1, flags=re.MULTILINE)


def last_level(text: str, level: int) -> int:
    "The level of the last heading of a text, code aside; the one before if it has none"
    found = re.findall(r"^(#+) ", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return len(found[-1]) if found else level


def widgets(package: Path = PACKAGE) -> set[str]:
    "The names of the classes of all widgets"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (package / "widgets").glob("*.py")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def note_on(output: dict, names: set[str]) -> str:
    "What stands above an output that would be a widget; nothing for any other"
    plain = "".join(output.get("data", {}).get("text/plain", ""))
    return SLIDERS if plain in names else JUDGED if re.match(r"\d+ things to judge: ", plain) else ""


def shown(outputs: list[dict], names: set[str]) -> list[dict]:
    "The outputs of a cell: unanswered exercises are left out, and widgets announced"
    found = []
    for output in outputs:
        text = "".join(output.get("data", {}).get("text/html", ""))
        if "not done yet" in text and "hint() helps" in text:
            continue
        if (note := note_on(output, names)) and not (found and found[-1].get("metadata", {}).get("note")):
            data = {"text/html": f'<p class="widget-note">{note}</p>', "text/plain": note}
            found.append({"output_type": "display_data", "data": data, "metadata": {"note": True}})
        found.append(output)
    return found


def with_picture(front_matter: str) -> str:
    "The head of a page with the picture that stands where the page is shared"
    if not front_matter.startswith("---\n") or re.search(r"^image:", front_matter, re.MULTILINE):
        return front_matter
    return front_matter.replace("---\n", f"---\n{PICTURE}\n", 1)


def site_page(notebook: dict, names: set[str]) -> dict:
    "A processed notebook as the site shows it"
    level = 1
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            level = last_level(source, level)
        elif cell["cell_type"] == "raw":
            cell["source"] = with_picture(source)
        elif "show_doc(" in source and source.startswith("#| echo: false"):
            for output in cell["outputs"]:
                if text := "".join(output.get("data", {}).get("text/markdown", "")):
                    output["data"]["text/markdown"] = lowered(text, level)
        else:
            cell["outputs"] = shown(cell.get("outputs", []), names)
            cell["source"] = folded(source, bool(cell["outputs"]))
    return notebook


def main():
    "Rewrite every processed notebook that this changes"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    paths, names = sorted(parser.parse_args().folder.rglob("*.ipynb")), widgets()
    if not paths:
        sys.exit("There is no processed notebook: run nbdev_proc_nbs first")
    for path in paths:
        text = path.read_text(encoding="utf-8")
        new = json.dumps(site_page(json.loads(text), names), indent=1, ensure_ascii=False) + "\n"
        if json.loads(new) != json.loads(text):
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
