"""Draw damaged copies of a JSON object: keys dropped or added, values changed in value or in type."""

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 1, 2, 3, 2**31, 10**30]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["", " ", "a\nb", "\x1b[2J", "\ud800", "[red]", "<b>", "background", "🫀" * 200]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@st.composite
def damaged(draw: st.DrawFn, good: dict[str, Any]) -> Any:
    """Draw a copy of an object that differs in one place, at any depth of objects and lists in it."""
    copy = deepcopy(good)
    place: Any = copy
    while True:
        # In a list by index, in an object by key, or by one that is not there yet.
        key = draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        place = inner
    kind = draw(st.sampled_from(["change", "drop", "add", "repeat"]))
    if kind == "drop":
        del place[key]
    elif kind == "change":
        place[key] = draw(VALUES)
    elif isinstance(place, dict):
        place[draw(st.text(max_size=5))] = draw(VALUES)
    else:
        place.append(place[key] if kind == "repeat" else draw(VALUES))
    return copy
