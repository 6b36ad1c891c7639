"""The lines of llm_course/assets/synonyms.tsv.gz, from the database files of WordNet 3.0.

Each line is one English word form. Each further field is one reading of it, the most frequent first: part of speech
and inflection, frequency in percent, checked synonyms in the same inflection, and after a semicolon the remaining
ones. A field that begins with ! holds antonyms. A line of two words says what may stand for the first where the
second follows. Checked synonyms come from checked_synonyms.txt, whose pairs were read one by one: in most of the
first word's uses the second says the same. The others share any sense of WordNet.
"""

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from llm_course.models import bundled_model_folder
from llm_course.tokens import load_tokenizer
from llm_course.words import STOP_WORDS

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
SOURCES_SHA256 = "d2aab75aa6d3f91b15188acc7612ae2378bfaf942f900ff1db5be07caa461ba8"  # of FILES, joined
FILES = [f"{kind}.{name}" for kind in ("data", "index") for name in PARTS] + [
    *(f"{name}.exc" for name in PARTS), "cntlist.rev"]
CLEAR = 0.8  # share of a form that its more frequent lemma must have
CHECKED = Path(__file__).with_name("checked_synonyms.txt")
USAGES = {"disparagement", "ethnic_slur", "obscenity", "dirty_word", "vulgarism", "derogation"}
SENSES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}  # kinds in a sense key, satellites are adjectives
SHARE_OF_FORM = {"n": 0.7, "ns": 0.3, "a": 0.9, "ar": 0.05, "at": 0.05, "r": 1.0,
                 "v": 0.3, "vs": 0.15, "vd": 0.2, "vn": 0.2, "vg": 0.15}  # guesses; only their order matters
IRREGULAR = {  # past tense and participle, where WordNet's exceptions do not say which is which
    "be": ("was", "been"), "bear": ("bore", "borne"), "become": ("became", "become"), "come": ("came", "come"),
    "do": ("did", "done"), "get": ("got", "gotten"), "go": ("went", "gone"), "run": ("ran", "run"),
    "overcome": ("overcame", "overcome"), "have": ("had", "had"), "prove": ("proved", "proved"),
    "beat": ("beat", "beaten"), "swell": ("swelled", "swelled"), "light": ("lit", "lit"),
    "show": ("showed", "shown"), "hang": ("hung", "hung"), "sew": ("sewed", "sewn"), "sow": ("sowed", "sown"),
    "mow": ("mowed", "mown"), "saw": ("sawed", "sawn"), "lie": ("lay", "lain"), "quit": ("quit", "quit"),
    "bet": ("bet", "bet"), "fit": ("fitted", "fitted"), "shine": ("shone", "shone")}
UNCHANGED = set("burst cast cost cut hit hurt let put rid set shed shut slit spit split spread thrust upset "
                "forecast broadcast".split())  # verbs whose past is their base


@dataclass
class WordNet:
    "What the table needs: the words of each synset, and the synsets and counts of each lemma"
    words: dict = field(default_factory=dict)  # (part, offset) -> lemmas
    senses: dict = field(default_factory=dict)  # (lemma, part) -> offsets, most frequent first
    counts: dict = field(default_factory=dict)  # (lemma, part, number of the sense) -> times seen
    irregular: dict = field(default_factory=lambda: defaultdict(list))  # (lemma, part) -> forms
    rude: set = field(default_factory=set)  # lemmas marked as slurs or vulgar in any sense
    antonyms: dict = field(default_factory=lambda: defaultdict(set))  # (lemma, part) -> lemmas


def lines_of(folder: Path, name: str) -> list[str]:
    "The lines of a file, its licence left out"
    return [line for line in (folder / name).read_text().splitlines() if not line.startswith("  ")]


def read_wordnet(folder: Path) -> WordNet:
    "Parse the database; its format is described in the manual page wndb(5)"
    wordnet = WordNet()
    pointers = {}
    for name, part in PARTS.items():
        for line in lines_of(folder, f"data.{name}"):
            fields = line.partition(" | ")[0].split(" ")
            number = int(fields[3], 16)
            wordnet.words[part, fields[0]] = [re.sub(r"\(\w+\)$", "", word) for word in fields[4:4 + 2 * number:2]]
            rest = fields[5 + 2 * number:]
            pointers[part, fields[0]] = [rest[i:i + 4] for i in range(0, 4 * int(fields[4 + 2 * number]), 4)]
        for line in lines_of(folder, f"index.{name}"):
            fields = line.split()
            wordnet.senses[fields[0], part] = fields[-int(fields[2]):]
        for line in lines_of(folder, f"{name}.exc"):
            form, *lemmas = line.split()
            for lemma in lemmas:
                wordnet.irregular[lemma, part].append(form)
    for line in lines_of(folder, "cntlist.rev"):
        key, number, count = line.split()
        lemma, _, rest = key.partition("%")
        wordnet.counts[lemma, SENSES[rest[0]], int(number)] = int(count)
    add_relations(wordnet, pointers)
    return wordnet


def add_relations(wordnet: WordNet, pointers: dict[tuple, list]):
    "Antonyms, those of an adjective's head included, and rude words"
    opposite = defaultdict(set)
    for (part, offset), rows in pointers.items():
        for symbol, target, kind, ends in rows:
            other = ("a" if kind == "s" else kind, target)
            if symbol == "!":
                lemma = wordnet.words[part, offset][int(ends[:2], 16) - 1].lower()
                antonym = wordnet.words[other][int(ends[2:], 16) - 1].lower()
                wordnet.antonyms[lemma, part].add(antonym)
                opposite[part, offset].add(antonym)
            if symbol == ";u" and USAGES & set(wordnet.words[other]):
                wordnet.rude.update(lemma.lower() for lemma in wordnet.words[part, offset])
    for (part, offset), rows in pointers.items():
        for symbol, target, *_ in rows:
            if symbol == "&" and part == "a":  # similar to
                for lemma in wordnet.words[part, offset]:
                    wordnet.antonyms[lemma.lower(), part] |= opposite["a", target]


def syllables(word: str) -> int:
    "Groups of vowels, a final silent e left out"
    return max(1, len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[^aeiouyl])e$", "", word))))


def with_ending(lemma: str, ending: str, noun: bool = False) -> str:
    "A regular ending with its spelling rules: films, enjoyed, loving, happier"
    if ending == "s":
        if noun and re.search(r"(?<!hu)(?<!ger)(?<!ro)(?<!sha)man$", lemma):
            return lemma[:-2] + "en"
        if re.search(r"(s|x|z|ch|sh)$", lemma):
            return lemma + "es"
        return re.sub(r"(?<=[^aeiou])y$", "ie", lemma) + "s"
    if ending == "ing":
        return re.sub(r"ie$", "y", lemma) + ending if lemma.endswith("ie") else re.sub(r"(?<=[^eoy])e$", "", lemma) + ending
    stem = re.sub(r"(?<=[^aeiou])y$", "i", re.sub(r"e$", "", lemma))
    if ending in {"er", "est"} and re.search(r"^[^aeiou]*[aeiou][bdgmnpt]$", lemma):
        stem += lemma[-1]
    return stem + ending


def verb_forms(lemma: str, irregular: list[str]) -> dict[str, str]:
    "Third person, past, participle and -ing; WordNet lists the irregular ones and those with a doubled consonant"
    ing = [form for form in irregular if form.endswith("ing") and form != lemma]
    third = [form for form in irregular if form.endswith("s") and len(form) > len(lemma)]
    past = sorted({form for form in irregular if form not in ing + third})
    if lemma in IRREGULAR:
        simple, participle = IRREGULAR[lemma]
    elif lemma in UNCHANGED:
        simple = participle = lemma
    elif not past:
        simple = participle = with_ending(lemma, "ed")
    elif len(past) == 1:
        simple = participle = past[0]
        if past[0].endswith(("en", "wn")) and not past[0].endswith("ened"):  # the past is regular: shown, sewn
            simple = with_ending(lemma, "ed")
    else:
        participles = [form for form in past if re.search(r"(n|ne|un.|um)$", form)]
        simples = [form for form in past if form not in participles]
        simple, participle = (simples or past)[0], (participles or simples)[0]
    return {"": lemma, "s": third[0] if third else with_ending(lemma, "s"), "d": simple, "n": participle,
            "g": ing[0] if ing else with_ending(lemma, "ing")}


def forms_of(lemma: str, part: str, wordnet: WordNet, common: set[str]) -> dict[str, str]:
    "Inflection -> form"
    irregular = [form for form in wordnet.irregular[lemma, part] if "_" not in form]
    if part == "v":
        return verb_forms(lemma, irregular)
    if part == "n":
        plural = irregular[0] if irregular else with_ending(lemma, "s", noun=True)
        return {"": lemma, "s": plural}
    if part == "a" and (syllables(lemma) == 1 or (syllables(lemma) == 2 and lemma.endswith("y"))):
        degrees = {"r": with_ending(lemma, "er"), "t": with_ending(lemma, "est")}
        for form in irregular:
            degrees["t" if form.endswith("st") else "r"] = form
        return {"": lemma} | {key: form for key, form in degrees.items() if form in common}
    return {"": lemma}


def total(lemma: str, part: str, wordnet: WordNet) -> int:
    "How often a lemma was seen as this part of speech"
    return sum(wordnet.counts.get((lemma, part, i + 1), 0) for i in range(len(wordnet.senses.get((lemma, part), ()))))


def plain(lemma: str) -> bool:
    "One lower-case word of letters"
    return bool(re.fullmatch(r"[a-z]{2,}", lemma))


def written_small(lemma: str, part: str, wordnet: WordNet) -> bool:
    "Whether WordNet writes an entry without capitals in one of its senses"
    return any(lemma in wordnet.words[part, offset] for offset in wordnet.senses[lemma, part])


def plain_pairs(wordnet: WordNet) -> dict[tuple, list[tuple[str, int, int]]]:
    "(lemma, part) -> (synonym, number of the sense, its number among the senses of the synonym)"
    pairs = defaultdict(list)
    for (lemma, part), offsets in wordnet.senses.items():
        if not plain(lemma) or lemma in STOP_WORDS:
            continue
        for number, offset in enumerate(offsets, 1):
            if lemma not in wordnet.words[part, offset]:
                continue  # it is written with a capital there: a name
            for other in wordnet.words[part, offset]:
                if other != lemma and plain(other) and other not in wordnet.rude and other not in STOP_WORDS:
                    rank = wordnet.senses[other, part].index(offset) + 1
                    pairs[lemma, part].append((other, number, rank))
    return pairs


def checked_pairs() -> dict[tuple[str, str, str], list[str]]:
    "(part of speech, and inflection if it matters; lemma; next word or nothing) -> words that may stand for it"
    pairs, part = {}, ""
    for number, line in enumerate(CHECKED.read_text().splitlines(), 1):
        if line.startswith("["):
            part = line[1:-1]
        elif line and not line.startswith("#"):
            both, sides = " = " in line, re.split(r" [=>](?: |$)", line)
            if len(sides) != 2:
                raise SystemExit(f"Line {number} of {CHECKED.name} says nothing: {line!r}")
            word, _, following = sides[0].partition(" ")
            for after in following.split("|"):
                pairs.setdefault((part, word, after), []).extend(sides[1].split())
            for other in sides[1].split() if both else ():
                pairs.setdefault((part, other, ""), []).append(word)
    return {key: list(dict.fromkeys(words)) for key, words in pairs.items()}


def readings(wordnet: WordNet, common: set[str]) -> dict[str, dict]:
    "Form, alone or with the word after it -> part and inflection -> frequency, checked synonyms, other synonyms"
    table, senses, pairs = defaultdict(dict), plain_pairs(wordnet), pairs_by_lemma()
    for lemma, part in wordnet.senses:
        if not plain(lemma) or lemma in STOP_WORDS or not written_small(lemma, part, wordnet):
            continue
        others = list(dict.fromkeys(row[0] for row in senses[lemma, part]))
        for key, form in forms_of(lemma, part, wordnet, common).items():
            if not plain(form) or form in STOP_WORDS or (part + key == "vn" and form == table_past(lemma, wordnet)):
                continue
            frequency = (total(lemma, part, wordnet) + 0.5) * SHARE_OF_FORM[part + key]
            both = key == "d" and form == verb_forms(lemma, wordnet.irregular[lemma, part])["n"]
            groups = pairs.get((part, lemma), {}) | ({} if key == "" else pairs.get((part + key, form), {}))
            for after in {"": [], **groups}:
                lists = [[word for word in inflected(group, part, key, both, wordnet, common) if word != form]
                         for group in (groups.get(after, []), [] if after else others)]
                if (part + key, form) in pairs and part + key != part and after in pairs[part + key, form]:
                    lists[0] = pairs[part + key, form][after]
                add_reading(table[f"{form} {after}".strip()], part + key, frequency * (2 if both else 1), lists)
    return table


def pairs_by_lemma() -> dict[tuple[str, str], dict[str, list[str]]]:
    "(part, lemma), or (part and inflection, form) -> next word or nothing -> words that may stand for it"
    found = defaultdict(dict)
    for (part, word, after), words in checked_pairs().items():
        found[part, word][after] = words
    return dict(found)


def table_past(lemma: str, wordnet: WordNet) -> str:
    "The past tense of a verb"
    return verb_forms(lemma, wordnet.irregular[lemma, "v"])["d"]


def inflected(words: list[str], part: str, key: str, both: bool, wordnet: WordNet, common: set[str]) -> list[str]:
    "Words in an inflection; those that fit as past and as participle where the form may be `both`"
    found = [forms_of(word, part, wordnet, common) for word in words]
    return [forms[key] for forms in found if key in forms and plain(forms[key])
            and (not both or forms["d"] == forms["n"])]


def add_reading(readings_of_form: dict, tag: str, frequency: float, lists: list[list[str]]):
    "Join with what another lemma gave the same form; the rarer lemma's checked synonyms are others"
    old_frequency, *old = readings_of_form.get(tag, (0.0, [], []))
    first, second = (old, lists) if old_frequency >= frequency else (lists, old)
    clear = max(old_frequency, frequency) >= CLEAR * (old_frequency + frequency)
    checked = first[0] if clear else []
    rest = [word for group in (first[0], first[1], second[0], second[1]) for word in group if word not in checked]
    readings_of_form[tag] = (old_frequency + frequency, checked, list(dict.fromkeys(rest)))


def antonyms_of_forms(wordnet: WordNet, common: set[str]) -> dict[str, set[str]]:
    "Form -> its antonyms in the same inflection"
    table = defaultdict(set)
    for (lemma, part), others in wordnet.antonyms.items():
        if plain(lemma) and lemma not in STOP_WORDS:
            for key, form in forms_of(lemma, part, wordnet, common).items():
                table[form].update(inflected(sorted(filter(plain, others)), part, key, False, wordnet, common))
    return table


def checked_wordnet(folder: Path) -> WordNet:
    "WordNet, if its files are those that the table was made from"
    content = b"".join((folder / name).read_bytes() for name in FILES)
    found = hashlib.sha256(content).hexdigest()
    if found != SOURCES_SHA256:
        raise SystemExit(f"The files of WordNet in {folder} have SHA-256 {found}, expected {SOURCES_SHA256}")
    return read_wordnet(folder)


def common_words() -> set[str]:
    "The words of the bundled encoder's vocabulary"
    return {word for word in load_tokenizer(str(bundled_model_folder())).get_vocab() if plain(word)}


def lines_of_table(wordnet: WordNet, common: set[str]) -> list[str]:
    "Forms that have synonyms, or are common and so may stand as a neighbour of another"
    table, antonyms, lines = readings(wordnet, common), antonyms_of_forms(wordnet, common), []
    for form in sorted(table):
        if not (form in common or " " in form or any(close or rest for _, close, rest in table[form].values())):
            continue
        whole = sum(frequency for frequency, *_ in table[form].values())
        fields = [form]
        for tag, (frequency, close, rest) in sorted(table[form].items(), key=lambda item: (-item[1][0], item[0])):
            share = round(100 * frequency / whole)
            fields.append(f"{tag} {share} {','.join(close)};{','.join(rest)}")
        if antonyms[form]:
            fields.append("!" + ",".join(sorted(antonyms[form])))
        lines.append("\t".join(fields))
    return lines
