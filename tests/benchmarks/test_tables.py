"""The generated tables say what the records say, and the records are small."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from benchmarks import records, tables
from benchmarks.report import cells, formats, layerwise


def made(method: str, seed: int, validation: float, test: float = 5.0) -> cells.Cell:
    """A cell with the reference at 2 %."""
    row = {"validation_error": validation, "test_error": test}
    reference = {"validation_error": 2.0, "test_error": 2.0}
    return {"method": method, "seed": seed, "row": row, "reference": reference}


def test_settings_are_chosen_by_validation_error_of_those_with_the_most_seeds():
    errors = {
        "LC": [3.0, 3.2],
        "LC (clipped)": [2.8, 3.1],
        "LC (lucky)": [1.0],
        "gradual magnitude": [0.5, 0.5],
    }
    found = [made(m, seed, e) for m, every in errors.items() for seed, e in enumerate(every)]
    assert {cell["method"] for cell in cells.chosen(found)} == {"LC (clipped)"}
    assert cells.chosen(found[-2:]) == []


def test_means_are_over_seeds_and_points_are_above_each_reference():
    found = [made("LC", 0, 3.0, test=3.0), made("LC", 1, 3.0, test=4.0)]
    found[1]["reference"] = {"test_error": 3.5}
    assert cells.error(found) == "3.50 (2)"
    assert cells.above(found) == pytest.approx((1.0 + 0.5) / 2)
    assert cells.error([]) == ""


def test_the_best_of_others_is_no_piece_of_lc():
    errors = {"DC": 1.0, "LC": 1.0, "LC (clipped)": 1.0, "quadratic penalty": 1.0, "PARQ": 3.0}
    found = [made(method, 0, 1.0, test=error) for method, error in errors.items()]
    assert [cell["method"] for cell in cells.others([*found, made("other", 0, 1.0)])] == ["PARQ"]


def test_a_cell_that_was_run_again_counts_once(tmp_path, monkeypatch: pytest.MonkeyPatch):
    line = records.read("proof", "proof")[0]
    newer = {**line, "row": {**line["row"], "test_error": 7.0}}
    path = tmp_path / "proof.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (line, newer)))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    cells.every.cache_clear()
    try:
        assert [cell["row"]["test_error"] for cell in cells.every()] == [7.0]
    finally:
        cells.every.cache_clear()


def test_a_record_is_a_line_with_its_origin_and_no_nan(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    for number in (1.0, float("nan")):
        records.append("some", "kind", rows=[{"number": number}])
    records.append("some", "other", rows=[])
    first, second = records.read("some", "kind")
    assert [run["rows"][0]["number"] for run in (first, second)] == [1.0, None]
    assert {"command", "versions", "machine"} < set(first)


def test_what_is_between_markers_is_replaced_and_nothing_else():
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n<!-- y -->\nstays\n<!-- end of y -->\n"
    new = tables.filled(page, {"x": r"new \1", "z": "nowhere"})
    assert new == page.replace("old", r"new \1")


def test_the_files_are_those_that_the_records_make():
    found = tables.made()
    names = [path.name for path, text in found.items() if path.read_text("utf-8") != text]
    assert names == [], "python -m benchmarks.tables makes them anew"
    page = next(text for path, text in found.items() if path.name == "benchmarks.md")
    missing = [name for name in tables.tables() if f"<!-- end of {name} -->" not in page]
    others = [
        "trainers",
        "minilm",
        "gguf",
        "gguf-nets",
        "runtimes",
        "xnnpack",
        "kernels",
        "loading",
        "results",
    ]
    assert missing == others  # which stand in other pages and the README


@pytest.mark.parametrize(("old", "code"), [("", 0), ("old", 1)])
def test_check_fails_where_a_file_is_old(
    old: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "page"
    path.write_text("new" + old)
    monkeypatch.setattr(tables, "made", lambda: {path: "new"})
    monkeypatch.setattr(sys, "argv", ["tables", "--check"])
    with pytest.raises(SystemExit) as stop:
        tables.main()
    assert stop.value.code == (f"{path} is old" if code else 0)
    assert path.read_text() == "new" + old


def test_records_are_at_most_a_megabyte():
    assert sum(path.stat().st_size for path in records.RESULTS.iterdir()) < 10**6


def test_lc_stands_beside_the_best_of_others_on_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "RESULTS", tmp_path)

    def row(method: str, first: float, second: float, seconds: float) -> cells.Cell:
        return {"method": method, "errors": {"a": first, "b": second}, "cpu_seconds": seconds}

    ends = [row("DC", 0.9, 0.9, 1.0), row("DC in the metric", 0.4, 0.1, 1.0)]
    peers = [row("SparseGPT", 0.2, 0.05, 2.0), row("ALPS", 0.01, 0.16, 4.0)]
    lc = row("LC", 0.02, 0.02, 5.0)
    fewer = [row("LC, 20 steps", 0.02, 0.08, 3.0), row("LC, 10 steps", 0.08, 0.08, 2.0)]
    records.append("layerwise", "layers", row="2:4", rows=[*peers, *ends, lc, *fewer])
    records.append("layerwise", "layers", row="binary", rows=[*ends, lc])
    binary, pruned = layerwise.layers()
    assert pruned["best method of others"] == "ALPS"
    assert pruned["its error"] == "1 16"
    assert pruned["LC / best of others"] == "0.50"
    assert pruned["LC / direct"] == "0.10"
    assert pruned["time, LC / GPTQ or SparseGPT"] == "2.5"
    assert binary["best method of others"] == binary["LC / best of others"] == ""

    # with fewer steps
    found = [tuple(line.values()) for line in layerwise.steps()]
    expected = [("40", "1.000", "2.5"), ("20", "2.000", "1.5"), ("10", "4.000", "1.0")]
    assert found == [("2:4", *rest) for rest in expected]


def test_of_a_cell_without_training_the_newest_record_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    how = {"bytes": 2e6, "memory_bytes": 3e6, "error": 0.02, "perplexity": 50.0, "method": "ALPS"}
    for row, perplexity in (("2:4", 70.0), ("3 bits", 1234.0), ("2:4", 60.0)):
        found = {"row": row, "batches": 32, "perplexity_16": perplexity}
        records.append("layerwise", "smollm2", **found, **how)
    rest = how | {"bytes": 1e6, "perplexity_16": 65.0}
    records.append("layerwise", "smollm2", row="2:4", batches=8, **rest)
    found = formats.smollm2()
    assert [(row["format"], row["perplexity, 16 sequences"]) for row in found] == [
        *(("3 bits", "1,234"), ("2:4", "60.0"))
    ]
    assert found[0]["layer error, %"] == "2.00"
    assert found[0]["solves, s"] == ""
    assert formats.smollm2_samples() == [
        {"format": "2:4", "method": "ALPS", "8 batches": "65.0", "32 batches": "60.0"}
    ]
    layerwise.draw(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
