"""Read contracts back: what was written comes back, and what breaks a rule is refused in one line."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from data_pipeline.spec import Thresholds
from deploy.contract import Contract
from tests.helpers.damage import damaged
from tests.helpers.names import CLASSES, LABELS
from tests.helpers.smallest import CONTRACT

THRESHOLDS = Thresholds(sensitive=(0.1, 0.2, 0.5), specific=(0.7, 0.9, 0.5), rate=0.95)
WITH_THRESHOLDS = replace(CONTRACT, thresholds=THRESHOLDS)
FIELDS: dict[str, Any] = json.loads(WITH_THRESHOLDS.to_json())


def test_a_contract_comes_back() -> None:
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT
    odd = replace(CONTRACT, seg_classes=CLASSES, labels=LABELS)
    assert Contract.from_json(odd.to_json()) == odd
    assert Contract.from_fields(CONTRACT.to_fields()) == CONTRACT
    assert Contract.from_json(WITH_THRESHOLDS.to_json()) == WITH_THRESHOLDS
    # The first repositories were written without "levels", and those of weights without a calibration have no more.
    first = {key: value for key, value in FIELDS.items() if key not in ("levels", "thresholds")}
    assert Contract.from_fields(first) == CONTRACT
    assert "thresholds" not in CONTRACT.to_fields()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["x", "x", "z"]}, "labels must be different names, got 'x repeated'"),
        ({"labels": []}, r"labels must be 1 to 1000 names, got \(\)"),
        ({"labels": ["x", "a\nb"]}, r"each of labels must be one line of text, got 'a\\nb'"),
        ({"seg_classes": ["background"]}, r"seg_classes must be 2 to 256 names, got \('background',\)"),
        ({"seg_classes": None}, "seg_classes must be 2 to 256 names, got None"),
        ({"image_size": 64.5}, "image_size must be a whole number above 0, got 64.5"),
        ({"std": [0, 1, 1]}, r"std must be 3 numbers from 0.0001 to 1, got \(0, 1, 1\)"),
        ({"max_batch": True}, "max_batch must be a whole number above 0, got True"),
        ({"thresholds": None}, "thresholds must be a JSON object, got None"),
        ({"thresholds": {}}, r"thresholds must be an object with sensitive, specific, rate, got \[\]"),
        (
            {"thresholds": {"sensitive": [0], "specific": [1], "rate": 0.95}},
            r"thresholds must be 3 pairs, one for each of labels, got \(0,\)",
        ),
        ({"more": 1}, r"the served model's contract must be an object of .* alone, got \['more'\]"),
    ],
)
def test_each_field_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Contract.from_json(json.dumps(FIELDS | change))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the served model's contract must be a JSON object, got .*$"):
        Contract.from_json(text)


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(damaged(FIELDS))
def test_damaged_contracts_are_read_as_they_are_or_refused(fields: dict[str, Any]) -> None:
    try:
        contract = Contract.from_json(json.dumps(fields))
    except ValueError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 300
        return
    whole = {"levels": 65535, **fields}
    assert json.dumps(json.loads(contract.to_json()), sort_keys=True) == json.dumps(whole, sort_keys=True)
