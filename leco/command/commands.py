"""The commands that make and judge compressed nets."""

from pathlib import Path
from typing import Annotated

import typer

from leco.command import options, recipe, tables
from leco.command import recipes as own
from leco.command.app import Json, app, show, show_json, terminal
from leco.command.compress import compress, prepared
from leco.command.export import export_net
from leco.command.folder import check_free
from leco.command.inputs import Judge
from leco.command.jobs import measured, result_of
from leco.command.sources import source
from leco.command.sweep import optimize, sweep

WORDS = ("2bit", "3bit", "4bit")  # of a sweep without --to


@app.command("compress")
@options.of_a_job
def compress_command(
    given: options.Given,
    out: options.Out = Path("small"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan, and stop")] = False,
    as_json: Json = False,
) -> None:
    """Compress a net into a folder with the file and a report."""
    made = options.recipe_of(given)
    if made.optimize is not None:
        raise ValueError("the recipe has a search (optimize); leco sweep does it")
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
@options.of_a_job
def sweep_command(
    given: options.Given,
    out: options.Out = Path("sweep"),
    search: Annotated[
        bool, typer.Option("--optimize", help="search: a word of --to for each kind of layer")
    ] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="of the search [20]")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    as_json: Json = False,
) -> None:
    """Compress a net in several ways, and compare them."""
    console = terminal(as_json)
    bar = not as_json and console.is_terminal
    searched = options.search_of(given, trials, search)
    if searched is not None:
        points = optimize(searched, out, jobs, console, bar)
    else:
        made = [(word, options.recipe_of(given, to=word)) for word in given.to or WORDS]
        points = sweep(made, out, jobs, console, bar)
    if as_json:
        return show_json(points)
    show(tables.points_text(points, measured(out / points[0]["folder"])))
    return show(f"{out}: report.html, report.md, and a folder for each\n")


@app.command("evaluate")
def evaluate_command(
    model: Annotated[str, typer.Argument(help="a folder or file of leco, or a net as it was")],
    data: Annotated[str, typer.Argument(help="test.txt, or package.module:function(model)")],
    length: Annotated[int, typer.Option(min=2, help="tokens of a sequence")] = 512,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Json = False,
) -> None:
    """Measure the error of a net, compressed or not."""
    found = source(model, device)
    judge = Judge(data, found, length, device)
    console = terminal(as_json)
    value = judge(found.model, not as_json and console.is_terminal)
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
    """Show two compressed nets side by side."""
    results = [result_of(folder) for folder in (a, b)]
    if as_json:
        show_json(dict(zip(map(str, (a, b)), results, strict=True)))
    else:
        show(tables.comparison([str(a), str(b)], results))


@app.command("export")
def export_command(
    folder: Annotated[str, typer.Argument(help="a folder that leco compress made, or its file")],
    to: Annotated[str, typer.Option(help="onnx, openvino, gguf, compressed-tensors, dense")],
    out: Annotated[Path, typer.Option(help="the file or folder to make")],
    inputs: Annotated[
        str | None,
        typer.Option(help="package.module:function: examples for onnx, openvino"),
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
    """List recipes to start from, or print one."""
    if schema:
        show_json(recipe.schema())
    elif name is not None:
        show(own.text(name))
    elif as_json:
        show_json(own.every())
    else:
        show("".join(f"{key:<32}{about}\n" for key, about in own.every().items()))
        show("leco recipes NAME > recipe.yaml, then leco compress MODEL --recipe recipe.yaml\n")
