"""Name classes and labels by coded concepts, which a small table of the user's can override."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.fields import is_line, object_of, read_object, require, require_keys

# A scheme of this project's own: names that begin with 99 are free for anybody.
PRIVATE = "99RESFORMER"
Concept = tuple[str, str, str]  # value, scheme, meaning
ALTERED: Concept = ("49755003", "SCT", "Morphologically Altered Structure")
# Of the shipped checkpoints' classes, those that SNOMED CT's terms in DICOM's own lists name.
TYPES: dict[str, Concept] = {"lesion": ("52988006", "SCT", "Lesion")}
LONGEST_VALUE, LONGEST_MEANING = 16, 64  # characters that DICOM takes
HASHED = 8


@dataclass(frozen=True)
class Codes:
    """Hold the concepts that a user's table gives.

    types: of classes and labels, by their names.
    categories: of classes.
    """

    types: Mapping[str, Concept] = field(default_factory=dict)
    categories: Mapping[str, Concept] = field(default_factory=dict)

    def type_of(self, name: str) -> Concept:
        """Return the concept of a class or a label: the table's, a known one, or one of this project's own scheme."""
        return self.types.get(name) or TYPES.get(name) or own_concept(name)

    def category_of(self, name: str) -> Concept:
        """Return the category of a class."""
        return self.categories.get(name, ALTERED)


def own_concept(meaning: str) -> Concept:
    """Return a concept of this project's own scheme, whose value no other meaning has."""
    # Values are short and plain, and names are any text: some letters for people, and a hash to tell them apart.
    digest = hashlib.sha256(meaning.encode()).hexdigest()[:HASHED].upper()
    letters = "".join(one for one in meaning.upper() if one.isascii() and one.isalnum())
    return letters[: LONGEST_VALUE - HASHED] + digest, PRIVATE, meaning[:LONGEST_MEANING]


def read_codes(file: Path) -> Codes:
    """Read a table: `{"NAME": {"type": [value, scheme, meaning], "category": [value, scheme, meaning]}}`.

    Raises ValueError where it is none, and OSError where it cannot be read.
    """
    types: dict[str, Concept] = {}
    categories: dict[str, Concept] = {}
    try:
        text = file.read_text("utf-8-sig")  # editors on Windows begin files with a mark
    except UnicodeDecodeError:
        raise ValueError(f"{file} must be a JSON object, and is no text") from None
    for name, entry in read_object(text, str(file)).items():
        fields = object_of(entry, f"{file}: {name}")
        require_keys(fields, f"{file}: {name}", ("type",), ("category",))
        types[name] = _concept(fields["type"], f"{file}: {name}")
        if "category" in fields:
            categories[name] = _concept(fields["category"], f"{file}: {name}")
    return Codes(types, categories)


def _concept(value: Any, what: str) -> Concept:
    limits = (LONGEST_VALUE, LONGEST_VALUE, LONGEST_MEANING)
    holds = isinstance(value, tuple) and len(value) == 3 and all(is_line(one) for one in value)
    holds = holds and all(len(one) <= limit for one, limit in zip(value, limits, strict=True))
    require(holds, what, "a list of value, scheme (16 characters each) and meaning (64)", value)
    value_, scheme, meaning = value
    return value_, scheme, meaning
