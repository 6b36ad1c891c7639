"""The files for GitHub: they parse, and they call what the Makefile has."""

import json
import re
import sys
from pathlib import Path

import conftest
import pytest
import yaml
from conftest import NOTEBOOKS, ROOT, in_shards, name_of, run_tool, settings, shard_of, unit_of

sys.path.insert(0, str(ROOT / "tools"))
import release_tag

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


def test_the_four_workflows_are_there():
    names = {path.stem for path in FILES if path.parent.name == "workflows"}
    assert names == {"test", "slow", "docs", "release"}
    slow = yaml.safe_load((ROOT / ".github/workflows/slow.yml").read_text())
    assert slow[True]["schedule"] and "make test-slow" in str(slow["jobs"])  # `on` is true in YAML
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}  # trusted publishing, and no more
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()
    assert "make test-newest" in str(slow["jobs"])
    assert release["jobs"]["build"]["needs"] == "test" and release["jobs"]["publish"]["needs"] == "build"
    assert "release_tag.py" in str(release["jobs"]["test"]) and "make test" in str(release["jobs"]["test"])
    for path in FILES:
        if path.parent.name == "workflows":
            text = path.read_text(encoding="utf-8")
            assert text.count("cache: pip") == text.count("setup-python@"), path.name


def test_a_tag_is_the_version():
    version = settings()["version"]
    assert not release_tag.refusal(f"v{version}")
    for planted in (version, f"v{version}.1", "main", ""):
        assert f"expected 'v{version}'" in release_tag.refusal(planted)
    run_tool(sys.executable, "tools/release_tag.py", f"v{version}")
    with pytest.raises(AssertionError, match="expected 'v"):
        run_tool(sys.executable, "tools/release_tag.py", "v9.9.9")


def shard_faults(shards: list[str]) -> list[str]:
    "What a list of shards leaves out or runs twice"
    counts = {shard.partition("/")[2] for shard in shards}
    whole = [f"{place}/{count}" for count in counts for place in range(1, int(count) + 1)]
    return sorted(set(whole) ^ set(shards)) + sorted({shard for shard in shards if shards.count(shard) > 1})


def test_the_shards_of_the_workflow_are_together_everything():
    [job] = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"].values()
    shards = job["strategy"]["matrix"]["shard"]
    assert len(shards) > 1 and not shard_faults(shards)
    [step] = [step for step in job["steps"] if step.get("run", "").startswith("make ")]
    assert "--shard={0}" in step["env"]["ARGS"] and "matrix.shard" in step["env"]["ARGS"]
    assert "ARGS ?=" in (ROOT / "Makefile").read_text() and "lessons/" not in str(job), "a list of lessons by hand"
    for planted in (["1/3", "2/3"], ["1/2", "2/2", "2/2"], ["1/2", "2/3", "3/3"]):
        assert shard_faults(planted), planted


def collected(*options: str) -> list[str]:
    "The tests that pytest would run"
    said = run_tool(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options)
    return [line for line in said.splitlines() if "::" in line]


def test_the_shards_are_disjoint_and_together_everything():
    """As pytest collects some files, and in any number of shards"""
    files = ["tests/test_notebooks.py", "tests/test_workflows.py", "tests/test_repository.py"]
    whole = collected(*files)
    parts = [collected(*files, "--shard", shard) for shard in ("1/2", "2/2")]
    assert len(whole) == len(set(whole)) and all(parts)
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    for path in NOTEBOOKS:  # a new lesson is in a shard without a word
        assert any(f"test_notebook_runs[{name_of(path)}]" in name for name in whole)
    for count in (1, 2, 3, 7):
        found = in_shards(whole, count)
        assert set(found) == {unit_of(name) for name in whole} and set(found.values()) <= set(range(count))
        assert found == in_shards(whole[::-1], count), "the order in which tests are found decides"


def test_the_longest_run_first_and_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(conftest, "SECONDS", tmp_path / "seconds.json")
    lessons = [name_of(path) for path in NOTEBOOKS if path.parent.name == "lessons"]
    names = [f"tests/test_notebooks.py::test_notebook_runs[{name}]" for name in lessons] + ["tests/test_x.py::test_x"]
    loads = [list(in_shards(names, 3).values()).count(place) for place in range(3)]
    assert max(loads) - min(loads) <= 1 + len(lessons) // 3
    measured = {name: 1 for name in names} | {"tests/test_x.py": 10_000, "tests/test_gone.py": 5}
    (tmp_path / "seconds.json").write_text(json.dumps(measured))
    found = in_shards(names, 3)
    assert list(found.values()).count(found["tests/test_x.py"]) == 1  # it has a machine for itself


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "1/0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(pytest.UsageError, match=re.escape(repr(text))):
        shard_of(text)


def test_a_run_can_be_measured(tmp_path):
    for name in ("conftest.py", "test_workflows.py"):
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / name).write_bytes((ROOT / "tests" / name).read_bytes())
    for name in (".github", "Makefile", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    run_tool(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--measure", "tests", "-k", "refused",
             cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert json.loads(Path(tmp_path, "tests/seconds.json").read_text()) == {"tests/test_workflows.py": 1}
