"""The files for GitHub: they parse, and they call what the Makefile has."""

import re

import pytest
import yaml
from conftest import ROOT

FILES = sorted((ROOT / ".github").rglob("*.yml"))
MAKE = re.compile(r"\bmake ([a-z-]+)")


def unknown_targets(text: str, makefile: str) -> list[str]:
    "What `make` is asked for and does not have"
    return [target for target in MAKE.findall(text) if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_parses_and_its_make_targets_exist(path):
    text = path.read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert "name" in found
    for job in found.get("jobs", {}).values():  # a target may come from the matrix
        matrix = job.get("strategy", {}).get("matrix", {})
        targets = [*matrix.get("target", []), *(row["target"] for row in matrix.get("include", []))]
        text += "".join(f"\nmake {target}" for target in targets)
    assert not unknown_targets(text, (ROOT / "Makefile").read_text())


def test_the_check_sees_a_planted_fault():
    assert unknown_targets("run: make tests", "test: x\n\tpytest\n") == ["tests"]
    assert not unknown_targets("run: make test", "test: x\n\tpytest\n")


def test_the_three_workflows_are_there():
    names = {path.stem for path in FILES if path.parent.name == "workflows"}
    assert names == {"test", "docs", "release"}
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}  # trusted publishing, and no more
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()
