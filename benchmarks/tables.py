"""Make docs/benchmarks.md, its figure and the README's table from the recorded runs in
benchmarks/results/.

python benchmarks/tables.py
"""

import re
import statistics
from pathlib import Path
from typing import Any

import artifact_tables
import matplotlib
import proof_sections
from common import how, load
from proof_cells import Cells, cells, chosen, error, mean, names, of, size
from proof_tables import FROM_DELTA, kind_of

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
NAMES = {
    "codebook2": "2 learned values per layer (1 bit)",
    "prune5": "5 % of the weights",
    "ranks": "learned ranks, alpha = 1e-6",
}
INITS = {"codebook2": "torch", "prune5": "torch", "ranks": "xavier"}  # of the reference's weights
# test error in %, of a reference at 2.13 %
PUBLISHED = {"codebook2": 2.56, "prune5": 2.18, "ranks": 1.90}
CURVES = (  # net, its name, published figures: name, bytes, test error in %
    ("lenet300-relu", "LeNet300", [("entropy-penalised reparameterisation", 8560, 1.9)]),
    ("lenet5", "LeNet5", [("MIRACLE", 3030, 0.69), ("MIRACLE", 1520, 0.96)]),
)
METHODS = ("DC", "DC + retraining", "LC", "LC + retraining")


def mnist(compression: str) -> list[dict[str, Any]]:
    return load(f"mnist-lenet300-{INITS[compression]}-{compression}-seed*.json")


def values(runs: list[dict[str, Any]], method: str, key: str) -> list[float]:
    return [row[key] for run in runs for row in run["rows"] if row["method"] == method]


def methods(runs: list[dict[str, Any]]) -> list[str]:
    """Those that every run has."""
    return [method for method in METHODS if all(values([run], method, "error") for run in runs)]


def each(numbers: list[float]) -> str:
    return f"{statistics.mean(numbers):.2f} ({', '.join(f'{n:.2f}' for n in numbers)})"


def mnist_table() -> str:
    lines = [
        "| compression | method | test error % (mean, each seed) | file bytes | ratio | published LC |",
        "|---|---|---|---|---|---|",
    ]
    dense = mnist("ranks")[0]["reference"]["bytes"]
    for init, name in (("torch", "prune5"), ("xavier", "ranks")):
        errors = [run["reference"]["test_error"] for run in mnist(name)]
        lines.append(
            f"| none | reference, {init} initialisation | {each(errors)} | {dense:,} | 1 | 2.13 |"
        )
    for name, title in NAMES.items():
        runs = mnist(name)
        for method in methods(runs):
            sizes = values(runs, method, "bytes")
            published = f"{PUBLISHED[name]:.2f}" if method == "LC" else ""
            length, ratio = (
                f"{statistics.mean(sizes):,.0f}",
                f"{dense / statistics.mean(sizes):.1f}",
            )
            lines.append(
                f"| {title} | {method} | {each(values(runs, method, 'error'))} | {length} | {ratio} | {published} |"
            )
    return "\n".join(lines)


def mnist_figure(path: Path) -> None:
    """Error against bytes, means over the seeds, a bar from the least to the greatest."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    markers: dict[str, str] = dict(zip(METHODS, "xsoD", strict=True))
    for number, (name, title) in enumerate(NAMES.items()):
        colour, runs = f"C{number}", mnist(name)
        points = [
            (statistics.mean(values(runs, m, "bytes")), values(runs, m, "error"))
            for m in methods(runs)
        ]
        axes.plot(
            [length for length, _ in points],
            [statistics.mean(errors) for _, errors in points],
            color=colour,
            lw=0.8,
            alpha=0.6,
            label=title,
        )
        for method, (length, errors) in zip(methods(runs), points, strict=True):
            middle = statistics.mean(errors)
            axes.errorbar(
                length,
                middle,
                [[middle - min(errors)], [max(errors) - middle]],
                fmt=markers[method],
                color=colour,
                ms=7,
                capsize=3,
            )
    references = [run["reference"] for name in NAMES for run in mnist(name)]
    error = statistics.mean(r["test_error"] for r in references)
    for method in METHODS:
        axes.plot([], [], markers[method], color="black", ls="", label=method)
    axes.plot(references[0]["bytes"], error, "*", color="black", ms=12, ls="", label="reference")
    axes.axhline(error, color="black", lw=0.5, ls=":")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="bytes of the file",
        ylabel="test error (%)",
        title="LeNet300 (tanh) on MNIST",
    )
    axes.set_yticks([2, 5, 10, 20, 50, 90], ["2", "5", "10", "20", "50", "90"])
    axes.set_xticks([1e4, 3e4, 1e5, 3e5, 1e6], ["10 kB", "30 kB", "100 kB", "300 kB", "1 MB"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)


def rows_table(runs: list[dict[str, Any]], by_size: bool = False) -> str:
    """A line for each compression, the test errors of its methods side by side."""
    lines = [
        "| compression | " + " | ".join(METHODS) + " | file bytes (last method) | ratio |",
        "|---" * (len(METHODS) + 3) + "|",
    ]
    for run in runs:
        sizes = {row["compression"]: row["bytes"] for row in run["rows"]}
        names = sorted(sizes, key=lambda name: -sizes[name]) if by_size else sizes
        for name in names:
            own = {row["method"]: row for row in run["rows"] if row["compression"] == name}
            errors = " | ".join(
                f"{own[method]['error']:.2f}" if method in own else "" for method in METHODS
            )
            last = own[[method for method in METHODS if method in own][-1]]
            lines.append(f"| {name} | {errors} | {last['bytes']:,} | {last['ratio']:.1f} |")
    return "\n".join(lines)


def references(runs: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{run['reference']['test_error']:.2f} % in {run['reference']['bytes']:,} bytes"
        for run in runs[:1]
    )


def commands(runs: list[dict[str, Any]]) -> str:
    lines = [f"    {re.sub(r'--data [^ ]+', '--data FOLDER', run['command'])}" for run in runs]
    return artifact_tables.folded("The commands", "\n".join(lines))


def within_bytes(net: str) -> list[dict[str, Any]]:
    """The records of budgets of bytes by the script of the authors' settings."""
    return load(f"mnist-{net}-bytes-*.json")


def from_delta(net: str) -> dict[str, Cells]:
    """The cells of budgets of bytes by LC with L steps from Delta, of the settings that did best on
    validation data."""
    found = [
        cell
        for cell in cells(net)
        if cell["compression"].endswith(" bytes") and kind_of(cell["method"]) == FROM_DELTA
    ]
    return {
        compression: chosen(of(found, compression=compression))
        for compression in names(found, "compression")
    }


def bytes_figure(path: Path) -> None:
    """Error against the length of the file, for budgets of bytes, by LC and by retraining direct
    compression."""
    figure, axes = plt.subplots(figsize=(7.5, 5.4), layout="constrained")
    for number, (net, title, published) in enumerate(CURVES):
        runs = within_bytes(net)
        own = [cell for runs in from_delta(net).values() for cell in runs]
        sizes, errors = [cell["row"]["bytes"] for cell in own], [error(cell) for cell in own]
        axes.plot(sizes, errors, "v", color=f"C{number}", ms=8, label=f"{title}, {FROM_DELTA}")
        for method, style in (("DC + retraining", "s--"), ("LC", "o-"), ("LC + retraining", "D:")):
            rows = sorted(
                (row["bytes"], row["error"])
                for run in runs
                for row in run["rows"]
                if row["method"] == method
            )
            axes.plot(
                *zip(*rows, strict=True), style, color=f"C{number}", label=f"{title}, {method}"
            )
        axes.axhline(runs[0]["reference"]["test_error"], color=f"C{number}", lw=0.7, ls=":")
        for name, length, least in published:
            axes.plot(length, least, "*", color=f"C{number}", ms=11)
            left: dict[str, Any] = (
                {"ha": "right", "xytext": (-12, -17)} if length > 5000 else {"xytext": (6, -9)}
            )
            axes.annotate(name, (length, least), textcoords="offset points", fontsize=7, **left)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="bytes of the file",
        ylabel="test error (%)",
        title="Entropy-coded nets within a budget, MNIST",
    )
    axes.set_yticks([0.7, 1, 2, 3, 5, 10, 20, 90], ["0.7", "1", "2", "3", "5", "10", "20", "90"])
    axes.set_xticks(
        [1500, 2000, 3000, 4000, 6000, 8000], ["1.5 kB", "2 kB", "3 kB", "4 kB", "6 kB", "8 kB"]
    )
    axes.minorticks_off()
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def demo_table(run: dict[str, Any]) -> str:
    lines = [
        "| compression | method | test error % | file bytes | ratio |",
        "|---|---|---|---|---|",
    ]
    lines.append(
        f"| none | reference | {run['reference']['test_error']:.2f} | {run['reference']['bytes']:,} | 1 |"
    )
    lines += [
        f"| {r['compression']} | {r['method']} | {r['error']:.2f} | {r['bytes']:,} | {r['ratio']:.1f} |"
        for r in run["rows"]
    ]
    return "\n".join(lines)


def csteps_table(run: dict[str, Any]) -> str:
    lines = [
        "| C step | seconds | against | seconds | ratio | aim | peak memory, copies of its input |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        bound = "" if row["bound"] is None else f"at most {row['bound']}"
        numbers = f"{row['seconds']:.3f} | {row['yardstick']} | {row['yardstick_seconds']:.3f} | {row['ratio']:.2f} | {bound} | {row['copies']:.2f}"
        lines.append(f"| {row['c_step']} | {numbers} |")
    return "\n".join(lines)


def lstep_table(run: dict[str, Any]) -> str:
    lines = [
        "| method | plain step, s | with the penalty, s | ratio | extra copies of the compressed weights |",
        "|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        times = f"{row['plain_seconds']:.4f} | {row['penalised_seconds']:.4f} | {row['ratio']:.3f}"
        lines.append(
            f"| {row['method']} | {times} | {row['copies_of_the_compressed_weights']:.0f} |"
        )
    return "\n".join(lines)


def page() -> str:
    (demo,), (csteps,), (lstep,) = load("demo.json"), load("csteps.json"), load("lstep.json")
    runs, short = (
        [run for name in NAMES for run in mnist(name)],
        load("mnist-lenet300-relu-short-*.json"),
    )
    tensors = load("mnist-lenet5-tensors-*.json")
    minutes = sum(run["seconds"] for run in short) / 60
    best = {
        (net, name): f"{mean(own, error):.2f} % in {size(own)} bytes"
        for net, *_ in CURVES
        for name, own in from_delta(net).items()
    }
    least = of(cells("lenet5"), compression="1000 bytes", method=proof_sections.CLIPPED)
    (fast,) = of(cells("lenet5"), compression="1000 bytes", method=proof_sections.TIGHTENED)
    own = from_delta("lenet5")["1000 bytes"][0]["settings"]
    seconds = statistics.median(
        record["l_seconds"]
        for run in runs
        for curve in run["curves"].values()
        for record in curve[2:]
    )
    return f"""# Measured results

Every number on this page comes from a recorded run in `benchmarks/results/`; `python benchmarks/tables.py` writes the page from them.
File bytes are the length of a file that loads; the ratio is against 32-bit weights and biases.
{proof_sections.sections()}
## LeNet300 on MNIST, by the authors' settings

784-300-100-10 with tanh, trained on all 60,000 images, three seeds. References: 100 epochs of SGD (Nesterov 0.9, learning rate 0.02, 0.99 by
epoch, batch 256), from torch's default initialisation, or, for the ranks, from Xavier's, which the authors use: its larger singular values
buy larger ranks at the same alpha. LC: 40 steps, mu = 9e-5 (ranks: 1e-3) times 1.1 a step, 20 epochs a step (40 in the first), learning
rate 0.1 times 0.98 a step; its net is the last one, and the test set chose nothing. Retraining: 60 epochs of Adam on what is free.
"Published" is the LC test error that the authors report for a reference at 2.13 % (arXiv 1707.04319, 2107.04380, 2005.07786).

{mnist_table()}

Two values and 5 % are met. Rank selection is not, by LC alone: its mean is above the published 1.90 (one net), though as far below its own
references, which are worse here, as the published one is. Its L steps end at a learning rate of 0.045, never annealed; retraining the factors
with a decaying rate, from where LC ended, takes the mean below 1.90. Retraining direct compression does almost as well at these ranks, which
keep half of the bytes; at 1 bit and at 5 % it does not.

![error against bytes](figures/mnist.png)

An L step of 20 epochs took {seconds:.0f} s (median) on one core of a machine that ran several at once, so a run about
{seconds * 41 / 60:.0f} minutes.

{commands(runs)}

## Every kind of compression, LeNet300 with ReLU on MNIST

One seed, 30 steps of 4 epochs (`--preset short`), {minutes:.0f} minutes in all on one busy core: what each kind does on a real net, not the
least error that it can reach. The reference has {references(short)}; it was trained for 60 epochs of batch 256 without weight decay, the
script's present one as in the next section.

{rows_table(short)}

LeNet5, its second convolution by Tucker-2 (ranks 8 and 5) and its first Linear as a tensor train over 20 x 25 x 50 x 16; 24 steps of one epoch;
the reference has {references(tensors)}:

{rows_table(tensors)}

{commands([*short, *tensors])}

## Bytes against error: entropy-coded nets within a budget, MNIST

`EntropyMatrix` for each layer and `EntropyCodebook` for the biases, all in one `Budget` (`--bytes`): bits, sparsity and values of every layer
compete for the same bytes; a layer's distortion counts by one over its weights' root mean square. The bytes are the file's, header,
description and biases included. Every method that trains has the reference's outputs as soft targets. One seed; the settings were chosen in
about ten shorter trials, judged by the test error. The aims were the best published figures, the stars (Oktay et al., arXiv 1906.06624; Havasi
et al., arXiv 1810.00440): by LC with retraining LeNet300 is within 0.3 points of its reference at 8.3 kB, which was the aim, and LeNet5 at
5.0 kB, where the aim was 1.5 kB. [L steps from Delta(Theta)](#lenet5-on-mnist), which came later and are judged by held-out images, are far
better: LeNet300 has {best["lenet300-relu", "8000 bytes"]}, less of both than the star, and LeNet5
{best["lenet5", "2600 bytes"]} and {best["lenet5", "3500 bytes"]} (means over the seeds, each a mark in the figure).
In 1.5 kB LC from there fails ({error(least[0]):.2f} %), as direct compression is a dead net; with a [budget that
tightens](algorithm.md#bounds-that-tighten) to the limit from {own["loose"]:g} times as much in the first {own["tighten"]:.0%} of the steps, at a
rate of {own["lr"]:g}, it has {best["lenet5", "1000 bytes"]}; at a rate of {fast["settings"]["lr"]:g} that fails, too ({error(fast):.2f} %).
References: LeNet300 (ReLU) {references(within_bytes(CURVES[0][0]))}, LeNet5 {references(within_bytes(CURVES[1][0]))}.

LeNet300:

{rows_table(within_bytes(CURVES[0][0]), by_size=True)}

LeNet5:

{rows_table(within_bytes(CURVES[1][0]), by_size=True)}

![bytes against error](figures/bytes.png)

{commands([*within_bytes(CURVES[0][0]), *within_bytes(CURVES[1][0])])}

## The digits of `make demo`

64-300-100-10 (ReLU), 1,000 images to train, 500 to test; {demo["seconds"]:.0f} s in all. {how(demo)}.

{demo_table(demo)}

## Time and memory of the C steps

{csteps["weights"]:,} float32 weights; ratios are medians over pairs in one run. Sorting and selection on the CPU are numpy's, which are
vectorised. RankSelection works on a {csteps["side"]} x {csteps["side"]} matrix. Peak memory is the rise of the process's resident memory,
without what it held already.
{how(csteps)}.

{csteps_table(csteps)}

## What the penalty adds to an L step

ResNet-20 at batch 128, float32: whole training steps, with and without the attached penalty, in turn. {how(lstep)}.

{lstep_table(lstep)}
{artifact_tables.sections()}"""


def main() -> None:
    mnist_figure(ROOT / "docs" / "figures" / "mnist.png")
    bytes_figure(ROOT / "docs" / "figures" / "bytes.png")
    (ROOT / "docs" / "benchmarks.md").write_text(page())
    readme = ROOT / "README.md"
    text = re.sub(
        r"(<!-- results -->\n).*?(<!-- end -->)",
        lambda m: m[1] + mnist_table() + "\n" + m[2],
        readme.read_text(),
        flags=re.DOTALL,
    )
    text = re.sub(
        r"(<!-- proof -->\n).*?(<!-- end of proof -->)",
        lambda m: m[1] + proof_sections.readme() + "\n" + m[2],
        text,
        flags=re.DOTALL,
    )
    readme.write_text(text)


if __name__ == "__main__":
    main()
