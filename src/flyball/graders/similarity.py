"""How alike two texts are: the metrics of `text_similarity`, each a function (text, reference) -> [0, 1] (3.3).

OpenAI names the metrics and not their settings. Ours, so that a score can be worked out by hand:

    fuzzy_match   rapidfuzz WRatio after its default processing (lower case, only letters and digits), over 100
    bleu          sentence BLEU up to 4-grams (Papineni 2002), NIST's geometric smoothing (Chen and Cherry 2014)
    gleu          Google's BLEU: the lesser of n-gram precision and recall, n 1 to 4 (Wu et al. 2016, arXiv 1609.08144)
    meteor        NLTK's METEOR (Banerjee and Lavie 2005), alpha 0.9, beta 3, gamma 0.5, lower case, Porter stems
    rouge_1..5    F1 of n-grams (Lin 2004); rouge_l: F1 of the longest common subsequence; lower case, no stemming

Words are runs of letters and digits; BLEU, GLEU and METEOR also count every punctuation mark as one, and keep 94.0
together, as the tokenizer 13a of the BLEU campaigns does. METEOR matches synonyms by WordNet, which is data that NLTK
downloads; without it words and stems are matched, and scores say so. By its definition a perfect match of one word
is 0.5.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version

from rapidfuzz import fuzz, utils
from rapidfuzz.distance import LCSseq

Metric = Callable[[str, str], float]
_WORDS = re.compile(r"[^\W_]+")
_TOKENS = re.compile(r"\d+(?:[.,]\d+)+|\w+|[^\w\s]")

WITHOUT_WORDNET = (
    "METEOR without WordNet: exact words and stems only, synonyms count as different; "
    "`python -m nltk.downloader wordnet` installs the data"
)


def fuzzy_match(text: str, reference: str) -> float:
    """Weighted ratio of rapidfuzz."""
    return fuzz.WRatio(text, reference, processor=utils.default_process) / 100


def rouge_n(text: str, reference: str, n: int) -> float:
    """F1 of n-grams, counted as often as they occur."""
    ours, theirs = _ngrams(_WORDS.findall(text.lower()), n), _ngrams(_WORDS.findall(reference.lower()), n)
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words."""
    ours, theirs = _WORDS.findall(text.lower()), _WORDS.findall(reference.lower())
    return _f1(LCSseq.similarity(ours, theirs), len(ours), len(theirs))


def bleu(text: str, reference: str) -> float:
    """Smoothed sentence BLEU; 0 for an empty text."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    ours, theirs = _TOKENS.findall(text), _TOKENS.findall(reference)
    if not ours or not theirs:
        return 0.0
    # A text of fewer than four words has no 4-grams; asked for, they would count as misses.
    order = min(4, len(ours))
    return float(sentence_bleu([theirs], ours, (1 / order,) * order, SmoothingFunction().method3))


def gleu(text: str, reference: str) -> float:
    """Google's BLEU; 0 for an empty text."""
    from nltk.translate.gleu_score import sentence_gleu

    ours, theirs = _TOKENS.findall(text), _TOKENS.findall(reference)
    return float(sentence_gleu([theirs], ours)) if ours and theirs else 0.0


def meteor(text: str, reference: str) -> float:
    """METEOR, with synonyms when WordNet is installed (`has_wordnet`)."""
    from nltk.translate.meteor_score import single_meteor_score

    ours, theirs = _TOKENS.findall(text), _TOKENS.findall(reference)
    if not ours or not theirs:
        return 0.0
    if has_wordnet():
        return float(single_meteor_score(theirs, ours))
    return float(single_meteor_score(theirs, ours, wordnet=_NoSynonyms()))


@functools.cache
def has_wordnet() -> bool:
    """Whether NLTK finds its WordNet data."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return False
    return True


def libraries(metric: str) -> list[str]:
    """Return what a metric's numbers depend on, with versions."""
    if metric == "fuzzy_match" or metric == "rouge_l":
        return [f"rapidfuzz {version('rapidfuzz')}"]
    if metric == "meteor":
        return [f"nltk {version('nltk')}", f"wordnet {has_wordnet()}"]
    return [f"nltk {version('nltk')}"] if metric in ("bleu", "gleu") else []


class _NoSynonyms:
    def synsets(self, word: str) -> list[object]:
        return []


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


METRICS: Mapping[str, Metric] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{n}": functools.partial(rouge_n, n=n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}
"""`cosine` is not here: it needs the embeddings of a server (`graders/model.py`)."""
