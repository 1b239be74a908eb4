"""JSON that PostgreSQL refuses, found in all texts at once.

Only asked for once PostgreSQL has refused a COPY: no load pays for it that has nothing to find. A text is reduced by
regular expressions until a single value is left, or nothing changes any more.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

# What stands for a string, and for any other value: characters that JSON does not allow anywhere.
_STRING, _VALUE = "\x01", "\x02"
_NEVER = r"[\x00-\x08\x0b\x0c\x0e-\x1f]"
_STRINGS = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_SPACES = r"[ \t\n\r]*([\[\]{},:])[ \t\n\r]*"
_SCALARS = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null"
_ANY = "[\x01\x02]"
_NESTED = rf"\[(?:{_ANY}(?:,{_ANY})*)?\]|\{{(?:{_STRING}:{_ANY}(?:,{_STRING}:{_ANY})*)?\}}"
# A numeric has at most 131,072 digits before its point; who writes such an exponent means no number.
_TOO_LARGE = r"[0-9][eE][+-]?0*[1-9][0-9]{5,}"
_PAIRS = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALVES = r"\\u[dD][89a-fA-F]"
_DEEPEST = 5000  # PostgreSQL's stack ends somewhere there


def refused(texts: pa.Array, *, is_jsonb: bool) -> pa.Array:
    """Which texts are no JSON, or none that jsonb takes; NULL is fine."""
    left = pc.replace_substring_regex(texts, _STRINGS, _STRING)
    wrong = pc.match_substring_regex(texts, _NEVER)
    if is_jsonb:
        # Escaped backslashes step aside: every other backslash begins an escape.
        hidden = pc.replace_substring(texts, "\\\\", "\x00")
        halves = pc.match_substring_regex(pc.replace_substring_regex(hidden, _PAIRS, ""), _HALVES)
        nul = pc.match_substring(hidden, "\\u0000")
        wrong = pc.or_(wrong, pc.or_(pc.or_(halves, nul), pc.match_substring_regex(left, _TOO_LARGE)))
    left = pc.replace_substring_regex(pc.utf8_trim(left, " \t\n\r"), _SPACES, r"\1")
    left = pc.replace_substring_regex(left, _SCALARS, _VALUE)
    is_value = _reduced(left)
    return pc.or_(wrong, pc.invert(is_value)).fill_null(False)


def _reduced(left: pa.Array) -> pa.Array:
    """Whether a single value is left once arrays and objects, from the inside out, are values."""
    done = pa.array([_STRING, _VALUE])
    for _ in range(_DEEPEST):
        if pc.all(pc.is_in(left, done)).as_py():
            break
        fewer = pc.replace_substring_regex(left, _NESTED, _VALUE)
        if fewer.equals(left):
            break
        left = fewer
    return pc.if_else(left.is_valid(), pc.is_in(left, done), True)
