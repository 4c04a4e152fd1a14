"""The clock of a test in the place of that of the measures."""

import pytest
from clock import Clock

import leco
import leco.measure.latency


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leco.measure.latency, "timer", clock)
    return clock
