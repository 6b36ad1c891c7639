"""Read the built site and name its faults: links, images, what is loaded from elsewhere, headings, leftovers.

    python tools/check_site.py _docs            # or: make check-site, after make docs

Prints a line for each fault, `page: what is wrong: what`, and how many there are. Ends with 1 where there
are any, and with 2 where there is no page.
"""

import argparse
import configparser
import functools
import itertools
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

SETTINGS = Path(__file__).parents[1] / "settings.ini"
INTENDED: tuple[str, ...] = ()  # beginnings of addresses elsewhere from which a page may load
ELSEWHERE = "loads from elsewhere"

SCHEMES = {"", "http", "https", "mailto"}  # of links
WITHIN = {"data", "about"}  # schemes that load nothing
LOADS = {
    "audio": ["src"], "body": ["background"], "embed": ["src"], "feimage": ["href", "xlink:href"],
    "frame": ["src"], "iframe": ["src"], "image": ["href", "xlink:href"], "img": ["src"], "input": ["src"],
    "object": ["data"], "script": ["src"], "source": ["src"], "track": ["src"], "use": ["href", "xlink:href"],
    "video": ["src", "poster"],
}
LOADING = {  # relations of a <link> that load something; Quarto disables the theme that is not chosen
    "stylesheet", "disabled-stylesheet", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch",
    "icon", "apple-touch-icon", "mask-icon", "manifest",
}
MEDIA = {"img", "svg", "math", "video", "audio", "canvas", "iframe", "input", "object"}  # seen without words

CANDIDATE = re.compile(r"([^\s,](?:\S*[^\s,])?)(?:\s+[^,]*)?(?:,|$)")  # of srcset; an address may hold commas
UNREAD = re.compile(r"/\*.*?\*/|@namespace\b[^;]*;", re.DOTALL)
URL = re.compile(r"""(?:\burl\(|@import\b)\s*(?:url\()?\s*(?:"([^"]*)"|'([^']*)'|([^\s"')]+))""", re.I)
REFRESH = re.compile(r"url\s*=\s*[\"']?([^\"']+)", re.IGNORECASE)
REDIRECT = re.compile(r"\blocation\.replace\(|\blocation(?:\.href)?\s*=[^=]")
CODE_FOLD = re.compile(r"[\s▼▶▾▸]*Code\s*")
LEFT_IN_TEXT = {
    "a shortcode is left": r"\{\{<(?:\s|[^}\n]*>\}\}).{0,60}",
    "an error is left": r"Traceback \(most recent call last\)",
}
LEFT_IN_CODE = {
    "a directive is left": r"^[ \t]*#\|.*$",
    "an unfilled %pip is left": r"^[ \t]*[%!]pip\b(?:.*\{\w+\}.*|(?:[ \t]+install)?(?:[ \t]+-\S+)*[ \t]*)$",
}


KINDS = ("title", "style", "script", "template", "text")  # of what stands between tags


def brief(text: str) -> str:
    "The beginning of a text, in one line"
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:119]}…"


class Tag(NamedTuple):
    "A tag that opens something"
    name: str
    attributes: dict[str, str]
    source: str  # as it is written, shortened


@dataclass
class Fold:
    "What folds away"
    is_code: bool  # as Quarto marks it
    summary: str = ""  # what is seen while it is closed
    content: str = ""  # what is seen besides when it is open


class Page(HTMLParser):
    "What stands on a page: tags, texts of several kinds, the headings under <main>, and what folds away"

    def __init__(self):
        super().__init__()
        self.tags: list[Tag] = []
        self.parts: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.codes: list[list[str]] = []
        self.headings: list[Tag] = []
        self.folds: list[Fold] = []
        self.unfinished: list[Fold] = []
        self.open: Counter[str] = Counter()
        self.broken = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        "Remember a tag; of an attribute that is there twice, the first counts"
        attributes = {name: (value or "").strip() for name, value in reversed(attrs)}
        self.tags.append(Tag(tag, attributes, brief(self.get_starttag_text() or "")))
        self.open[tag] += 1
        if tag == "pre":
            self.codes.append([])
        if tag == "details":
            self.unfinished.append(Fold("code-fold" in attributes.get("class", "").split()))
        if tag in MEDIA and self.unfinished:
            self.unfinished[-1].content += f"<{tag}>"
        if re.fullmatch("h[1-6]", tag) and self.open["main"]:
            self.headings.append(self.tags[-1])

    def handle_endtag(self, tag: str):
        "Forget that a tag is open; what folds away in a fold is part of it"
        self.open[tag] = max(0, self.open[tag] - 1)
        if tag == "details" and self.unfinished:
            fold = self.unfinished.pop()
            self.folds.append(fold)
            if self.unfinished:
                self.unfinished[-1].content += fold.summary + fold.content

    def handle_data(self, data: str):
        "Keep a text where it belongs; the title of a drawing is none of the page"
        kind = next((kind for kind in self.parts if self.open[kind]), "text")
        self.parts["text" if kind == "title" and self.open["svg"] else kind].append(data)
        if kind == "text" and self.open["pre"]:
            self.codes[-1].append(data)
        if kind == "text" and self.unfinished and self.open["summary"]:
            self.unfinished[-1].summary += data
        elif kind == "text" and self.unfinished:
            self.unfinished[-1].content += data

    def part(self, kind: str) -> str:
        "All texts of one kind"
        return "".join(self.parts[kind])

    @functools.cached_property
    def anchors(self) -> set[str]:
        "What an address may name after its #"
        ids = {tag.attributes["id"] for tag in self.tags if "id" in tag.attributes}
        return {"", "top", *ids, *(tag.attributes.get("name", "") for tag in self.tags if tag.name == "a")}

    def refreshes(self) -> list[tuple[str, Tag]]:
        "The addresses to which the page sends its reader on by itself, with their tags"
        tags = [tag for tag in self.tags if tag.attributes.get("http-equiv", "").lower() == "refresh"]
        return [(found[1].strip(), tag) for tag in tags
                if (found := REFRESH.search(tag.attributes.get("content", "")))]

    @functools.cached_property
    def is_redirect(self) -> bool:
        "Whether nobody reads the page, because it sends on to another one"
        empty = not self.part("text").strip() and REDIRECT.search(self.part("script"))
        return bool(self.refreshes() or empty)


def read_page(text: str) -> Page:
    "A page from its HTML, as far as it can be read"
    page = Page()
    try:
        page.feed(text)
        page.close()
    except AssertionError as error:  # so some versions of Python refuse a declaration such as <![x[
        page.broken = str(error)
    return page


def site_address(path: Path = SETTINGS) -> str:
    "Where the site will stand, without a slash at its end"
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(path, encoding="utf-8")
    return (settings["DEFAULT"]["doc_host"] + settings["DEFAULT"]["doc_baseurl"]).rstrip("/")


@dataclass(frozen=True)
class Site:
    "A built site"
    folder: Path
    address: str  # where it will stand, without a slash at its end
    pages: dict[str, Page]  # by their paths inside of the folder

    def place_of(self, name: str, address: str) -> str | None:
        "The path inside of the site to which an address on a page leads; None where it leads elsewhere"
        home = urlsplit(f"{self.address}/")
        whole = urlsplit(urljoin(f"{self.address}/{quote(name)}", address))
        if whole.scheme not in {"http", "https"} or whole.netloc.lower() != home.netloc.lower():
            return None
        if not f"{whole.path}/".startswith(home.path):
            return None
        return unquote(whole.path[len(home.path):])

    def file_of(self, place: str) -> str | None:
        "The name of the file that is shown for a path; None where there is none"
        name = place + "index.html" if place.endswith("/") or not place else place
        if os.path.isdir(f"{self.folder}/{name}"):
            name = f"{name}/index.html"
        return name if os.path.isfile(f"{self.folder}/{name}") else None  # pathlib raises at too long a name


def urls_of(style: str) -> list[str]:
    "The addresses that a style sheet loads"
    return ["".join(found).strip() for found in URL.findall(UNREAD.sub("", style))]


def is_loading(tag: Tag) -> bool:
    "Whether a tag is a <link> to something that the page loads, such as a style sheet"
    return tag.name == "link" and bool(LOADING & set(tag.attributes.get("rel", "").lower().split()))


def loads_of(page: Page) -> list[tuple[str, str]]:
    "The addresses that a page loads by itself, each with how the tag is written"
    found = [(address, "<style>") for address in urls_of(page.part("style"))]
    for tag in page.tags:
        names = LOADS.get(tag.name, ())
        if is_loading(tag):
            names = ("href",)
        addresses = [tag.attributes[name] for name in names if tag.attributes.get(name)]
        addresses += CANDIDATE.findall(tag.attributes.get("srcset", ""))
        addresses += urls_of(tag.attributes.get("style", ""))
        if "srcdoc" in tag.attributes:
            addresses += [address for address, _ in loads_of(read_page(tag.attributes["srcdoc"]))]
        found += [(address, tag.source) for address in addresses]
    return found


def loads_in(name: str, text: str) -> list[tuple[str, str]]:
    "The addresses that a page or a style sheet loads, from its text"
    if name.endswith(".css"):
        return [(address, "the style sheet") for address in urls_of(text)]
    return loads_of(read_page(text))


def links_of(page: Page) -> list[tuple[str, Tag]]:
    "The addresses that a reader or a search engine may follow, each with its tag"
    found = [(tag.attributes["href"], tag) for tag in page.tags
             if tag.name in {"a", "area", "link"} and "href" in tag.attributes and not is_loading(tag)]
    return found + page.refreshes()


def link_fault(site: Site, name: str, address: str) -> str:
    "What is wrong with a link on a page; nothing where it leads somewhere"
    try:
        parts, place = urlsplit(address), site.place_of(name, address)
    except ValueError:
        return "no address"
    if parts.scheme not in SCHEMES:
        return "neither http, https nor mailto"
    if place is None:
        return "" if parts.scheme or parts.netloc else "leads out of the site"
    file, anchor = site.file_of(place), parts.fragment.partition(":~:")[0]
    if file is None:
        return "no such file"
    page = site.pages.get(file)
    if page is None or page.is_redirect:  # which hands the anchor on
        return ""
    return "" if {anchor, unquote(anchor)} & page.anchors else "no such anchor"


def load_fault(site: Site, name: str, address: str) -> str:
    "What is wrong with an address from which a page or a style sheet loads something"
    try:
        scheme, place = urlsplit(address).scheme, site.place_of(name, address)
    except ValueError:
        return "no address"
    if scheme in WITHIN or address.startswith(INTENDED):
        return ""
    if place is None:
        return ELSEWHERE
    return "no such file" if site.file_of(place) is None else ""


def load_faults(site: Site, name: str, loads: list[tuple[str, str]]) -> list[str]:
    "What is wrong with what a page or a style sheet loads"
    faults = [(load_fault(site, name, address), address, source) for address, source in loads]
    return [f"{fault}: {brief(address)} in {source}" for fault, address, source in faults if fault]


def loaded_from_elsewhere(site: Site, name: str, text: str) -> list[str]:
    "What a page or a style sheet loads that does not stand in the site"
    return [fault for fault in load_faults(site, name, loads_in(name, text)) if fault.startswith(ELSEWHERE)]


def link_faults(site: Site, name: str) -> list[str]:
    "Links that lead nowhere, or to where none should lead"
    faults = [(link_fault(site, name, address), address, tag) for address, tag in links_of(site.pages[name])]
    return [f"{fault}: {brief(address)} in {tag.source}" for fault, address, tag in faults if fault]


def image_faults(site: Site, name: str) -> list[str]:
    "Images without a text that stands for them, or without an address; what only decorates needs no text"
    faults = []
    for _, attributes, source in (tag for tag in site.pages[name].tags if tag.name == "img"):
        decorates = attributes.get("role") in {"presentation", "none"}
        if not attributes.get("alt") and not decorates and attributes.get("aria-hidden") != "true":
            faults.append(f"no text for an image: {source}")
        if not attributes.get("src") and not attributes.get("srcset"):
            faults.append(f"an image without an address: {source}")
    return faults


def preview_faults(site: Site, name: str) -> list[str]:
    "Other than one picture for previews, or one that nobody can fetch"
    found = [tag.attributes.get("content", "") for tag in site.pages[name].tags
             if tag.name == "meta" and tag.attributes.get("property") == "og:image"]
    if len(found) != 1:
        return [] if Path(name).name == "404.html" and not found else [f"not one og:image: {len(found)}"]
    if not found[0] or found[0].lower().startswith("data:"):
        return [f"og:image has no address: {brief(found[0])}"]
    fault = link_fault(site, name, found[0])
    return [f"og:image, {fault}: {brief(found[0])}"] if fault else []


def head_faults(site: Site, name: str) -> list[str]:
    "A page without its language, its title, or its HTML as a whole"
    page = site.pages[name]
    language = any(tag.name == "html" and tag.attributes.get("lang") for tag in page.tags)
    faults = [] if language else ["no language: <html> needs lang"]
    faults += [] if page.part("title").strip() else ["no title: <title> is missing or empty"]
    return faults + ([f"cannot be read to its end: {brief(page.broken)}"] if page.broken else [])


def id_faults(site: Site, name: str) -> list[str]:
    "Ids that stand on a page twice; Quarto gives the style sheets of a light and a dark theme one id"
    tags = [tag for tag in site.pages[name].tags if "id" in tag.attributes and tag.name != "link"]
    counts = Counter(tag.attributes["id"] for tag in tags)
    twice = {found: count for found, count in counts.items() if count > 1}
    return [f"an id that is there {count} times: {brief(found)}" for found, count in twice.items()]


def heading_faults(site: Site, name: str) -> list[str]:
    "Headings that leave out a level"
    tags = [Tag("h0", {}, ""), *site.pages[name].headings]
    return [f"a heading skips a level: from {before.name} to {tag.source}" if before.source else
            f"the first heading is no h1: {tag.source}"
            for before, tag in itertools.pairwise(tags) if int(tag.name[1]) > int(before.name[1]) + 1]


def leftover_faults(site: Site, name: str) -> list[str]:
    "What was meant for Quarto, nbdev or Colab, errors, and folds without code"
    page = site.pages[name]
    places = [(LEFT_IN_TEXT, page.part("text")), *((LEFT_IN_CODE, "".join(code)) for code in page.codes)]
    faults = [f"{kind}: {brief(found[0])}" for patterns, text in places for kind, pattern in patterns.items()
              for found in re.finditer(pattern, text, re.MULTILINE)]
    folds = [fold for fold in page.folds if fold.is_code or CODE_FOLD.fullmatch(fold.summary)]
    return faults + ["a fold without code: <details>" for fold in folds if not fold.content.strip()]


CHECKS = (link_faults, image_faults, preview_faults, head_faults, id_faults, heading_faults, leftover_faults)
OF_REDIRECTS = (link_faults,)  # nobody reads them


def read_site(folder: Path, address: str) -> Site:
    "A built site from its folder; what Quarto brings along is no page"
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.html"))}
    return Site(folder, address, {name: read_page(path.read_text(encoding="utf-8", errors="replace"))
                                  for name, path in paths.items()
                                  if path.is_file() and not name.startswith("site_libs/")})


def faults_of(site: Site) -> list[str]:
    "A line for each fault of a site, in order"
    lines = []
    for name, page in site.pages.items():
        found = load_faults(site, name, loads_of(page))
        for check in OF_REDIRECTS if page.is_redirect else CHECKS:
            found += check(site, name)
        lines += [f"{name}: {fault}" for fault in found]
    for path in site.folder.rglob("*.css"):
        name = path.relative_to(site.folder).as_posix()
        text = path.read_text(encoding="utf-8", errors="replace")
        lines += [f"{name}: {fault}" for fault in load_faults(site, name, loads_in(name, text))]
    return sorted(set(lines))


def main(arguments: list[str] | None = None):
    "Print the faults, and end with 1 if there are any"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    site = read_site(parser.parse_args(arguments).site, site_address())
    if not site.pages:
        print(f"{site.folder} holds no page: build the site first, with make docs", file=sys.stderr)
        sys.exit(2)
    faults = faults_of(site)
    links = sum(len(links_of(page)) for page in site.pages.values())
    counted = f"{len(site.pages)} pages, {links} links"
    print(*faults, f"{counted}: {len(faults) or 'no'} fault{'s' if len(faults) > 1 else ''}", sep="\n")
    sys.exit(int(bool(faults)))


if __name__ == "__main__":
    main()
