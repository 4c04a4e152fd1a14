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
from leco.algorithm.interrupts import uninterrupted

HERE, ROOT = Path(__file__).parent, Path(leco.__file__).parents[1]


def consistent(problem: Problem, result: leco.Result) -> None:
    """The model and the LC are in the state of the last record, and the best net can be had."""
    lc, last = problem.lc, result.records[-1]
    assert lc.record()[1:6] == last[1:6]
    for name, theta in lc.thetas.items():
        assert torch.equal(theta.decompress(), lc.delta[name].reshape(-1)), name
    lc.restore_(result.best)
    for name, p in lc.params.items():
        assert torch.equal(p, lc.delta[name]), name


def test_an_interrupt_waits_until_the_work_is_done():
    done = []
    with pytest.raises(KeyboardInterrupt):
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


@pytest.mark.filterwarnings("ignore:leco.run")
@pytest.mark.parametrize("from_delta", [False, True])
def test_an_interrupt_at_any_line_leaves_the_last_completed_step(from_delta):
    """At every 47th line of the algorithm that a run of two steps executes."""
    outcomes, at = {"raised": 0, "interrupted": 0}, 0
    while True:
        problem = Problem(leco.TopK(0.25))
        problem.train = lambda k, problem=problem: quick(problem)  # type: ignore[method-assign]
        before = [p.detach().clone() for p in problem.model.state_dict().values()]
        trace = Interrupting(at)
        earlier = sys.gettrace()
        sys.settrace(trace)
        try:
            result = problem.run(MUS[:2], tolerance=0, from_delta=from_delta)
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
        at += 47
    assert outcomes["interrupted"] > 10


def ended(place: str) -> bool:
    """Whether an interrupt came when the run was over."""
    return "loop.py" in place or "judge" in place


SCRIPT = """
import sys
import torch
from problem import MUS, Problem
import leco

torch.set_num_threads(1)
problem = Problem(leco.Codebook(3, exact=False))
train = problem.train

def told(k):
    print(k, flush=True)
    return train(k)

problem.train = told
result = problem.run(MUS, checkpoint=sys.argv[1], tolerance=0)
found = [problem.model.state_dict(), problem.lc.state_dict()["multipliers"], result.stopped]
found += [len(result.records), problem.lc.mu, result.records[-1].mu]
torch.save(found, sys.argv[2])
"""


def started(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    places = [str(folder / "run.checkpoint"), str(folder / "result")]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    return subprocess.Popen([*command, *places], stdout=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_a_signal_ends_anywhere_resumes_to_the_bit(tmp_path, how):
    whole = Problem(leco.Codebook(3, exact=False))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = whole.run(MUS, tolerance=0)
    torch.set_num_threads(threads)

    # A signal at a random moment after the start of a step
    step, part = (4, 0.3) if how == signal.SIGINT else (3, 0.7)
    with started(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= step:
                break
        time.sleep(0.02 * part)
        process.send_signal(how)
    if how == signal.SIGINT and (tmp_path / "result").exists():
        _, _, stopped, _, mu, last = torch.load(tmp_path / "result")
        assert stopped in ("interrupted", "schedule")
        assert mu == last

    # To the end
    with started(tmp_path) as process:
        process.communicate()
    assert process.returncode == 0
    model, multipliers, stopped, records, *_ = torch.load(tmp_path / "result")
    assert (stopped, records) == ("schedule", len(expected.records))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, model[name]), name
    for name, value in whole.lc.multipliers.items():
        assert torch.equal(value, multipliers[name]), name
    assert {p.name for p in tmp_path.iterdir()} == {"run.checkpoint", "result"}


def test_an_interrupt_before_the_first_record_is_raised():
    problem = Problem()
    before = [value.clone() for value in problem.model.state_dict().values()]

    def evaluate():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        problem.run(MUS, evaluate=evaluate)
    now = problem.model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True))


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("from_delta", [False, True])
def test_an_interrupt_in_an_l_step_or_an_evaluation_leaves_the_last_completed_step(
    rounds, from_delta
):
    calls = iter(range(100))
    problem = Problem(leco.TopK(0.5))

    def l_step(k: int) -> float:
        if next(calls) == 3 * rounds + rounds - 1:  # the last round of step 3
            problem.train(k)
            raise KeyboardInterrupt
        return problem.train(k)

    options = {"rounds": rounds, "from_delta": from_delta, "progress": False}
    tightening = lambda k: dict.fromkeys(problem.lc.tasks, leco.TopK(0.5 - 0.1 * min(k, 3)))  # noqa: E731
    with pytest.warns(UserWarning, match="interrupted in LC step 3"):
        result = leco.run(problem.lc, l_step, MUS, compressions=tightening, **options)
    assert len(result.records) == 4
    assert problem.lc.tasks["0.weight"].compression == leco.TopK(0.3)
    consistent(problem, result)

    # In the evaluation of step 3: its C step is done, and its record is there
    problem, evaluations = Problem(), iter(range(100))

    def evaluate():
        if next(evaluations) == 4:
            raise KeyboardInterrupt
        return problem.evaluate()

    with pytest.warns(UserWarning, match="interrupted in LC step 4"):
        result = problem.run(MUS, evaluate=evaluate, from_delta=from_delta)
    assert len(result.records) == 5
    assert result.records[4].compressed_loss != result.records[4].compressed_loss
    assert result.best_step < 4
    consistent(problem, result)


def quick(problem: Problem) -> float:
    """An L step of one iteration."""
    problem.model.train()
    problem.optimizer.zero_grad()
    loss = problem.model(torch.ones(4, 6, dtype=torch.float64)).square().sum()
    loss.backward()
    problem.optimizer.step()
    return float(loss.detach())
