"""Write a reference page for each module into nbs/api: its public names, grouped as its notebook groups them.

    python tools/api_pages.py            # after nbdev_export; `--check` only says which pages are not up to date

The site's own pages are drawn anew by nbdev. What is written here is for JupyterLab and GitHub, so it leaves out
nbdev's links to lines of source code, which would change with every edit, and Quarto's attributes.
"""

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path

import nbformat
from nbdev.showdoc import show_doc

NBS = Path(__file__).parents[1] / "nbs"


def notebook_of(module: str) -> Path:
    "The notebook that exports a module"
    return next(path for path in sorted(NBS.rglob("*.ipynb")) if path.parent.name in ("lessons", "support")
                and re.fullmatch(rf"(\d\d_)?{module}", path.stem))


def defined_in(cell: str) -> list[str]:
    "The names of the functions and classes that a cell exports"
    if not re.match(r"#\| *exports?\b", cell):
        return []
    return [node.name for node in ast.parse(re.sub(r"^[%!].*$", "", cell, flags=re.MULTILINE)).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def groups_of(path: Path, names: list[str]) -> dict[str, list[str]]:
    "The public functions and classes of a notebook under its headings of the second level"
    groups, heading = {}, "Contents"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^## (.+)$", source, re.MULTILINE) or [heading])[-1]
        else:
            groups.setdefault(heading, []).extend(name for name in defined_in(source) if name in names)
    return {heading: found for heading, found in groups.items() if found}


def methods_of(thing: object) -> list[str]:
    "The public methods that a class itself defines and describes"
    return [name for name, value in vars(thing).items() if inspect.isclass(thing) and not name.startswith("_")
            and isinstance(value, classmethod | staticmethod | type(methods_of)) and getattr(thing, name).__doc__]


def shown(module: object, name: str) -> nbformat.NotebookNode:
    "A cell that documents a name, with what it shows"
    thing = module
    for part in name.split("."):
        thing = getattr(thing, part)
    text = show_doc(thing)._repr_markdown_()
    text = re.sub(r"^---\s+(\[source\].*\n+)?", "", text)
    text = re.sub(r"(\]\([^)]*\))\{[^}]*\}", r"\1", text)  # a link's attributes
    text = re.sub(r"<(function|class) ([\w.]+)( at 0x\w+)?>", r"\2", text)  # an address differs in each run
    output = nbformat.v4.new_output("execute_result", {"text/markdown": text.rstrip(), "text/plain": name})
    return nbformat.v4.new_code_cell(f"show_doc({name})", outputs=[output])


def page_of(module_name: str) -> nbformat.NotebookNode:
    "The reference page of a module"
    module, source = importlib.import_module(f"llm_course.{module_name}"), notebook_of(module_name)
    title = "".join(nbformat.read(source, as_version=4).cells[0].source).splitlines()[0].removeprefix("# ")
    names = [name for name in module.__all__ if inspect.isclass(getattr(module, name))
             or inspect.isfunction(getattr(module, name))]
    groups = groups_of(source, names)
    names = [name for found in groups.values() for name in found]
    values = [name for name in module.__all__ if name not in names]
    kind = "lesson" if source.parent.name == "lessons" else "notebook"
    imports = textwrap.fill(f"from llm_course.{module_name} import ({', '.join(names)})", 100, subsequent_indent="    ",
                            break_long_words=False)
    summary = " ".join(module.__doc__.split())
    cells = [nbformat.v4.new_markdown_cell(f"# {module_name}\n\n> {summary}"),
             nbformat.v4.new_markdown_cell(f"The {kind} [{title}](../{source.parent.name}/{source.name}) explains and "
                                           f"tests this module, `llm_course.{module_name}`."),
             nbformat.v4.new_code_cell(f"#| echo: false\nfrom nbdev.showdoc import show_doc\n\n{imports}")]
    for heading, found in groups.items():
        cells.append(nbformat.v4.new_markdown_cell(f"## {heading}"))
        for name in found:
            cells += [shown(module, each) for each in (name, *(f"{name}.{method}" for method
                                                               in methods_of(getattr(module, name))))]
    if values:
        cells.append(nbformat.v4.new_markdown_cell(f"## Values\n\n{', '.join(f'`{name}`' for name in values)}"))
    for place, cell in enumerate(cells):
        cell["id"] = hashlib.sha256(f"{module_name} {place} {cell.source}".encode()).hexdigest()[:8]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def modules() -> list[str]:
    "The modules that have a notebook, in alphabetical order"
    return sorted(path.stem for path in (NBS.parent / "llm_course").glob("[!_]*.py"))


def sources_of(text: str) -> list[str]:
    "The cells of a page, without what they show"
    return [cell["id"] + "".join(cell["source"]) for cell in json.loads(text).get("cells", [])]


def outdated(
    folder: Path = NBS / "api",
    outputs: bool = True,  # whether what the cells show is compared as well
) -> dict[Path, str]:
    "The pages whose content differs from what it should be, with that content; empty for pages too many"
    wanted = {folder / f"{name}.ipynb": nbformat.writes(page_of(name)) + "\n" for name in modules()}
    wanted |= {path: "" for path in folder.glob("*.ipynb") if path not in wanted}

    def differs(path: Path, text: str) -> bool:
        if not path.exists() or not text:
            return True
        found = path.read_text(encoding="utf-8")
        return found != text if outputs else sources_of(found) != sources_of(text)

    return {path: text for path, text in wanted.items() if differs(path, text)}


def main():
    "Write the pages, or say which are outdated"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, pages = parser.parse_args().check, outdated()
    for path, text in pages.items():
        print(f"{'outdated' if check else 'written'}: {path.relative_to(NBS.parent)}")
        if check:
            continue
        if text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        else:
            path.unlink()
    sys.exit(1 if check and pages else 0)


if __name__ == "__main__":
    main()
