"""Ctrl-C and kill -9 at any moment: the state of the last completed step."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from problem import MUS, Problem

import leco
from leco.algorithm import checkpoint as checkpoints
from leco.algorithm.interrupts import uninterrupted

HERE, ROOT = Path(__file__).parent, Path(leco.__file__).parents[1]


def consistent(problem: Problem, result: leco.Result) -> None:
    """The model and the LC are in the state of the last record, and the best net can be had."""
    lc, last = problem.lc, result.records[-1]
    assert lc.record()[:6] == last[:6]
    for name, theta in lc.thetas.items():
        assert torch.equal(theta.decompress(), lc.delta[name].reshape(-1)), name
    lc.restore_(result.best)
    for name, p in lc.params.items():
        assert torch.equal(p, lc.delta[name]), name


def test_an_interrupt_waits_until_the_work_is_done():
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_does_not_hide_an_error_and_other_threads_do_nothing():
    with pytest.raises(KeyboardInterrupt) as caught, uninterrupted():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("first")
    assert isinstance(caught.value.__context__, ValueError)
    found = []

    def elsewhere() -> None:
        with uninterrupted():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


class Interrupting:
    """Sends SIGINT at the n-th line that runs in the files of the algorithm."""

    FILES = tuple(f"algorithm/{name}.py" for name in ("lc", "run", "loop", "rollback", "record"))

    def __init__(self, at: int):
        self.left, self.place = at, ""

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.endswith((*self.FILES, "/contextlib.py")):
            return None
        if event == "line" and self.left >= 0:
            self.left -= 1
            if self.left < 0:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self


@pytest.mark.filterwarnings("ignore:leco.run. interrupted")
@pytest.mark.parametrize("from_delta", [False, True])
def test_an_interrupt_at_any_line_leaves_the_last_completed_step(from_delta):
    """At every 13th or so of the lines of the algorithm that a run of three steps executes."""
    outcomes, at = {"raised": 0, "interrupted": 0}, 0
    while True:
        problem = Problem(leco.TopK(0.25))
        problem.train = lambda k, problem=problem: quick(problem)  # type: ignore[method-assign]
        before = [p.detach().clone() for p in problem.model.state_dict().values()]
        trace = Interrupting(at)
        earlier = sys.gettrace()
        sys.settrace(trace)
        try:
            result = problem.run(MUS[:3], tolerance=0, from_delta=from_delta)
        except KeyboardInterrupt:
            outcomes["raised"] += 1
            result = None
        finally:
            sys.settrace(earlier)
        if trace.left >= 0:
            break
        if result is not None:
            assert result.stopped == "interrupted", trace.place
            outcomes["interrupted"] += 1
            consistent(problem, result)
        else:
            now = problem.model.state_dict().values()
            unchanged = all(torch.equal(a, b) for a, b in zip(now, before, strict=True))
            assert unchanged or ended(trace.place), trace.place
        at += 13
    assert outcomes["interrupted"] > 50


def ended(place: str) -> bool:
    """Whether an interrupt came when the run was over."""
    return "loop.py" in place or "judge" in place


def quick(problem: Problem) -> float:
    """An L step of one iteration."""
    problem.model.train()
    problem.optimizer.zero_grad()
    loss = problem.model(torch.ones(4, 6, dtype=torch.float64)).square().sum()
    loss.backward()
    problem.optimizer.step()
    return float(loss.detach())
