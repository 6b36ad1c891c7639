"""Print the lowest versions that settings.ini admits, as constraints for pip.

    python tools/oldest.py > oldest.txt; pip install -c oldest.txt -e ".[dev]"

torch stays at the version of constraints.txt: its older builds for Linux pull gigabytes of CUDA libraries.
Tools of developers, which no user installs, are held by constraints.txt.
"""
import configparser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
KEPT = {"torch"}


def lowest(requirement: Requirement) -> str:
    "The lowest version that a requirement admits; ValueError where it states none"
    bounds = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} states no lowest version")
    return f"{requirement.name}=={bounds[0]}"


def oldest(settings: dict[str, str], newest: list[str]) -> list[str]:
    "Constraints: the lowest version of each requirement, the tested one of what only developers need"
    requirements = [Requirement(text) for text in settings["requirements"].split()]
    pins = {Requirement(line).name.lower(): line for line in newest if line and not line.startswith("#")}
    developers = [Requirement(text).name.lower() for text in settings["dev_requirements"].split()]
    low = {requirement.name.lower() for requirement in requirements} - KEPT
    return sorted([lowest(requirement) for requirement in requirements if requirement.name.lower() in low]
                  + [pins[name] for name in {*developers, *KEPT} - low])


if __name__ == "__main__":
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    print("\n".join(oldest(dict(parser["DEFAULT"]), (ROOT / "constraints.txt").read_text().splitlines())))
