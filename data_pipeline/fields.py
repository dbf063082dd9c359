"""State the rules of fields that are read from files, and refuse in one line what breaks one.

Checkpoints, contracts and data sources name their fields, classes and labels by the same rules.
"""

import json
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import Any

MOST_CLASSES = 256  # a mask is stored in bytes
MOST_LABELS = 1000
INT32 = 2**31 - 1  # the largest size that engines and the server take
MOST_SHOWN = 120  # characters of a value in a message
# Characters that are no text: of control (a newline, a terminal's escape), lone surrogates, which no file can hold, and
# separators of lines and paragraphs.
NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})


def require(holds: bool, field: str, rule: str, value: object) -> None:
    """Raise ValueError with the field, its rule and the value found unless `holds`."""
    if not holds:
        raise ValueError(f"{field} must be {rule}, got {shown(value)}")


def shown(value: object) -> str:
    """Return a value as a message shows it: as Python writes it, cut where it is long or deep."""
    text = reprlib.repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def is_whole(value: object, low: int, high: int) -> bool:
    """Return whether a value is an int from `low` to `high`, and no bool."""
    # The exact type, because True is an int as well.
    return type(value) is int and low <= value <= high


def is_number(value: object, low: float, high: float) -> bool:
    """Return whether a value is an int or a float from `low` to `high`, and neither a bool nor NaN."""
    return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


def are_whole(values: object, low: int, high: int) -> bool:
    """Return whether `values` is a tuple of ints from `low` to `high`."""
    return isinstance(values, tuple) and all(is_whole(value, low, high) for value in values)


def are_numbers(values: object, low: float, high: float) -> bool:
    """Return whether `values` is a tuple of numbers from `low` to `high`, in the sense of `is_number`."""
    return isinstance(values, tuple) and all(is_number(value, low, high) for value in values)


def is_line(value: object) -> bool:
    """Return whether a value is one line of text that is not blank, in any script and of any length."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and not any(unicodedata.category(character) in NO_TEXT for character in value)
    )


def as_line(text: str) -> str:
    """Replace what is not one line of text by its escape, so that a file of any name can be listed in a table."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in NO_TEXT else character
        for character in text
    )


def require_names(names: object, field: str, least: int, most: int) -> None:
    """Raise ValueError unless `names` is a tuple of `least` to `most` names, each one line of text and none repeated.

    Names may hold anything that is text: brackets, markup, emoji, slashes, any script.
    """
    require(isinstance(names, tuple) and least <= len(names) <= most, field, f"{least} to {most} names", names)
    assert isinstance(names, tuple)
    for name in names:
        require(is_line(name), f"each of {field}", "one line of text", name)
    repeated = sorted({name for name in names if names.count(name) > 1})
    require(not repeated, field, "different names", f"{', '.join(repeated)} repeated")


def require_keys(fields: dict[str, Any], what: str, needed: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raise ValueError unless an object has all of the keys needed, and no others but the optional ones."""
    missing = [key for key in needed if key not in fields]
    unknown = [key for key in fields if key not in (*needed, *optional)]
    require(not missing, what, f"an object with {', '.join(missing)}", list(fields))
    require(not unknown, what, f"an object of {', '.join((*needed, *optional))} alone", unknown)


def read_object(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object whose lists become tuples.

    Raises ValueError where the text is no JSON or not an object, or names a field twice.
    """
    try:
        fields = json.loads(text, object_pairs_hook=each_once)
    # The parser goes as deep as the brackets do.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be a JSON object, got {shown(text)} ({error})") from None
    return object_of(fields, what)


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object, or raise ValueError where one stands twice: readers take either of them."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice")
    return fields


def object_of(value: object, what: str) -> dict[str, Any]:
    """Return a value of JSON whose lists have become tuples, or raise ValueError where it is not an object."""
    require(isinstance(value, dict), what, "a JSON object", value)
    assert isinstance(value, dict)
    # JSON has no tuples, and what holds lists would not equal what was written.
    return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
