"""Every law over every case, and each law seen to fail on a broken compression."""

from dataclasses import replace

import pytest

from laws import broken
from laws.case import Case
from laws.cases import CASES
from laws.laws import LAWS as PLAIN_LAWS
from laws.laws_of_metric import METRIC_LAWS
from leco.compressions import ALL

LAWS = {**PLAIN_LAWS, **METRIC_LAWS}
FAULTS = [fault for fault in broken.FAULTS if fault.law in LAWS]


def applies(law: str, case: Case) -> bool:
    return (case.batch or law != "leading_dimensions_are_a_batch") and (
        case.idempotent or law != "idempotent"
    )


@pytest.mark.parametrize(
    ("law", "case"),
    [pytest.param(n, c, id=f"{n}-{c.name}") for n in LAWS for c in CASES if applies(n, c)],
)
def test_law(law, case):
    LAWS[law](case)


def test_every_compression_has_a_case():
    assert {type(case.compression) for case in CASES} == set(ALL)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault.compression).__name__)
def test_law_fails_on_a_broken_compression(fault):
    case = next(case for case in CASES if case.name == fault.case)
    LAWS[fault.law](case)
    with pytest.raises(AssertionError):
        LAWS[fault.law](replace(case, compression=fault.compression))


def test_every_law_has_a_broken_compression():
    assert {fault.law for fault in FAULTS} == set(LAWS)
