"""Runs cases on several processes of one machine, and reports what went wrong.

    python -m ranks.launch 2 folder

imports everything once, then forks the ranks. Each case is a function of a `Place`; all ranks run
all cases, in order. `run` does this in a process of its own.
"""

import datetime
import json
import os
import socket
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from ranks import calibrated, replicated, sharded
from ranks.place import Place, compare, key

TIMEOUT = datetime.timedelta(seconds=300)
LIMIT = 1200  # seconds for all cases; some 20 on a machine with nothing else to do


def run(ranks: int, folder: Path) -> dict[str, str]:
    """What went wrong, by case."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent)])
    command = [sys.executable, "-m", "ranks.launch", str(ranks), str(folder)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    files = sorted(folder.glob("result-*.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(files) == ranks
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
        results[key(case)] = ""
        try:
            torch.manual_seed(0)
            compare(case(Place(rank, ranks, folder / "ranks")), expected[key(case)])
        except BaseException:
            results[key(case)] = f"rank {rank} of {ranks}: {traceback.format_exc()}"
            break  # the other ranks may wait for this one
    (folder / f"result-{rank}.json").write_text(json.dumps(results))


def alone(case, folder: Path):
    """What a case gives in one process."""
    torch.manual_seed(0)
    (folder / "alone").mkdir(exist_ok=True)
    return case(Place(0, 1, folder / "alone"))


def main(ranks: int, folder: Path) -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="leco.run: (mu ended|.*indices and masks)")
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    cases = [*replicated.CASES, *calibrated.CASES, *sharded.CASES]
    expected = {key(case): alone(case, folder) for case in cases}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "ranks").mkdir()
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
    failed = max(os.waitpid(child, 0)[1] for child in children)
    for case in () if failed else sharded.AFTER:
        case(Place(0, 1, folder / "alone"), expected)
    return failed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])) != 0)
