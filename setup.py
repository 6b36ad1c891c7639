"""Package metadata, read from settings.ini: the one place where it stands. The notebooks go into the wheel."""
import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
extras = {key.removesuffix("_requirements"): value.split() for key, value in settings.items()
          if key.endswith("_requirements")}
pythons = [f"3.{minor}" for minor in range(int(settings["min_python"].split(".")[1]), 14)]


def read_me() -> str:
    "README.md, whose relative links work outside of the repository too"
    text = (here / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\1{settings['git_url']}/raw/{settings['branch']}/", text)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\1{settings['git_url']}/blob/{settings['branch']}/", text)


class BuildWithCourse(build_py):
    "The modules, and the notebooks that `python -m llm_course start` writes"

    def course(self) -> dict[str, Path]:
        "Where each file of the course goes"
        sys.path.insert(0, str(here))  # these two modules need nothing but Python's own library
        from llm_course.command_line import course_files

        names = course_files(here)
        return {name: Path(self.build_lib) / "llm_course/course" / name for name in names}

    def run(self):
        "Copy the files of the course after the modules"
        super().run()
        if not self.editable_mode:
            for name, target in self.course().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(here / name, target)


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=read_me(),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    project_urls={"Documentation": settings["doc_host"] + settings["doc_baseurl"],
                  "Source": settings["git_url"],
                  "Issues": settings["git_url"] + "/issues",
                  "Changelog": settings["git_url"] + f"/blob/{settings['branch']}/CHANGELOG.md"},
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    keywords=settings["keywords"],
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Developers",
                 "Intended Audience :: Education", "Framework :: Jupyter", "Operating System :: OS Independent",
                 "Programming Language :: Python :: 3",
                 *[f"Programming Language :: Python :: {python}" for python in pythons],
                 "Topic :: Education", "Topic :: Scientific/Engineering :: Artificial Intelligence",
                 "Topic :: Text Processing :: Linguistic", "Typing :: Typed"],
    packages=find_packages(include=["llm_course", "llm_course.*"]),
    package_data={"llm_course": ["assets/*", "assets/*/*", "py.typed"]},
    python_requires=f">={settings['min_python']},<3.{int(pythons[-1].split('.')[1]) + 1}",
    install_requires=settings["requirements"].split(),
    extras_require=extras,
    entry_points={"nbdev": ["llm_course=llm_course._modidx:d"],
                  "console_scripts": ["llm-course=llm_course.command_line:main"]},
    cmdclass={"build_py": BuildWithCourse},
    zip_safe=False,
)
