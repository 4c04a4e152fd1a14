"""The methods that LC is compared with, each against its paper's formula or what it must do, and
the training that all share."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import leco


@pytest.fixture
def bench():
    """Their modules."""
    pytest.importorskip("PIL")
    import benchmarks.proof.__main__ as proof
    from benchmarks.baselines import decomposition, deep_compression, latent, magnitude
    from benchmarks.data import Data
    from benchmarks.proof import cell, compressions, methods, trainer, training

    return SimpleNamespace(
        methods=methods,
        proof=proof,
        rows=compressions,
        training=training,
        Data=Data,
        Cell=cell.Cell,
        Settings=cell.Settings,
        trace=cell.trace,
        Trainer=trainer.Trainer,
        latent=latent,
        magnitude=magnitude,
        ranks=decomposition,
        deep=deep_compression,
    )


def cell(
    bench: SimpleNamespace,
    folder: Path,
    compression: leco.Compression,
    view: object = None,
    **changes: object,
):
    """Two Linear layers on points of the plane, in two classes."""
    torch.manual_seed(0)
    x = torch.randn(256, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    same = lambda images: images  # noqa: E731
    data = bench.Data("points", (x, y), (x, y), (x, y), same, same, False)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    trainer = bench.Trainer(data, batch=64, epochs=40, lr=0.1, seed=0, bfloat16=False)
    trainer.run(model, bench.training.sgd(model.parameters(), 0.1), trainer.total)
    view = view or leco.Vector()
    names = leco.match(model, "*.weight")
    tasks = (
        {"all": leco.Task(names, view, compression)}
        if isinstance(compression, leco.TopK | leco.Compose)
        else leco.each(names, view, compression)
    )
    settings = bench.Settings(
        **{
            "epochs": 8,
            "batch": 64,
            "lr": 0.05,
            "start": 0.1,
            "end": 3000.0,
            "steps": 8,
            "evaluations": 4,
            **changes,
        }
    )
    return bench.Cell(model, tasks, data, settings, 0, folder / "cell.checkpoint")


def loss(lc: leco.LC, found) -> float:
    with lc.compressed():
        return found.validate()[0]


def test_a_trainer_takes_each_example_once_an_epoch_and_goes_on_from_its_state(
    bench: SimpleNamespace, tmp_path: Path
):
    found = cell(bench, tmp_path, leco.Binary())
    trainer = found.trainer()
    seen = []
    for _ in range(2):
        order = []
        for _ in range(trainer.per_epoch):
            order.append(trainer.chosen())
            trainer.done += 1
        seen.append(torch.cat(order))
    assert all(sorted(order.tolist()) == list(range(256)) for order in seen)
    assert not torch.equal(*seen)
    other = found.trainer()
    other.load_state_dict({"done": trainer.per_epoch})
    assert torch.equal(other.chosen(), seen[1][:64])
    assert other.rate == pytest.approx(0.05 * (0.5 + 0.5 * math.cos(math.pi / 8)))
    assert bench.training.one_cycle(0.1) == 0.5
    assert bench.training.one_cycle(0.6) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("features", "fast"),
    [({}, False), ({"avx512_f": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True)],
)
def test_bfloat16_is_left_to_processors_that_multiply_it(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features, fast
):
    found = cell(bench, tmp_path, leco.Binary())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    seen = []
    found.model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.dtype))
    found.trainer().run(found.model, found.optimizer(), 1)
    found.validate()
    # of the net that is reported: always float32
    bench.training.evaluate(found.model, found.data, found.data.test)
    chosen = torch.bfloat16 if fast else torch.float32
    assert seen == [chosen, chosen, torch.float32]


def test_batch_norm_is_recalibrated_with_augmented_images_the_same_ones_each_time(
    bench: SimpleNamespace, tmp_path: Path
):
    data = cell(bench, tmp_path, leco.Binary()).data._replace(
        augment=lambda images: images + 10 + torch.rand(len(images), 1)
    )
    first = torch.cat(list(bench.training.calibration(data, images=100, batch=30)))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(
        torch.cat(list(bench.training.calibration(data, images=100, batch=30))), first
    )
    # training goes on as if nothing had been asked
    assert torch.equal(torch.get_rng_state(), state)
    shift = first - data.train[0][:100]
    assert first.shape == (100, 2)
    assert 9.9 < shift.min() < shift.max() < 11.1


def test_straight_through_moves_latent_weights_by_the_gradient_at_the_compressed_ones(
    bench: SimpleNamespace, tmp_path: Path
):
    found = cell(bench, tmp_path, leco.Binary(), epochs=0.25)  # one iteration
    latent, parts = (
        [p.detach().clone() for p in found.model.parameters()],
        found.trainer().chosen(),
    )
    at = [p.abs().mean() * p.sign() if p.ndim > 1 else p for p in latent]
    at = [p.requires_grad_() for p in at]
    x, y = found.data.train[0][parts], found.data.train[1][parts]
    value = nn.functional.cross_entropy(torch.tanh(x @ at[0].T + at[1]) @ at[2].T + at[3], y)
    gradients = torch.autograd.grad(value, at)
    trainer = found.trainer()
    trainer.bfloat16 = False
    found.trainer = lambda: trainer
    bench.latent.straight_through(found)
    for p, u, g in zip(found.model.parameters(), latent, gradients, strict=True):
        torch.testing.assert_close(p.detach(), u - 0.05 * 1.9 * g)  # Nesterov's first step: 1 + 0.9


def test_the_relaxation_grows_as_the_paper_says_and_ends_exact(bench: SimpleNamespace):
    weights = [bench.latent.relaxation(0.8 * k / 320) for k in range(321)]
    ratios = [(b / (1 - b)) / (a / (1 - a)) for a, b in itertools.pairwise(weights[:-1])]
    assert weights[0] == 0.5
    assert ratios == pytest.approx([1.02] * len(ratios), rel=1e-4)
    assert weights[-1] == bench.latent.relaxation(1.0) == 1.0


@pytest.mark.filterwarnings("ignore:leco.run")  # a short one
def test_a_budget_that_tightens_falls_geometrically_to_its_limit(
    bench: SimpleNamespace, tmp_path: Path
):
    found = cell(bench, tmp_path, leco.TopK(0.5), tighten=0.5, loose=4.0, epochs=4)
    names, parts = (
        found.tasks["all"].params,
        leco.each_part(leco.Vector(), leco.L0Penalty(0), range(2), 1.0),
    )
    found.tasks = {"all": leco.Task(names, leco.Blocks(), leco.Budget(parts, 16))}
    limits = []
    set_compressions = leco.LC.set_compressions

    def spy(lc: leco.LC, compressions: dict) -> None:
        limits.append(compressions["all"].limit)
        set_compressions(lc, compressions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leco.LC, "set_compressions", spy)
        lc = bench.methods.learning_compression(found)
    assert limits == pytest.approx(
        [16 * 4 ** (3 / 4)] + [16 * 4 ** max(0, 1 - (k + 1) / 4) for k in range(8)]
    )
    assert sum(int(value.count_nonzero()) for value in lc.delta.values()) == 16
    with pytest.raises(ValueError, match="Binary"):
        bench.methods.loosen(leco.Binary(), 2.0)


@pytest.mark.filterwarnings("ignore:leco.run")  # a run of 28 iterations moves no index
@pytest.mark.parametrize(
    "method", ["straight-through", "BinaryRelax", "PARQ", "LC", "DC + retraining"]
)
@pytest.mark.parametrize("compression", [leco.Binary(), leco.Ternary()])
def test_quantized_training_ends_in_the_set_and_better_than_direct_compression(
    bench: SimpleNamespace, tmp_path: Path, method: str, compression
):
    if method == "PARQ":
        pytest.importorskip("torchao")
    found = cell(bench, tmp_path, compression, leco.Rows())
    start = loss(bench.methods.direct(found), found)
    found = cell(bench, tmp_path, compression, leco.Rows())
    lc = bench.proof.METHODS[method](found)
    assert loss(lc, found) < start
    lc.project_()
    assert all(len(row.unique()) <= 3 for p in lc.params.values() for row in p)
    assert found.curve


def test_a_cut_off_cell_goes_on(bench: SimpleNamespace, tmp_path: Path):
    whole = cell(bench, tmp_path / "a", leco.Binary())
    (tmp_path / "a").mkdir()
    torch.manual_seed(1)
    bench.latent.straight_through(whole)
    part = cell(bench, tmp_path, leco.Binary())
    evaluate, calls = part.compressed_error, itertools.count()

    def interrupted(lc: leco.LC) -> float:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(lc)

    part.compressed_error = interrupted
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        bench.latent.straight_through(part)
    rest = cell(bench, tmp_path, leco.Binary())
    bench.latent.straight_through(rest)
    assert len(rest.curve) == 8
    for p, q in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_cubic_schedule(bench: SimpleNamespace):
    assert bench.magnitude.cubic(0.0, 0.1) == 1
    assert bench.magnitude.cubic(0.375, 0.1) == pytest.approx(1 - 0.9 * 7 / 8)
    assert bench.magnitude.cubic(0.75, 0.1) == bench.magnitude.cubic(1.0, 0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("method", ["gradual magnitude", "magnitude, rewound"])
def test_magnitude_pruning_ends_with_as_many_weights_as_asked_and_never_revives_one(
    bench: SimpleNamespace, tmp_path: Path, method: str
):
    found = cell(bench, tmp_path, leco.TopK(0.25))
    start = loss(bench.methods.direct(found), found)
    found, counts = cell(bench, tmp_path, leco.TopK(0.25)), []
    run = bench.Trainer.run

    def counting(self, model, *rest, **options):
        counts.append([p != 0 for p in model.parameters() if p.ndim > 1])
        return run(self, model, *rest, **options)

    bench.Trainer.run = counting
    try:
        lc = bench.proof.METHODS[method](found)
    finally:
        bench.Trainer.run = run
    assert sum(int((d != 0).sum()) for d in lc.delta.values()) == 16
    assert loss(lc, found) < start
    masks = [*counts, [d != 0 for d in lc.delta.values()]]
    assert all(
        not (after & ~before).any()
        for old, new in itertools.pairwise(masks)
        for before, after in zip(old, new, strict=True)
    )
    assert len({sum(int(m.sum()) for m in mask) for mask in masks}) >= 4


def test_greedy_ranks_are_the_best_of_all_at_equal_costs_and_uniform_ones_fill_the_limit(
    bench: SimpleNamespace,
):
    generator = torch.Generator().manual_seed(0)
    singular = {
        name: torch.rand(4, generator=generator).sort(descending=True).values for name in "abc"
    }
    costs = dict.fromkeys(singular, float)
    found = bench.ranks.greedy(singular, costs, 7)

    def left(ranks: dict[str, int]) -> float:
        return sum(float(singular[n][r:].square().sum()) for n, r in ranks.items())

    every = [
        dict(zip("abc", r, strict=True))
        for r in itertools.product(range(1, 5), repeat=3)
        if sum(r) <= 7
    ]
    assert left(found) == pytest.approx(min(map(left, every)))
    assert bench.ranks.uniform(singular, costs, 7) == {"a": 2, "b": 2, "c": 2}


def test_ranks_are_fine_tuned_at_the_cost_of_lc(bench: SimpleNamespace, tmp_path: Path):
    found = cell(bench, tmp_path, leco.RankSelection(1e-3, leco.storage), leco.Matrix())
    found.tasks = {"0.weight": found.tasks["0.weight"]}
    found.limit = leco.storage(torch.Size([16, 2]), 1)
    lc = bench.ranks.greedy_ranks(found)
    assert torch.linalg.matrix_rank(lc.delta["0.weight"]) == 1
    found.limit = None
    with pytest.raises(ValueError, match="run the method LC"):
        bench.ranks.uniform_ranks(found)


@pytest.mark.parametrize(
    ("limit", "ranks"), [(18 + 18, [1, 1]), (18 + 32, [1, 2]), (32 + 32, [2, 2])]
)
def test_ranks_are_fine_tuned_within_a_budget_and_a_full_rank_leaves_the_matrix(
    bench: SimpleNamespace, tmp_path: Path, limit: int, ranks: list[int]
):
    found = cell(bench, tmp_path, leco.Binary())
    members = [leco.Part(leco.Matrix(), leco.RankSelection(0.0), (i,)) for i in range(2)]
    found.tasks = {
        "all": leco.Task(("0.weight", "2.weight"), leco.Blocks(), leco.Budget(members, limit))
    }
    with torch.no_grad():
        # its second singular value is the last to be bought
        found.model.get_parameter("0.weight").div_(100)
    lc = bench.ranks.greedy_ranks(found)
    assert [int(torch.linalg.matrix_rank(d)) for d in lc.delta.values()] == ranks
    assert (
        sum(
            array.numel()
            for theta in lc.thetas.values()
            for array in theta
            if isinstance(array, torch.Tensor)
        )
        == limit
    )
    found = cell(
        bench,
        tmp_path,
        leco.RankSelection(0.0, lambda shape, rank: 5.0 * (rank > 0)),
        leco.Matrix(),
    )
    found.limit = 10.0
    assert all(
        torch.linalg.matrix_rank(d) == 2 for d in bench.ranks.uniform_ranks(found).delta.values()
    )


def test_the_cost_of_lc_is_read_from_its_file(bench: SimpleNamespace, tmp_path: Path):
    found = cell(bench, tmp_path, leco.RankSelection(1e-3, leco.storage), leco.Matrix())
    lc = leco.LC(found.model, found.tasks)
    lc.mu = 1.0
    leco.save(tmp_path / "lc.safetensors", lc)
    expected = sum(found.tasks[name].compression.usage(theta) for name, theta in lc.thetas.items())
    assert bench.proof.lc_cost(tmp_path / "lc.safetensors", found.tasks) == expected > 0
    assert bench.proof.lc_cost(tmp_path / "none.safetensors", found.tasks) is None


def test_deep_compression_prunes_all_layers_and_shares_values_in_each(
    bench: SimpleNamespace, tmp_path: Path
):
    compression = leco.Compose(leco.TopK(0.5), leco.Codebook(4))
    start = loss(
        bench.methods.direct(cell(bench, tmp_path, compression)),
        found := cell(bench, tmp_path, compression, epochs=80, retrain_lr=0.01),
    )
    lc = bench.deep.deep_compression(found)
    kept = [d[d != 0] for d in lc.delta.values()]
    assert sum(values.numel() for values in kept) == 32
    assert [len(values.unique()) for values in kept] == [4, 4]
    assert not set(kept[0].tolist()) & set(kept[1].tolist())
    assert loss(lc, found) < start
    assert found.curve[0]["epoch"] == 1.0
    assert found.curve[-1]["epoch"] == found.settings.epochs / 2


def test_deep_compression_leaves_a_layer_of_few_weights_its_own_values(
    bench: SimpleNamespace, tmp_path: Path
):
    found = cell(bench, tmp_path, leco.Compose(leco.TopK(0.5), leco.Codebook(20)))
    with torch.no_grad():
        found.model.get_parameter("0.weight")[4:].mul_(1e-3)
    lc = bench.deep.deep_compression(found)
    assert [type(theta.values).__name__ for theta in lc.thetas.values()] == ["Tensor", "Codes"]
    found = cell(bench, tmp_path, leco.TopK(0.5))
    with pytest.raises(ValueError, match="must be one Compose"):
        bench.deep.deep_compression(found)


def test_the_proximal_step_is_the_minimum_of_penalty_and_distance(
    bench: SimpleNamespace, tmp_path: Path
):
    found = cell(bench, tmp_path, leco.Binary())
    lc = bench.methods.direct(found)
    lc.mu = 2.0
    lc.multipliers_step()
    w = {name: p.detach().clone().requires_grad_() for name, p in lc.params.items()}
    before = {name: p.detach().clone() for name, p in lc.params.items()}
    bench.methods.proximal_(lc, 0.3)
    for name, p in lc.params.items():
        w[name] = p.detach().clone().requires_grad_()
        gap = w[name] - lc.delta[name]
        objective = (w[name] - before[name]).square().sum() / (2 * 0.3) + (
            gap.square() * lc.mu / 2 - lc.multipliers[name] * gap
        ).sum()
        (gradient,) = torch.autograd.grad(objective, w[name])
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-5, rtol=0)


def test_settings_are_changed_by_name(bench: SimpleNamespace):
    settings = bench.proof.changed(
        bench.proof.RESNET, ["epochs=8", "start=0.5", "soft=0", "optimizer=adamw"]
    )
    assert (settings.epochs, settings.start, settings.soft, settings.optimizer) == (
        8.0,
        0.5,
        False,
        "adamw",
    )
    with pytest.raises(ValueError, match="--set nonsense=1: 'nonsense' is none of epochs"):
        bench.proof.changed(settings, ["nonsense=1"])


@pytest.mark.parametrize("net", ["lenet300", "resnet20"])
def test_every_row_of_a_table_makes_tasks_for_its_net(bench: SimpleNamespace, net: str):
    model = bench.proof.nets.NETS[net]()
    table = bench.rows.LENETS if net == "lenet300" else bench.rows.RESNETS
    weights = sum(
        p.numel() for name, p in model.named_parameters() if name in bench.rows.weights(model)
    )
    for name in table:
        covered = sum(
            p.numel() for p in leco.LC(model, bench.rows.tasks(net, model, name)).params.values()
        )
        assert (
            covered == weights - 30_000
            if name == "2 values, layers 1 and 3"
            else covered > 0.99 * weights
        )


@pytest.mark.filterwarnings("ignore:leco.run")
def test_l_steps_from_delta_start_there_and_c_steps_stand_between_the_rounds(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = cell(bench, tmp_path, leco.Binary(), from_delta=True, rounds=2, retrain=0.0)
    starts, steps = [], []
    run, c_step = bench.Trainer.run, leco.LC.c_step
    monkeypatch.setattr(leco.LC, "c_step", lambda lc: steps.append(len(starts)) or c_step(lc))

    def looking(trainer, model, *rest, **options):
        starts.append([len(p.abs().unique()) for p in model.parameters() if p.ndim > 1])
        return run(trainer, model, *rest, **options)

    monkeypatch.setattr(bench.Trainer, "run", looking)
    bench.methods.METHODS["LC"](found)
    assert starts == [[1, 1]] * 16  # one absolute value in each layer
    assert steps[-16:] == list(range(1, 17))


def test_parq_quantizes_kernels_that_have_channels_last(bench: SimpleNamespace, tmp_path: Path):
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    x = torch.randn(128, 3, 4, 4)
    y, same = (x[:, 0].mean((1, 2)) > 0).long(), lambda images: images
    data = bench.Data("noise", (x, y), (x, y), (x, y), same, same, False)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)).to(
        memory_format=torch.channels_last
    )
    tasks = leco.each(leco.match(model, "*.weight"), leco.Rows(), leco.Binary())
    settings = bench.Settings(epochs=6, batch=32, lr=0.05, steps=1)
    found = bench.Cell(model, tasks, data, settings, 0, tmp_path / "cell.checkpoint")
    bench.latent.parq(found)  # which raises where it ends off the set
    assert [len(filters.abs().unique()) for filters in model[0].weight] == [1] * 8
