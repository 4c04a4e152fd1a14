"""The commands that make and judge compressed nets."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from leco.command import options, recipe, tables
from leco.command import recipes as own
from leco.command.app import Json, app, show, show_json, terminal
from leco.command.compress import compress, prepared
from leco.command.export import export_net
from leco.command.folder import check_free
from leco.command.inputs import Judge
from leco.command.sources import source
from leco.command.sweep import sweep


@app.command("compress")
def compress_command(
    model: options.Model = None,
    to: options.To = None,
    calibrate: options.Calibration = None,
    train: options.Training = None,
    evaluate: options.Judging = None,
    out: options.Out = Path("small"),
    file: options.File = None,
    samples: options.Samples = None,
    length: options.Length = None,
    batch: options.Batch = None,
    steps: options.Steps = None,
    polish: options.Polish = None,
    rest: options.Rest = None,
    device: options.Device = None,
    seed: options.Seed = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan alone")] = False,
    as_json: Json = False,
) -> None:
    """Compress a net into a folder: the file, the recipe and the report."""
    made = options.recipe_of(
        file,
        to,
        *options.parts(calibrate, train, samples, length, batch, steps, polish),
        **{"model": model, "evaluate": evaluate, "rest": rest, "device": device, "seed": seed},
    )
    if not dry_run:
        check_free(out)
    job = prepared(made)
    if dry_run:
        return show_json(tables.plan_json(job)) if as_json else show(tables.plan_text(job))
    console = terminal(as_json)
    console.print(tables.plan_text(job), markup=False, highlight=False, end="")
    result = compress(job, out, console, bar=not as_json and console.is_terminal)
    if as_json:
        return show_json(result)
    show(tables.result_text(result))
    return show(f"{out}: model.safetensors, recipe.yaml, report.html, report.md, log.txt\n")


@app.command("sweep")
def sweep_command(
    model: options.Model = None,
    to: options.To = None,
    calibrate: options.Calibration = None,
    train: options.Training = None,
    evaluate: options.Judging = None,
    out: options.Out = Path("sweep"),
    file: options.File = None,
    samples: options.Samples = None,
    length: options.Length = None,
    batch: options.Batch = None,
    steps: options.Steps = None,
    polish: options.Polish = None,
    rest: options.Rest = None,
    device: options.Device = None,
    seed: options.Seed = None,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    as_json: Json = False,
) -> None:
    """Compress a net to each word of --to, and draw error against bytes. Goes on where it was."""
    words = to or ["2bit", "3bit", "4bit"]
    parts = options.parts(calibrate, train, samples, length, batch, steps, polish)
    rest_of = {"model": model, "evaluate": evaluate, "rest": rest, "device": device, "seed": seed}
    made = [options.recipe_of(file, [word], *parts, **rest_of) for word in words]
    console = terminal(as_json)
    points = sweep(dict(zip(words, made, strict=True)), out, jobs, console, not as_json)
    if as_json:
        show_json(points)
    else:
        show((out / "report.md").read_text(encoding="utf-8"))
        show(f"{out}: report.html, report.md, and a folder for each\n")


@app.command("evaluate")
def evaluate_command(
    model: Annotated[str, typer.Argument(help="a folder or file of leco, or a net as it was")],
    data: Annotated[str, typer.Argument(help="test.txt, or package.module:function(model)")],
    length: Annotated[int, typer.Option(min=2, help="tokens of a sequence")] = 512,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Json = False,
) -> None:
    """Judge a net, compressed or not, on data."""
    found = source(model, device)
    judge = Judge(data, found, length, device)
    value = judge(found.model)
    if as_json:
        show_json({"model": model, "name": judge.name, "value": value})
    else:
        show(f"{judge.name}: {value:.6g}\n")


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(help="a folder that leco compress made")],
    b: Annotated[Path, typer.Argument(help="another one")],
    as_json: Json = False,
) -> None:
    """Two compressed nets side by side: bytes, errors, and the layers that differ."""
    results = [_result(folder) for folder in (a, b)]
    if as_json:
        show_json(dict(zip(map(str, (a, b)), results, strict=True)))
    else:
        show(tables.comparison([str(a), str(b)], results))


def _result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no result.json in it; give a folder that leco compress made")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error})") from None


@app.command("export")
def export_command(
    folder: Annotated[str, typer.Argument(help="a folder that leco compress made, or its file")],
    to: Annotated[str, typer.Option(help="onnx, gguf, compressed-tensors, dense")],
    out: Annotated[Path, typer.Option(help="the file or folder to make")],
    inputs: Annotated[
        str | None, typer.Option(help="package.module:function: example inputs, for onnx")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a compressed net for another runtime."""
    held = export_net(folder, to, out, inputs)
    if as_json:
        show_json({"out": str(out), "held": held})
    else:
        kinds = {kind: sum(own == kind for own in held.values()) for kind in held.values()}
        show("".join(f"{count} parameters: {kind}\n" for kind, count in kinds.items()))
        show(f"{out} written\n")


@app.command("recipes")
def recipes_command(
    name: Annotated[str | None, typer.Argument(help="print this recipe, as YAML")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="the JSON schema of a recipe")] = False,
    as_json: Json = False,
) -> None:
    """Recipes to start from, by task."""
    if schema:
        show_json(recipe.schema())
    elif name is not None:
        show(own.text(name))
    elif as_json:
        show_json(own.every())
    else:
        show("".join(f"{key:<32}{about}\n" for key, about in own.every().items()))
        show("leco recipes NAME > recipe.yaml, then leco compress MODEL --recipe recipe.yaml\n")
