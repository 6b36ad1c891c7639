"""What nlpaug and TextAttack need to run without a network: NLTK's data from Debian's WordNet, and stand-ins.

Debian's packages wordnet-base and wordnet-sense-index hold the files of WordNet. The list of lexicographer files and
NLTK's stop words, which they lack, are written here. Two things are stubbed, both to the rivals' advantage:
flair, which TextAttack imports for a tagger that the measured methods do not call; and nlpaug's part-of-speech
tagger, whose data NLTK would download: every word counts as a noun, at no cost.
"""

import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

WORDNET = Path("/usr/share/wordnet")
LEXNAMES = """adj.all 3,adj.pert 3,adv.all 4,noun.Tops 1,noun.act 1,noun.animal 1,noun.artifact 1,noun.attribute 1,
noun.body 1,noun.cognition 1,noun.communication 1,noun.event 1,noun.feeling 1,noun.food 1,noun.group 1,
noun.location 1,noun.motive 1,noun.object 1,noun.person 1,noun.phenomenon 1,noun.plant 1,noun.possession 1,
noun.process 1,noun.quantity 1,noun.relation 1,noun.shape 1,noun.state 1,noun.substance 1,noun.time 1,verb.body 2,
verb.change 2,verb.cognition 2,verb.communication 2,verb.competition 2,verb.consumption 2,verb.contact 2,
verb.creation 2,verb.emotion 2,verb.motion 2,verb.perception 2,verb.possession 2,verb.social 2,verb.stative 2,
verb.weather 2,adj.ppl 3"""


def supply_nltk_data(stop_words: frozenset[str]) -> Path:
    "A folder with WordNet and stop words as NLTK wants them; NLTK is told where it is"
    missing = [name for name in ("data.noun", "index.sense") if not (WORDNET / name).exists()]
    if missing:
        raise SystemExit(f"{WORDNET} lacks {', '.join(missing)}: apt-get install wordnet-base wordnet-sense-index")
    corpora = Path(tempfile.mkdtemp(prefix="nltk-")) / "corpora"
    for name in ("wordnet", "omw-1.4", "stopwords"):
        (corpora / name).mkdir(parents=True)
    for path in WORDNET.iterdir():
        if path.is_file():
            shutil.copy(path, corpora / "wordnet" / path.name)
    names = [name.strip().split() for name in LEXNAMES.split(",")]
    rows = "".join(f"{i:02d}\t{name}\t{part}\n" for i, (name, part) in enumerate(names))
    (corpora / "wordnet/lexnames").write_text(rows)
    (corpora / "wordnet/README").write_text("")
    (corpora / "stopwords/english").write_text("\n".join(sorted(stop_words)) + "\n")
    os.environ["NLTK_DATA"] = str(corpora.parent)
    return corpora.parent


def stub_flair():
    "Stand-ins for what TextAttack imports from flair"
    flair, data, models = (types.ModuleType(name) for name in ("flair", "flair.data", "flair.models"))
    data.Tokenizer, data.Sentence, models.SequenceTagger = (type(name, (), {}) for name in
                                                            ("Tokenizer", "Sentence", "SequenceTagger"))
    flair.data, flair.models, flair.device = data, models, "cpu"
    sys.modules.update({module.__name__: module for module in (flair, data, models)})


def stub_nlpaug_tagger():
    "Every word is a noun"
    from nlpaug.model.word_dict.wordnet import WordNet

    WordNet.pos_tag = classmethod(lambda cls, tokens: [(token, "NN") for token in tokens])
