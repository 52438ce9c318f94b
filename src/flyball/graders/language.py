"""Which language a text is in, as far as its letters and its commonest words tell. No model, no list of names.

Scripts are told by their letters. Among languages of the Latin script the function words decide: of those found, the
share that belongs to a language. Words that several of these languages share count for each of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

_SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "zh": ("CJK",), "ja": ("HIRAGANA", "KATAKANA", "CJK"), "ko": ("HANGUL",), "ru": ("CYRILLIC",),
    "uk": ("CYRILLIC",), "ar": ("ARABIC",), "he": ("HEBREW",), "el": ("GREEK",), "hi": ("DEVANAGARI",),
    "th": ("THAI",),
}  # fmt: skip
_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to in is that for it with as was on are be this by have from not you your we which will i",
        "fr": "le la les de des du et à un une est que qui dans pour pas sur avec vous nous il elle ce cette je votre",
        "de": "der die das und zu den von ist mit des auf für nicht ein eine als auch sie ich wir ihr ihre im dem es",
        "es": "el la los las de y que en un una es por con para no se su sus del al lo usted nosotros pero está esta",
        "it": "il lo la i gli le di e che un una è per con non si del della sono ho lei noi questo questa nel alla",
        "pt": "o a os as de e que um uma é por com para não se do da em no na você nós mas está este esta seu sua",
        "nl": "de het een en van is dat op te in voor met niet zijn u wij uw ik je deze dit aan ook maar bij of er",
    }.items()
}
LANGUAGES = tuple(sorted((*_WORDS, *_SCRIPTS)))
FEWEST_WORDS = 4
"""Function words below which a text in Latin letters is too short to tell."""


def share_in(text: str, language: str) -> float | None:
    """Return how much of a text is in a language, in [0, 1]; None when it is too short to tell.

    Code blocks and addresses are left out. For a script: the share of letters; for a Latin language: that share times
    the share of function words.
    """
    prose = re.sub(r"```.*?```|`[^`]*`|https?://\S+|(?<!\S)[^\s@]+@\S+", " ", text, flags=re.DOTALL)
    letters = [unicodedata.name(char, "") for char in prose if char.isalpha()]
    if not letters:
        return None
    scripts = _SCRIPTS.get(language, ("LATIN",))
    in_script = sum(name.startswith(scripts) for name in letters) / len(letters)
    if language in _SCRIPTS:
        return in_script
    words = re.findall(r"[^\W\d_]+", prose.casefold())
    found = [word for word in words if any(word in known for known in _WORDS.values())]
    if in_script > 0.5 and len(found) < FEWEST_WORDS:
        return None
    mine = sum(word in _WORDS[language] for word in found) / len(found) if found else 0.0
    return in_script * mine


def language_of(text: str) -> str | None:
    """Return the language that most of a text is in, None when it cannot be told."""
    shares = {language: share for language in LANGUAGES if (share := share_in(text, language)) is not None}
    best = max(shares, key=lambda language: shares[language], default=None)
    return best if best is not None and shares[best] > 0.5 else None
