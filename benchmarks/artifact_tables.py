"""The part of docs/benchmarks.md about files: their length, the time to load them, the speed of the
nets that compute from them."""

from typing import Any

from common import how, load

TITLES = {
    "lenet300": "LeNet300",
    "lenet300-relu": "LeNet300 (ReLU)",
    "lenet5": "LeNet5",
    **{f"resnet{depth}": f"ResNet-{depth}" for depth in (20, 32, 56, 110)},
    "vgg16": "VGG16",
    "minilm": "all-MiniLM-L6-v2",
}
AIMS = (  # net, how the variant's name begins, batch, at least so many times faster than dense
    ("Linear 2048 x 2048", "pair of rank 64", 64, 8.0),
    ("resnet56", "half of the", 64, 1.5),
)


def sections() -> str:
    """Those that have a record."""
    parts = {"files": files, "load": loading, "latency": latency}
    made = [
        make(run[part])
        for run in load("artifact.json")
        for part, make in parts.items()
        if part in run
    ]
    made += [coding(run) for run in load("coding.json")] + [fuzz(run) for run in load("fuzz.json")]
    return "".join(f"\n{text}\n" for text in made)


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]
    )


def folded(summary: str, text: str) -> str:
    """Seen when the summary is clicked."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def title(row: dict[str, Any]) -> str:
    net: str = row["net"]
    return TITLES.get(net, net)


def references(run: dict[str, Any]) -> str:
    def text(net: str, found: dict[str, Any]) -> str:
        trained = (
            f", {found['epochs']} epochs, {found['test_error']:.2f} % test error"
            if "epochs" in found
            else ""
        )
        return f"{TITLES.get(net, net)} ({found['data']}{trained})"

    return ", ".join(text(*item) for item in run["references"].items())


def commands(run: dict[str, Any]) -> str:
    """How to train the nets, and the run itself."""
    nets = [found["command"] for found in run["references"].values() if "epochs" in found]
    return "\n".join(f"    {line}" for line in [*nets, run["command"]])


def files(run: dict[str, Any]) -> str:
    head = [
        "net",
        "compression",
        "file bytes",
        "32-bit weights / file",
        "file over the entropy bound",
        "zstd of the weights / file",
        "zstd of packed codes / file",
    ]
    rows = []
    for row in run["rows"]:
        own = row["bytes"]
        ratios = [f"{own - row['entropy_bound']:+,} ({own / row['entropy_bound'] - 1:+.1%})"]
        ratios += [
            f"{row[key]:,} ({row[key] / own:.2f})" for key in ("zstd_of_weights", "zstd_of_packed")
        ]
        rows.append(
            [title(row), row["compression"], f"{own:,}", f"{row['dense_bytes'] / own:.1f}", *ratios]
        )
    return f"""## The length of a file

Each layer's weight (of the transformer, each embedding too) compressed by itself and directly, which trains nothing: the nets serve to measure
files, and need not be trained to the end. {references(run)}.
The bound is that of a code for each stream of integers by how often its symbols occur, plus the other tensors (floats of Theta, biases,
batch norms) as raw bytes; a file can be below it, since it codes floats too, and some streams by their place. `zstd -19` gets, in one
piece, the decompressed weights with all other tensors; or all integers at a fixed width with the floats and the other tensors.

{table(head, rows)}

{commands(run)}"""


def setting(run: dict[str, Any]) -> str:
    of = run["machine"]
    threads = f"{of['threads']} thread{'s' * (of['threads'] > 1)}"
    return f"torch {run['versions']['torch']}, {of['processor']}, {threads}, load average before {run['load_average']:.1f}"


def milliseconds(found: dict[str, float]) -> str:
    return f"{1000 * found['seconds']:.3g} ({1000 * found['least_seconds']:.3g})"


def loading(run: dict[str, Any]) -> str:
    ways = ["torch.load", "leco.load", "leco.load(packed=True)"]
    head = [
        "net",
        "compression",
        "dense file, bytes",
        "file, bytes",
        *(f"{way}, ms" for way in ways),
    ]
    rows = [
        [
            title(row),
            row["compression"],
            f"{row['dense_bytes']:,}",
            f"{row['bytes']:,}",
            *(milliseconds(row[way]) for way in ways),
        ]
        for row in run["rows"]
    ]
    return f"""## The time to load a file

Into a net that exists, from the system's cache, in turns: `torch.load(weights_only=True)` and `load_state_dict` of the decompressed net, `leco.load`
of the file, checked and decoded, and the same with packed layers. Medians (minima) of {run["repeats"]}. {setting(run)}.

{table(head, rows)}

    {run["command"]}"""


def aims(run: dict[str, Any]) -> str:
    lines = []
    for net, start, batch, least in AIMS:
        for row in run["rows"]:
            if row["net"] == net and row["variant"].startswith(start) and row["batch"] == batch:
                met = (
                    "met"
                    if min(row["times_faster"], row["least_times_faster"]) >= least
                    else "missed"
                )
                others = [
                    faster(e)
                    for e in run.get("earlier", [])
                    if (e["net"], e["variant"], e["batch"]) == (net, row["variant"], batch)
                ]
                before = f" Earlier runs: {', '.join(others)}." if others else ""
                lines.append(
                    f"- {title(row)}, {row['variant']}: {faster(row)} times faster at batch {batch}; the aim, {least:g}, is {met}.{before}"
                )
    return "\n".join(lines)


def faster(row: dict[str, Any]) -> str:
    return f"{row['times_faster']:.2f} ({row['least_times_faster']:.2f})"


def latency(run: dict[str, Any]) -> str:
    batches = sorted({row["batch"] for row in run["rows"]})
    head = [
        "net",
        "variant",
        *(text for b in batches for text in (f"batch {b}, ms", "times faster than dense")),
    ]
    by: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in run["rows"]:
        by.setdefault((title(row), row["variant"]), {})[row["batch"]] = row
    rows = [
        [*key, *(text for b in batches for text in (milliseconds(own[b]), faster(own[b])))]
        for key, own in by.items()
    ]
    beside = " A net with batch norms folded into its convolutions is beside the dense one with folded ones."
    folded = beside if any("folded" in row["variant"] for row in run["rows"]) else ""
    return f"""## Packed, factorised, narrow and dense nets side by side

All variants of a net in turns in one process, float32; medians (minima) of {run["repeats"]} samples; times faster: the median ratio of
neighbours in time (the ratio of the minima).
A packed layer decodes its weight at each forward pass (cache none) or at the first (cache keep). The filters are
those of each residual block's first layer: the others are coupled by the shortcuts.{folded} {setting(run)}.

{aims(run)}

{table(head, rows)}

    {run["command"]}"""


def coding(run: dict[str, Any]) -> str:
    head = [
        "stream",
        "type",
        "symbols",
        "alphabet",
        "coding",
        "entropy, bytes",
        "coded, bytes",
        "ratio",
        "encode, million symbols/s",
        "decode",
    ]
    keys = [
        "symbols",
        "alphabet",
        "coding",
        "entropy_bytes",
        "bytes",
        "ratio",
        "encode_Msymbols_s",
        "decode_Msymbols_s",
    ]
    rows = [[cell(row[key]) for key in ("stream", "type", *keys)] for row in run["rows"]]
    float_head = [
        "floats of",
        "type",
        "raw bytes",
        "coded, bytes",
        "ratio",
        "zstd -19, ratio",
        "encode, MB/s",
        "decode, MB/s",
    ]
    float_keys = [
        "net",
        "type",
        "raw_bytes",
        "bytes",
        "ratio",
        "zstd_19_ratio",
        "encode_MB_s",
        "decode_MB_s",
    ]
    floats = [[cell(row[key]) for key in float_keys] for row in run["floats"]]
    return f"""## Lossless coding

Integers against the entropy of their frequencies (a ratio below 1: a coding that knows more than those); floats bit for bit, tensor by
tensor, against `zstd -19` of all in one piece. Speeds are the best of some calls. {how(run)}; load average before: {run["load_before"][0]:.1f}.

{table(head, rows)}

{table(float_head, floats)}"""


def cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def fuzz(run: dict[str, Any]) -> str:
    head = [
        "kind of damage",
        "files",
        "refused",
        "loaded, no check could tell",
        "loaded, the right weights",
        "failures",
        "slowest, s",
        "most memory, MB",
    ]
    rows = []
    for row in run["rows"]:
        counts = [cell(row[key]) for key in ("inputs", "refused", "loaded", "the_same")]
        rows.append(
            [
                row["kind"],
                *counts,
                cell(sum(row["failures"].values())),
                f"{row['slowest_seconds']:.3f}",
                f"{row['largest_bytes'] / 2**20:.1f}",
            ]
        )
    total = sum(row["inputs"] for row in run["rows"])
    return f"""## Damaged and hostile files

{total:,} files, damaged at random in {run["seconds"]:.0f} s, made from {len(run["files"])} small ones; most have
right checksums. Each must be refused with a ValueError, or load: with the right weights where checksums are left as they were, else with weights of
the right shapes; within 2 s and twice the memory of file and net, plus 64 MB. {how(run)}.

{table(head, rows)}"""
