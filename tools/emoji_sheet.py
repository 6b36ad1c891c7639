"""The files llm_course/assets/emoji.png and emoji.jsonl.gz: emoji as two artists drew them, with names and keywords.

The picture is one sheet of tiles of 32 x 32 pixels with a palette of 256 colours, on white. A line of the table is one
emoji that both artists drew: name, keywords, character, group, subgroup, family, split, and the places of its tiles.
A family holds emoji that say or show nearly the same, and is never divided by a split: a person in several genders, a
clock at several hours, all arrows, or two drawings that differ in a few pixels.
"""

import hashlib
import io
import json
import random
import re
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from linked import linked
from PIL import Image, ImageDraw, ImageFont

from llm_course.data import SPLITS

SOURCES = {  # file names, and their SHA-256
    "NotoColorEmoji.ttf": "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec",
    "emojibase-data-17.0.0.tgz": "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "fluent-emoji-flat-1.2.6.tgz": "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
}
SIDE, ACROSS = 32, 64  # pixels of a tile; tiles in a row of the sheet
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
LARGEST = 8  # a family with more emoji is in the training part, so that none fills a part of the test
ALIKE = 0.02  # drawings of one artist with a smaller mean difference, of 1, are of one family
WHOLE = {"family", "keycap", "arrow", "geometric", "flag", "alphanum", "heart", "time", "av-symbol", "zodiac", "cat-face",
         "person", "person-symbol"}  # subgroups that are one family each
PERSON = r"(wo)?man|(wo)?men|person|people|boy|girl|child|baby|prince(ss)?|mx|mr\.?|mrs\.?|claus|mother|father|parent"
VARIANT = re.compile(rf"\b({PERSON}|left|right|up|down|light|dark|red|orange|yellow|green|blue|purple|brown|black|white"
                     r"|pink|grey|large|medium|small|face|button|facing|first|last|1st|2nd|3rd|new|full|quarter|waxing"
                     r"|waning|crescent|gibbous|with|in|the|a|of|and|hair|beard|blond|curly|bald|motorized|manual)\b")
PEOPLE = {"1f468", "1f469", "1f9d1"}  # man, woman, person: what follows them says what they do


def code_points(hexcode: str) -> list[str]:
    "The characters of an emoji, in hexadecimal, without the one that asks for colour"
    return [part for part in hexcode.lower().split("-") if part != "fe0f"]


def read_member(path: Path, name: str) -> object:
    "A JSON file of a package of npm"
    with tarfile.open(path) as archive:
        return json.load(archive.extractfile(f"package/{name}"))


def common_rows(folder: Path) -> list[dict]:
    "The emoji of Unicode that the second artist drew, in Unicode's order, with names and keywords"
    base = folder / "emojibase-data-17.0.0.tgz"
    kinds = read_member(base, "meta/groups.json")
    drawn = {"-".join(code_points(key)): name for key, name in
             read_member(folder / "fluent-emoji-flat-1.2.6.tgz", "chars.json").items()}
    rows = []
    for entry in sorted(read_member(base, "en/data.json"), key=lambda entry: entry.get("order", -1)):
        points = code_points(entry["hexcode"])
        if "-".join(points) not in drawn or kinds["groups"].get(str(entry.get("group")), "component") == "component":
            continue
        group, subgroup = kinds["groups"][str(entry["group"])], kinds["subgroups"][str(entry["subgroup"])]
        rows.append({"text": entry["label"], "keywords": entry.get("tags", []), "emoji": entry["emoji"],
                     "group": group, "subgroup": subgroup, "points": points, "drawing": drawn["-".join(points)]})
    return rows


def on_white(picture: Image.Image) -> Image.Image:
    "A picture of a tile's size, where nothing shines through"
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS)


def drawn_by_font(path: Path, emoji: list[str]) -> list[Image.Image]:
    "Tiles of a font of coloured bitmaps, whose only size is 109 points: 136 x 128 pixels"
    font, tiles = ImageFont.truetype(str(path), 109, layout_engine=ImageFont.Layout.RAQM), []
    for character in emoji:
        picture = Image.new("RGBA", (136, 136))
        ImageDraw.Draw(picture).text((0, 4), character, font=font, embedded_color=True)
        tiles.append(on_white(picture))
    return tiles


def drawn_by_outlines(path: Path, names: list[str]) -> list[Image.Image]:
    "Tiles of drawings in SVG, which are 32 units wide"
    import resvg_py
    icons, tiles = read_member(path, "icons.json"), []
    for name in names:
        body = icons["icons"][icons.get("aliases", {}).get(name, {}).get("parent", name)]["body"]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="128" height="128">{body}</svg>'
        tiles.append(on_white(Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))))
    return tiles


def keys_of(row: dict) -> list[str]:
    "What two emoji of one family share: a whole subgroup, a name without its variants, or what stands behind a person"
    if row["subgroup"] in WHOLE:
        return [row["subgroup"]]
    points = row["points"]
    person = points[0] in PEOPLE and "200d" in points
    name = " ".join(sorted(set(re.findall(r"[a-z0-9]+", VARIANT.sub(" ", row["text"].lower())))))
    return [f"U+{points[points.index('200d') + 1] if person else points[0]}", *([name] if name else [])]


def look_alike(tiles: list[Image.Image]) -> list[tuple[int, int]]:
    "Pairs of nearly the same drawing; means of squares of 4 x 4 pixels differ by no more than the pixels do"
    whole = np.stack([np.asarray(tile, np.float32) / 255 for tile in tiles])
    means = whole.reshape(len(tiles), 8, 4, 8, 4, 3).mean((2, 4)).reshape(len(tiles), -1)
    pairs = []
    for i in range(len(tiles)):
        near = i + 1 + np.flatnonzero(np.abs(means[i + 1:] - means[i]).mean(1) < ALIKE)
        pairs += [(i, int(j)) for j in near if np.abs(whole[j] - whole[i]).mean() < ALIKE]
    return pairs


def families(rows: list[dict], tiles: list[list[Image.Image]]) -> list[list[int]]:
    "Places of emoji that must stay together, the largest family first"
    first_of = {}
    pairs = [(i, first_of.setdefault(key, i)) for i, row in enumerate(rows) for key in keys_of(row)]
    pairs += [pair for drawn in tiles for pair in look_alike(drawn)]
    return sorted(linked(len(rows), pairs), key=len, reverse=True)


def assign_families(rows: list[dict], together: list[list[int]], seed: int = 0):
    "Name each family after its first emoji, and give it to the split that is furthest below its share of the groups"
    totals, filled = defaultdict(int), {split: defaultdict(int) for split in SPLITS}
    for row in rows:
        totals[row["group"]] += 1
    random.Random(seed).shuffle(together)
    for family in sorted(together, key=len, reverse=True):
        groups = [rows[i]["group"] for i in family]

        def shortage(split: str, groups: list[str] = groups) -> float:
            return sum(1 - filled[split][group] / (SHARES[split] * totals[group]) for group in groups)

        split = "train" if len(family) > LARGEST else max(SPLITS, key=shortage)
        for i, group in zip(family, groups, strict=True):
            rows[i] |= {"family": rows[family[0]]["text"], "split": split}
            filled[split][group] += 1


def one_sheet(tiles: list[Image.Image]) -> bytes:
    "A PNG file with a palette, the tiles in rows"
    sheet = Image.new("RGB", (SIDE * ACROSS, SIDE * -(-len(tiles) // ACROSS)), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % ACROSS * SIDE, place // ACROSS * SIDE))
    out = io.BytesIO()
    sheet.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def emoji_files(folder: Path) -> tuple[bytes, list[str]]:  # the sheet, and the lines of the table
    "Both files, from a folder with the three sources"
    for name, expected in SOURCES.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise SystemExit(f"{folder / name} has SHA-256 {found}, expected {expected}")
    rows, (font, _, outlines) = common_rows(folder), SOURCES
    tiles = [drawn_by_font(folder / font, [row["emoji"] for row in rows]),
             drawn_by_outlines(folder / outlines, [row["drawing"] for row in rows])]
    assign_families(rows, families(rows, tiles))
    lines = []
    for place, row in enumerate(rows):
        kept = {name: row[name] for name in ("text", "keywords", "emoji", "group", "subgroup", "family", "split")}
        kept["tiles"] = {"noto": place, "fluent": len(rows) + place}
        lines.append(json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
    return one_sheet(tiles[0] + tiles[1]), lines
