"""Checking the built site: a good small site passes, and each planted fault is named, with its page."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, run_tool, settings

sys.path.insert(0, str(ROOT / "tools"))
import check_site

ADDRESS = check_site.site_address()
HEAD = """<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" lang="en" xml:lang="en"><head>
<meta charset="utf-8">
<title>{title}</title>
<link href="{up}images/favicon.svg" rel="icon" type="image/svg+xml">
<link href="{up}site_libs/light.css" rel="stylesheet" id="quarto-bootstrap" data-mode="light">
<link href="{up}site_libs/dark.css" rel="disabled-stylesheet" id="quarto-bootstrap" data-mode="dark">
<script src="{up}site_libs/quarto.js"></script>
<meta property="og:image" content="{address}/images/course.png">
<meta property="og:image:alt" content="A curve that falls">
</head><body>
<h1 class="quarto-secondary-nav-title"></h1>
<nav><a href="{up}index.html">Course</a> <a class="toggle" href="" onclick="toggle()">Dark</a></nav>
"""
FRONT = """<main><h1>Course</h1>
<p><a href="./lessons/10_first.html#smoothing">first</a> <a href="glossary.html#entropy">entropy</a>
<a href="https://arxiv.org/abs/1">paper</a> <a href="mailto:us@example.org">write</a></p>
<img src="images/course.png" alt="A curve that falls">
</main></body></html>"""
LESSON = """<main><h1>First</h1>
<p><a href="../glossary.html">words</a> <a href="#smoothing">below</a></p>
<h2 id="smoothing">Smoothing</h2><h3>By hand</h3><h2>Again</h2>
<details class="code-fold"><summary>Code</summary><pre><code>a = 1  # one
b = {}</code></pre></details>
<img src="data:image/png;base64,AAAA" alt="A curve that rises" style="background: url(../images/course.png)">
</main></body></html>"""
WORDS = """<main><h1>Words</h1>
<table><tr><td id="entropy">entropy</td><td><a href="lessons/10_first.html">10</a></td></tr></table>
</main></body></html>"""
STYLE = """/* as url(https://example.org/x.png) */ @namespace svg url(http://www.w3.org/2000/svg);
@font-face { src: url("icons.woff?v=1") }
b { background: url('data:image/svg+xml,<svg xmlns="http://w3.org"/>') }"""


def write_site(folder: Path) -> Path:
    "A site of three pages in which nothing is wrong"
    files = {"index.html": HEAD.format(title="Course", up="./", address=ADDRESS) + FRONT,
             "lessons/10_first.html": HEAD.format(title="First", up="../", address=ADDRESS) + LESSON,
             "glossary.html": HEAD.format(title="Words", up="", address=ADDRESS) + WORDS,
             "site_libs/light.css": STYLE, "site_libs/dark.css": "", "site_libs/quarto.js": "",
             "site_libs/icons.woff": "", "site_libs/part.html": "<img>",
             "images/course.png": "", "images/favicon.svg": ""}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def change(path: Path, old: str, new: str):
    "Replace what must stand in a file once"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def checked(folder: Path, capsys: pytest.CaptureFixture) -> tuple[list[str], int]:
    "What the checker prints about a site, and its exit status"
    with pytest.raises(SystemExit) as ended:
        check_site.main([str(folder)])
    return capsys.readouterr().out.splitlines(), ended.value.code


def test_a_site_without_faults_passes(tmp_path, capsys):
    assert checked(write_site(tmp_path), capsys) == (["3 pages, 13 links: no fault"], 0)


INDEX, FIRST, GLOSSARY = "index.html", "lessons/10_first.html", "glossary.html"
BODY, END = "<main><h1>Words</h1>", "</main></body></html>"  # of the glossary
IMAGE, ALT = 'src="images/course.png"', 'alt="A curve that falls"'  # of the front page
PREVIEW = f'<meta property="og:image" content="{ADDRESS}/images/course.png">'
NO_TITLE = "no title: <title> is missing or empty"


def link(name: str, address: str, fault: str) -> tuple[str, str, str, str]:
    "A link at the end of a page, and what is said about it"
    tag = f'<a href="{address}">'
    return name, END, f"{tag}a</a>{END}", f"{fault}: {address} in {tag}"


def image(attributes: str, fault: str) -> tuple[str, str, str, str]:
    "Other attributes of the image of the front page, and what is said about it"
    return INDEX, f"<img {IMAGE} {ALT}>", f"<img {attributes}>", f"{fault} <img {attributes}>"


def preview(content: str, fault: str) -> tuple[str, str, str, str]:
    "Another address of the picture for previews of the glossary, and what is said about it"
    return GLOSSARY, PREVIEW, f'<meta property="og:image" content="{content}">', f"{fault}: {content}"


def code(line: str, fault: str) -> tuple[str, str, str, str]:
    "A line that stands before the code of the lesson, and what is said about it"
    return FIRST, "a = 1", f"{line}\na = 1", f"{fault}: {re.sub('<.*?>', '', line).strip(' ')}"


FAULTS = {  # page, what stands there, what is planted instead, what is said about it
    "a page is missing": link(GLOSSARY, "lessons/11_no.html#smoothing", "no such file"),
    "a folder without a page": link(GLOSSARY, "images/", "no such file"),
    "an anchor elsewhere": link(FIRST, "../glossary.html#Entropy", "no such anchor"),
    "an anchor here": link(FIRST, "#by-hand", "no such anchor"),
    "an address of the site": link(GLOSSARY, f"{ADDRESS}/lessons/", "no such file"),
    "an anchor of the front page": link(GLOSSARY, f"{ADDRESS}#no", "no such anchor"),
    "a path that is doubled": link(GLOSSARY, f"{ADDRESS}//etc/passwd", "no such file"),
    "a path from the host": link(GLOSSARY, "/glossary.html", "leads out of the site"),
    "too far up": link(FIRST, "../../glossary.html", "leads out of the site"),
    "another scheme": link(INDEX, "ftp://arxiv.org/abs/1", "neither http, https nor mailto"),
    "a script as a link": link(INDEX, "JavaScript:void(0)", "neither http, https nor mailto"),
    "no address": link(INDEX, "http://[x", "no address"),
    "an area": (INDEX, END, f'<area href="no.html">{END}', 'no such file: no.html in <area href="no.html">'),
    "the next page": (INDEX, "</head>", '<link rel="next" href="no.html"></head>',
                      'no such file: no.html in <link rel="next" href="no.html">'),
    "no alt": image(IMAGE, "no text for an image:"),
    "an empty alt": image(f'{IMAGE} alt=" "', "no text for an image:"),
    "alt without a value": image(f"{IMAGE} alt", "no text for an image:"),
    "no image": image(f'src="images/no.png" {ALT}', "no such file: images/no.png in"),
    "no image of that size": image(f'srcset="images/course.png, images/no.png 2x" {ALT}',
                                   "no such file: images/no.png in"),
    "no source": image(f'src="" {ALT}', "an image without an address:"),
    "no preview": (GLOSSARY, PREVIEW, "", "not one og:image: 0"),
    "two previews": (GLOSSARY, PREVIEW, PREVIEW * 2, "not one og:image: 2"),
    "data as a preview": preview("data:image/png;base64,AA", "og:image has no address"),
    "an empty preview": preview("", "og:image has no address"),
    "no such preview": preview(f"{ADDRESS}/images/no.png", "og:image, no such file"),
    "two ids": (GLOSSARY, BODY, BODY + '<p id="entropy"></p>', "an id that is there 2 times: entropy"),
    "no title": (GLOSSARY, "<title>Words</title>", "", NO_TITLE),
    "an empty title": (GLOSSARY, "<title>Words</title>", "<title> </title>", NO_TITLE),
    "the title of a drawing": (GLOSSARY, "<title>Words</title>", "<svg><title>Words</title></svg>", NO_TITLE),
    "no language": (GLOSSARY, ' lang="en"', "", "no language: <html> needs lang"),
    "a level left out": (FIRST, "<h2>Again</h2>", "<h2>Again</h2><H4 class=x>Deep</H4>",
                         "a heading skips a level: from h2 to <H4 class=x>"),
    "no first heading": (FIRST, "<h1>First</h1>", "", 'the first heading is no h1: <h2 id="smoothing">'),
    "a shortcode": (GLOSSARY, BODY, BODY + "<p>{{&lt; include a.qmd &gt;}}</p>",
                    "a shortcode is left: {{< include a.qmd >}}"),
    "a shortcode in code": (FIRST, "a = 1", "{{&lt;<b>meta</b> x>}}\n", "a shortcode is left: {{<meta x>}}"),
    "a directive": code('<span class="co">#| exports</span>', "a directive is left"),
    "an option": code("  #|echo: false", "a directive is left"),
    "a placeholder in %pip": code("    %pip install -q {kept} a", "an unfilled %pip is left"),
    "nothing after %pip": code("%pip install -q", "an unfilled %pip is left"),
    "an error": (FIRST, "a = 1", "<b>KeyError</b>  Traceback (most recent call last)",
                 "an error is left: Traceback (most recent call last)"),
    "an empty fold": (FIRST, "a = 1  # one\nb = {}", "\n", "a fold without code: <details>"),
    "an empty fold of another name": (FIRST, '"><summary>Code</summary>',
                                      '"><summary>Look</summary></details><details>',
                                      "a fold without code: <details>"),
    "an empty fold with its mark": (GLOSSARY, BODY, BODY + "<details><summary>▼ Code</summary> </details>",
                                    "a fold without code: <details>"),
}
CDN = "https://cdn.example/x"
LOADED = {  # what a page loads, and the address that is named
    "a script": (f'<script src="{CDN}.js"></script>', f"{CDN}.js"),
    "without a scheme": ('<SCRIPT SRC="//cdn.example/x.js"></SCRIPT>', "//cdn.example/x.js"),
    "a style sheet": (f'<link href="{CDN}.css" rel="alternate STYLESHEET">', f"{CDN}.css"),
    "a theme": (f'<link rel="disabled-stylesheet" href="{CDN}.css">', f"{CDN}.css"),
    "a connection": (f'<link rel="preconnect" href="{CDN}">', CDN),
    "an image": (f'<img alt="A badge" src="{CDN}.svg">', f"{CDN}.svg"),
    "a set of images": (f'<img alt="A" srcset="data:a;base64,AA 1x, {CDN},y.png 2x">', f"{CDN},y.png"),
    "a frame": (f'<iframe src="{CDN}"></iframe>', CDN),
    "a page in a frame": (f'<iframe srcdoc="&lt;script src={CDN}>"></iframe>', CDN),
    "a picture of a video": (f'<video poster="{CDN}.png"></video>', f"{CDN}.png"),
    "an object": (f'<object data="{CDN}.pdf"></object>', f"{CDN}.pdf"),
    "a part of a drawing": (f'<svg><use xlink:href="{CDN}.svg#a"/></svg>', f"{CDN}.svg#a"),
    "an inline style": (f"<p style=\"background: url('{CDN}.png')\">", f"{CDN}.png"),
    "the page's style": (f"<style>p {{ background: URL( {CDN}.png ) }}</style>", f"{CDN}.png"),
    "an import": (f'<style>@import "{CDN}.css";</style>', f"{CDN}.css"),
    "a file": ('<script src="file:///x.js"></script>', "file:///x.js"),
    "the host": ('<script src="/x.js"></script>', "/x.js"),
}


@pytest.mark.parametrize(("name", "old", "new", "said"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_named_with_its_page_and_nothing_else(name, old, new, said, tmp_path, capsys):
    change(write_site(tmp_path) / name, old, new)
    lines, status = checked(tmp_path, capsys)
    assert lines[:-1] == [f"{name}: {said}"] and status == 1
    assert re.fullmatch(r"3 pages, 1[34] links: 1 fault", lines[-1])


@pytest.mark.parametrize(("tag", "address"), LOADED.values(), ids=LOADED)
def test_what_is_loaded_from_elsewhere_is_named(tag, address, tmp_path, capsys, monkeypatch):
    change(write_site(tmp_path) / GLOSSARY, BODY, BODY + tag)
    lines, status = checked(tmp_path, capsys)
    assert len(lines) == 2 and status == 1
    assert lines[0].startswith(f"glossary.html: loads from elsewhere: {address} in <")
    monkeypatch.setattr(check_site, "INTENDED", (address,))
    assert checked(tmp_path, capsys)[1] == 0


@pytest.mark.parametrize(("style", "said"), [
    (f"@font-face {{ src: url({CDN}.woff) }}", f"loads from elsewhere: {CDN}.woff"),
    ('@import url("//cdn.example/x.css");', "loads from elsewhere: //cdn.example/x.css"),
    ("p { background: url('../images/no.png') }", "no such file: ../images/no.png"),
    ("p { background: url(../../x.png) }", "loads from elsewhere: ../../x.png"),
])
def test_faults_of_style_sheets_are_named(style, said, tmp_path, capsys):
    (write_site(tmp_path) / "site_libs/dark.css").write_text(style, encoding="utf-8")
    lines, status = checked(tmp_path, capsys)
    assert lines[:-1] == [f"site_libs/dark.css: {said} in the style sheet"] and status == 1


def test_no_list_of_intended_addresses_lets_everything_pass():
    assert len(check_site.INTENDED) < 5
    assert all(re.match(r"https://[\w.-]+/", address) for address in check_site.INTENDED)


FINE = {  # what may stand in the glossary
    "a percent-encoded anchor": '<p id="wörter &amp; mehr"></p><a href="#w%C3%B6rter%20&amp;%20mehr">a</a>',
    "an anchor that is written with a percent": '<p id="100%25"></p><a href="#100%25">a</a>',
    "a name": '<a name="old"></a><A HREF="glossary.html#old">a</A>',
    "the top": '<a href="#">a</a> <a href="#top">b</a>',
    "a part of a text": '<a href="index.html#:~:text=course">a</a>',
    "a query": '<a href="lessons/10_first.html?q=1&amp;r=/x#smoothing">a</a> <a href="?q=1">b</a>',
    "a percent-encoded file": '<a href="lessons/10%5Ffirst.html">a</a>',
    "a folder": '<a href=".">a</a> <a href="./#">b</a> <a href="lessons/..">c</a>',
    "the site by its address": f'<a href="{ADDRESS}">a</a> <a href="{ADDRESS}/{FIRST}#smoothing">b</a>',
    "the site by its path": f'<a href="{settings()["doc_baseurl"]}/index.html">a</a>',
    "the same path elsewhere": f'<a href="https://example.org{settings()["doc_baseurl"]}/no.html">a</a>',
    "elsewhere without a scheme": '<a href="//example.org/no.html">a</a>',
    "an attribute that is there twice": '<a href="index.html" href="no.html">a</a>',
    "a neighbour on the host": f'<a href="{settings()["doc_host"]}/other/">a</a>',
    "an anchor in what is no page": '<a href="images/course.png#x">a</a>',
    "a set of images": '<img alt="A curve" srcset="images/course.png 1x, data:image/png;base64,AA== 2x">',
    "a picture": '<picture><source srcset="images/course.png"><IMG ALT="A" SRC="images/course.png?v=2">',
    "data": '<img alt="A curve" src="data:image/svg+xml,%3Csvg xmlns=&quot;http://w3.org/svg&quot;/%3E">',
    "decoration": f'<img {IMAGE} role="presentation"><img {IMAGE} alt="" aria-hidden="true">',
    "a drawing": '<svg><title>A</title><rect fill="url(#paint)"/><use href="#entropy"/></svg>',
    "levels of headings": "<h2>a</h2><h3>b</h3><h4>c</h4><h2>d</h2>",
    "a link that is no link": "<a>a</a> <!-- <a href='no.html'><img> --><script>'<a href=no.html>'</script>",
    "code": "<pre><code># | a\nx #| b\n%pip install a\n%pipes {a}</code></pre><p>%pip {a} #| b</p>",
    "formulas": r"<math><annotation>a_{{&lt;b}}</annotation></math>",
    "a template": "<template><p>{{&lt; x >}}</p></template>",
    "folds": "<details><summary>Code</summary><details><summary>More</summary></details></details>"
             '<details class="code-fold"><summary>Code</summary><img alt="A" src="data:,"></details>'
             "<details><summary>A</summary></details>",
    "an empty frame": '<iframe src="about:blank"></iframe>',
    "tags that are not closed": "<p>a<li>b<b>c</i></p></details></main></main><pre>d",
}


@pytest.mark.parametrize("planted", FINE.values(), ids=FINE)
def test_what_is_unusual_but_right_passes(planted, tmp_path, capsys):
    change(write_site(tmp_path) / GLOSSARY, END, planted + END)
    lines, status = checked(tmp_path, capsys)
    assert status == 0 and len(lines) == 1, lines


def test_folders_have_their_index(tmp_path, capsys):
    write_site(tmp_path)
    shutil.copy(tmp_path / FIRST, tmp_path / "lessons/index.html")
    both = '<a href="lessons#smoothing">a</a> <a href="lessons/#smoothing">b</a>'
    change(tmp_path / GLOSSARY, END, both + END)
    assert checked(tmp_path, capsys)[1] == 0
    change(tmp_path / GLOSSARY, "lessons/#smoothing", "lessons/#no")
    lines, status = checked(tmp_path, capsys)
    assert lines[:-1] == ['glossary.html: no such anchor: lessons/#no in <a href="lessons/#no">']
    assert status == 1


REFRESH = """<html><head><title>Redirect to {0}</title>
<meta http-equiv="Refresh" content="0;URL='{0}'" /></head><body></body></html>"""
REPLACE = """<html><head><title>Redirect</title><script type="text/javascript">
var redirects = {"": "glossary.html"}; window.location.replace(redirects[""]);</script></head><body>
</body></html>"""


def test_redirects_need_only_lead_somewhere(tmp_path, capsys):
    write_site(tmp_path)
    (tmp_path / "old.html").write_text(REFRESH.format("lessons/10_first.html"), encoding="utf-8")
    (tmp_path / "older.html").write_text(REPLACE, encoding="utf-8")
    change(tmp_path / GLOSSARY, END, '<a href="old.html#smoothing">a</a>' + END)  # the anchor is kept
    assert checked(tmp_path, capsys)[1] == 0
    (tmp_path / "old.html").write_text(REFRESH.format("no.html"), encoding="utf-8")
    lines, status = checked(tmp_path, capsys)
    assert len(lines) == 2 and lines[0].startswith("old.html: no such file: no.html in <meta") and status == 1
    (tmp_path / "old.html").write_text(REFRESH.format("glossary.html").replace("URL=", ""), encoding="utf-8")
    assert "old.html: no language: <html> needs lang" in checked(tmp_path, capsys)[0]  # it leads nowhere


def test_the_page_for_what_is_not_found_stands_at_every_address(tmp_path, capsys):
    write_site(tmp_path)
    base, text = settings()["doc_baseurl"], (tmp_path / INDEX).read_text(encoding="utf-8")
    text = re.sub(r'(href|src)="(?:\./)?(?=\w+[./])', rf'\1="{base}/', text.replace(PREVIEW, ""))
    assert f'href="{base}/index.html"' in text and f'src="{base}/site_libs/quarto.js"' in text
    (tmp_path / "404.html").write_text(text, encoding="utf-8")
    assert checked(tmp_path, capsys)[1] == 0
    change(tmp_path / "404.html", f"{base}/glossary.html", f"{base}/no.html")
    lines, status = checked(tmp_path, capsys)
    assert len(lines) == 2 and lines[0].startswith(f"404.html: no such file: {base}/no.html") and status == 1


@pytest.mark.parametrize("text", [
    "", "<", "<![x[", "<!x", "<!--", "</", "</details></details>", "<a href='", "<?x", "\0",
    "&#x110000; &#0;", "<img srcset=',,,' src>", "<link rel>", "<details><summary>", "<script>",
    "<style>url(", "<h7><main><h9>", "<a href='http://[::1'>", "<img src='//[' alt=a>", "<a href='%00%ff'>",
    f"<a href='{'x' * 5000}.html'>", "<meta http-equiv=refresh content='0;url=http://['>",
    "<iframe srcdoc='<iframe srcdoc>'>",
])
def test_broken_pages_are_read_as_far_as_they_go(text, tmp_path, capsys):
    (write_site(tmp_path) / "broken.html").write_text(text, encoding="utf-8")
    (tmp_path / "latin.html").write_bytes(b"<html lang=de><title>Gr\xfc\xdfe</title>")
    (tmp_path / "folder.html").mkdir()
    lines, status = checked(tmp_path, capsys)
    assert status == 1 and "latin.html: not one og:image: 0" in lines and lines[-1].startswith("5 pages, ")
    assert all(line.startswith(("broken.html: ", "latin.html: ")) for line in lines[:-1])


def test_faults_are_sorted_and_counted(tmp_path, capsys):
    write_site(tmp_path)
    change(tmp_path / INDEX, "</main>", '<a href="no.html">a</a> <a href="no.html">a</a></main>')
    change(tmp_path / GLOSSARY, "</main>", f'<a href="no.html">a</a> <img {IMAGE}></main>')
    lines, status = checked(tmp_path, capsys)
    assert lines == [*sorted(lines[:-1]), "3 pages, 16 links: 3 faults"] and len(lines) == 4 and status == 1


@pytest.mark.parametrize("make", [lambda folder: None, Path.mkdir, lambda folder: folder.write_text("")])
def test_without_a_page_it_says_what_to_do(make, tmp_path, capsys):
    make(tmp_path / "_docs")
    with pytest.raises(SystemExit) as ended:
        check_site.main([str(tmp_path / "_docs")])
    said = capsys.readouterr()
    assert ended.value.code == 2 and not said.out
    assert said.err.endswith("_docs holds no page: build the site first, with make docs\n")


def test_make_and_the_workflow_check_what_was_built(tmp_path):
    site = write_site(tmp_path)
    assert run_tool(sys.executable, "tools/check_site.py", site) == "3 pages, 13 links: no fault\n"
    assert "tools/check_site.py _docs" in run_tool("make", "-n", "check-site")
    assert "make check-site" in run_tool("make")
    [job] = yaml.safe_load((ROOT / ".github/workflows/docs.yml").read_text(encoding="utf-8"))["jobs"].values()
    steps = [step.get("run", step.get("uses")) for step in job["steps"]]
    place = steps.index("make check-site")
    assert steps[place - 1] == "make docs" and "upload-pages" in steps[place + 1]
