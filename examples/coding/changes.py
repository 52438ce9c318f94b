"""What was done to the real code: each change is one replacement in one file, undone by who repairs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """`old` stood in `path` of the package `repository`; `new` stands there now. `report`: a user's words."""

    repository: str
    path: str
    old: str
    new: str
    report: str
    tests: str = ""


CHANGES: dict[str, Change] = {
    "encode-escaped": Change(
        "mdurl",
        "mdurl/_encode.py",
        "if keep_escaped and code == 0x25 and i + 2 < l:",
        "if keep_escaped and code == 0x25 and i + 3 < l:",
        "A percent sequence at the very end of a text is encoded again: 'a%20' becomes 'a%2520'.",
        """
def test_end(call):
    assert call("mdurl.encode", "a%20") == "a%20"
    assert call("mdurl.encode", "x%ff") == "x%ff"

def test_middle_and_broken(call):
    assert call("mdurl.encode", "a%20b c") == "a%20b%20c"
    assert call("mdurl.encode", "a%2") == "a%252"
    assert call("mdurl.encode", "%zz") == "%25zz"
""",
    ),
    "encode-ascii": Change(
        "mdurl",
        "mdurl/_encode.py",
        "        if code < 128:\n",
        "        if code <= 128:\n",
        "Encoding the character U+0080 raises an IndexError.",
        """
def test_border(call):
    assert call("mdurl.encode", chr(128)) == "%C2%80"
    assert call("mdurl.encode", chr(127)) == "%7F"

def test_others(call):
    assert call("mdurl.encode", "\\u00fc/\\u20ac") == "%C3%BC/%E2%82%AC"
""",
    ),
    "decode-case": Change(
        "mdurl",
        "mdurl/_decode.py",
        "flags=re.IGNORECASE",
        "flags=0",
        "Percent sequences with capital letters are not decoded: '%C3%BC' stays as it is.",
        """
def test_capitals(call):
    assert call("mdurl.decode", "%C3%BC") == "\\u00fc"
    assert call("mdurl.decode", "%c3%BC%20") == "\\u00fc "

def test_reserved(call):
    assert call("mdurl.decode", "a%2Fb%20") == "a%2Fb "
""",
    ),
    "ranges-run": Change(
        "idna",
        "idna/intranges.py",
        "current_range[-1] + 1))",
        "current_range[-1]))",
        "intranges_from_list loses the last number of every run, so intranges_contain denies it.",
        """
def test_round(call):
    ranges = call("idna.intranges.intranges_from_list", [1, 2, 3, 7])
    assert [call("idna.intranges.intranges_contain", n, ranges) for n in (0, 1, 3, 4, 7, 8)] == [
        False, True, True, False, True, False
    ]

def test_empty(call):
    assert call("idna.intranges.intranges_from_list", []) == []
""",
    ),
    "encode-slow": Change(
        "mdurl",
        "mdurl/_encode.py",
        "        code = ord(string[i])\n",
        "        code = ord(string[i])\n        encode_cache.clear()\n        cache = get_encode_cache(exclude)\n",
        "mdurl.encode is slow for long texts.",
    ),
    "decode-slow": Change(
        "mdurl",
        "mdurl/_decode.py",
        "    seq = match.group()\n",
        "    seq = match.group()\n    decode_cache.clear()\n    cache = get_decode_cache(DECODE_DEFAULT_CHARS)\n",
        "mdurl.decode is slow for texts with many percent sequences.",
    ),
}
CASES: dict[str, tuple[str, list[list[str]]]] = {
    "encode-slow": ("mdurl.encode", [["a b/\u00fc" * 2000], ["%20" * 200], [""]]),
    "decode-slow": ("mdurl.decode", [["%20a%2F" * 8000], ["%C3%BC" * 20], [""]]),
}
"""The function to make faster and the arguments it is timed with."""

QUESTIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "encode-default": (
        "mdurl",
        "Which constant holds the characters that mdurl.encode leaves alone by default, and in which file?",
        ("ENCODE_DEFAULT_CHARS", "_encode.py"),
    ),
    "decode-regex": (
        "mdurl",
        "Which function replaces a run of percent sequences in mdurl.decode, and from which standard module comes the "
        "function that calls it?",
        ("repl_func_with_cache", "re"),
    ),
    "ranges-pack": (
        "idna",
        "By how many bits does idna.intranges shift the start of a range, and which module finds a number's place?",
        ("32", "bisect"),
    ),
}
"""Repository, question, and the facts that an answer has to state."""
