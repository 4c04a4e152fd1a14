"""Runs the cases of a module on several processes of one machine, and reports what went wrong.

    python -m ranks.launch ranks.replicated 2 folder

imports everything once, then forks the ranks. Each case is a function of a `Place`; all ranks run
all cases, in order. `run` does this in a process of its own.
"""

import datetime
import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

TIMEOUT = datetime.timedelta(seconds=60)
LIMIT = 300  # seconds for all cases


@dataclass(frozen=True)
class Place:
    """Where a case runs: before there are ranks (rank 0 of 1), or on one of them."""

    rank: int
    ranks: int
    folder: Path

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """This rank's rows."""
        return rows[self.rank :: self.ranks]


def run(module: str, ranks: int, folder: Path) -> dict[str, str]:
    """What went wrong, by case."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent)])
    command = [sys.executable, "-m", "ranks.launch", module, str(ranks), str(folder)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    files = sorted(folder.glob("result-*.json"))
    assert done.returncode == 0 and len(files) == ranks, done.stdout + done.stderr
    found = dict[str, str]()
    for file in files:
        for case, text in json.loads(file.read_text()).items():
            found[case] = found.get(case) or text
    assert found, "no case ran"
    return {case: text for case, text in found.items() if text}


def work(cases, expected, rank: int, ranks: int, folder: Path, port: int) -> None:
    """All cases on one rank."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    results = {}
    dist.init_process_group("gloo", rank=rank, world_size=ranks, timeout=TIMEOUT)
    for case in cases:
        results[case.__name__] = ""
        try:
            torch.manual_seed(0)
            compare(case(Place(rank, ranks, folder)), expected[case.__name__])
        except BaseException:
            results[case.__name__] = f"rank {rank} of {ranks}: {traceback.format_exc()}"
            break  # the other ranks may wait for this one
    (folder / f"result-{rank}.json").write_text(json.dumps(results))


def alone(case, folder: Path):
    """What a case gives in one process."""
    torch.manual_seed(0)
    own = folder / "alone"
    own.mkdir(exist_ok=True)
    return case(Place(0, 1, own))


def compare(found, expected) -> None:
    """Equal to 1e-12."""
    found, expected = found or {}, expected or {}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            torch.as_tensor(found[name]),
            torch.as_tensor(value),
            rtol=1e-12,
            atol=1e-12,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def main(module: str, ranks: int, folder: Path) -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="leco.run: (mu ended|.*indices and masks)")
    cases = importlib.import_module(module).CASES
    expected = {case.__name__: alone(case, folder) for case in cases}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(ranks):
        child = os.fork()
        if not child:
            try:
                work(cases, expected, rank, ranks, folder, port)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return max(os.waitpid(child, 0)[1] for child in children)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])) != 0)
