"""Damaged and hostile files: a ValueError that says what is wrong, little memory, and never wrong
weights."""

import contextlib
import itertools
import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tampering import ODD, Net, Parts, holders, mutated, nodes, places, problem, risen, take_apart
from torch import Tensor, nn

import leco
from leco.files.container import ENTRY, WORDS, Payload
from leco.files.limits import SPARE_TEXT
from leco.theta import (
    Affine,
    Codes,
    ConvFactors,
    CPFactors,
    Factors,
    GroupSparse,
    HashedValues,
    NMSparse,
    Scaled,
    Sparse,
    Sum,
    Term,
    TrainFactors,
    TuckerFactors,
    VectorCodes,
)

MEMORY = Path("/proc/self/clear_refs").exists()
MB = 2**20


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 40))


def small(path: Path) -> nn.Module:
    """A file of a few hundred bytes, for what is done at every one of them."""
    net = small_net()
    tasks = {
        "one": leco.Task("0.weight", leco.Vector(), leco.Ternary()),
        "two": leco.Task("1.weight", leco.Vector(), leco.TopK(3)),
    }
    lc = leco.LC(net, tasks)
    lc.mu = 1.0
    leco.save(path, lc)
    return leco.load(path, net)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def refusal(path: Path, model: nn.Module) -> str:
    """What `load` says of a file, or "" where it loads. Where it does not, the model stays."""
    before = state(model)
    try:
        leco.load(path, model)
    except ValueError as error:
        message = str(error)
    else:
        return ""
    assert equal(before, state(model))
    assert str(path) in message
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.safetensors"


# --- damage


def test_a_file_cut_anywhere_is_refused(path):
    leco.save(path, problem()[1])
    whole, model = path.read_bytes(), Net()
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        assert refusal(path, model), length
    path.write_bytes(whole + b"\0")
    assert refusal(path, model)


@pytest.mark.parametrize("flip", [0x01, 0x10, 0xFF])
def test_a_byte_changed_anywhere_is_seen(path, flip):
    right, model = state(small(path)), small_net()
    whole = bytearray(path.read_bytes())
    for place in range(len(whole)):
        whole[place] ^= flip
        path.unlink()  # to truncate a file that was mapped takes longer than all else
        path.write_bytes(whole)
        assert refusal(path, model) or equal(right, state(model)), place
        whole[place] ^= flip


def test_a_changed_description_is_not_believed(path):
    small(path)
    whole, rows = path.read_bytes(), leco.files.inventory.streams(path)
    for place in range(rows[0].bytes, rows[0].bytes + rows[1].bytes):
        path.unlink()
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="its description is damaged"):
            leco.describe(path)


def stored(path: Path) -> list[tuple[str, str]]:
    """Task and name of what stands in a file by itself."""
    rows = [row for row in leco.files.inventory.streams(path) if row.kind != "overhead"]
    pooled = [row.field for row in rows if row.coding == "pool"]
    assert pooled == ["conv.bias", "norm.bias"]
    return [
        (row.task, row.field if row.coding != "pool" else "conv.bias with 1 others")
        for row in rows
        if row.field != "norm.bias"
    ]


def test_the_message_names_the_tensor_whose_bytes_are_damaged(path):
    leco.save(path, problem()[1])
    whole, (_, found) = path.read_bytes(), places(path)
    names = stored(path)
    assert len(found) == len(names) > 15
    for (task, field), place in zip(names, found, strict=True):
        for at in {place.start, place.start + place.length - 1} if place.length else ():
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            part = f"task {task!r}" if task else "the rest"
            said = f"{field} does not have the checksum that the file gives"
            assert refusal(path, Net()) == f"{path}: {part} is damaged: {said}"


def with_header(path: Path, change: Callable[[dict[str, Any]], Any], more: bytes = b"") -> None:
    """Change a file's safetensors header, and add bytes at its end."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :] + more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["large"].update(dtype="I32"), "its entry 'large' is damaged: I32"),
        (
            lambda h: h["large"].update(dtype="F16", shape=[2200]),
            "large: the entry 'large' must be float32",
        ),
        (
            lambda h: h["large"].update(shape=[11, 100]),
            r"must be float32 of shape \[1100\], used once; the file has F32 \[11, 100\]",
        ),
        (lambda h: h.update(larger=h.pop("large")), "the entry 'large' must be float32"),
        (
            lambda h: h.update(
                more={
                    "dtype": "F32",
                    "shape": [0],
                    "data_offsets": [h["leco.2"]["data_offsets"][1]] * 2,
                }
            ),
            "the entries \\['more'\\]",
        ),
        (lambda h: h["leco.2"].update(dtype="I8"), "its entry 'leco.2' is damaged: I8"),
        (
            lambda h: h["leco.2"].update(shape=[1, *h["leco.2"]["shape"]]),
            "its entry 'leco.2' is damaged: U8",
        ),
    ],
)
def test_the_header_is_checked_against_the_description(path, change, message):
    leco.save(path, problem()[1])
    with_header(path, change)
    with pytest.raises(ValueError, match=message):
        leco.load(path, Net())


def test_no_byte_is_left_over(path):
    small(path)

    def longer(header: dict[str, Any]) -> None:
        header["leco.2"]["shape"][0] += 3
        header["leco.2"]["data_offsets"][1] += 3

    with_header(path, longer, b"\0\0\0")
    for read in (leco.thetas, lambda path: leco.load(path, small_net())):
        with pytest.raises(
            ValueError,
            match=r"it has \d+ bytes and the entries \[\] where its description needs \d+ and none",
        ):
            read(path)


def test_exchanged_payloads_are_seen_and_with_their_checksums_are_another_file(path):
    net, lc = problem()
    leco.save(path, lc)
    parts, data, (_, found) = take_apart(path), bytearray(path.read_bytes()), places(path)
    names = [field for _, field in stored(path)]
    numbers = names.index("norm.weight"), names.index("norm.running_mean")
    one, other = (slice(found[n].start, found[n].start + found[n].length) for n in numbers)
    data[one], data[other] = data[other], data[one]
    path.write_bytes(data)
    assert "norm.weight does not have the checksum" in refusal(path, Net())

    def exchange(first: int, second: int) -> None:
        payloads = list(parts.payloads)
        payloads[first], payloads[second] = payloads[second], payloads[first]
        Parts(parts.description, payloads).write(path)

    exchange(*numbers)
    assert torch.equal(leco.load(path, Net()).state_dict()["norm.running_mean"], net.norm.weight)
    # what does not fit the other's coding or length
    for first, second in itertools.pairwise(range(len(found))):
        exchange(first, second)
        refusal(path, Net())


# --- hostile descriptions, with right checksums


def test_absurd_values_anywhere_are_refused_or_change_nothing_else(path):
    right, model = state(small(path)), small_net()
    parts = take_apart(path)
    text, refused, loaded = json.dumps(parts.description), 0, 0

    def check_all() -> None:
        nonlocal refused, loaded
        for number in range(len(holders(parts.description))):
            for odd in ODD[number % 3 :: 3]:
                description = json.loads(text)
                holder, key = holders(description)[number]
                holder[key] = odd()
                Parts(description, parts.payloads).write(path)
                if refusal(path, model):
                    refused += 1
                    continue
                loaded += 1
                for name, task in description["tasks"].items():
                    if task == parts.description["tasks"][name]:
                        assert all(
                            torch.equal(model.state_dict()[n], right[n]) for n in task["params"]
                        )

    if MEMORY:
        assert risen(check_all) < 64 * MB
    else:
        check_all()
    assert refused > 5 * loaded > 0


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.integers(0, 2**32))
def test_mutated_descriptions_are_refused_or_load_honestly(tmp_path, number):
    path = tmp_path / "m"
    if not path.exists():
        leco.save(path, problem()[1])
        (tmp_path / "whole").write_bytes(path.read_bytes())
    parts, right = take_apart(tmp_path / "whole"), state(leco.load(tmp_path / "whole", Net()))
    description = mutated(json.loads(json.dumps(parts.description)), random.Random(number))
    Parts(description, parts.payloads).write(path)
    model = Net()
    if not refusal(path, model):
        for name, task in description["tasks"].items():
            if task == parts.description["tasks"].get(name):
                assert all(torch.equal(model.state_dict()[n], right[n]) for n in task["params"])
    for read in (leco.thetas, leco.files.inventory.streams, leco.describe):
        with contextlib.suppress(ValueError):
            read(path)


def with_text(path: Path, text: bytes) -> None:
    """A file of leco with any text for its description."""
    deflate = zlib.compressobj(9, wbits=-15, zdict=WORDS)
    packed = deflate.compress(text) + deflate.flush()
    head = struct.pack("<I", len(packed)) + packed
    content = bytearray(head + struct.pack("<I", zlib.crc32(head)))
    save_file({ENTRY: torch.frombuffer(content, dtype=torch.uint8)}, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 50_000, "nested too deeply"),
        (b'{"tasks":' * 25_000, "nested too deeply"),
        (b'{"tasks":{},"tied":{},"rest":{}}' + b" " * 10**8, "inflates to more than"),
        (b"[" + b"[]," * 80_000 + b"[]]", "it has 160002 values"),
        (b'{"tasks":{},"tied":{},"rest":NaN}', "NaN is not a finite number"),
        (b'{"tasks":{},"tied":{},"rest":-Infinity}', "-Infinity is not a finite number"),
        (b'{"tasks":{},"tied":{},"rest":1e999}', "1e999 is not a finite number"),
        (
            b'{"tasks":{},"tied":{},"rest":9223372036854775808}',
            "9223372036854775808 is not an integer of 64 bits",
        ),
        (b'{"tasks":{},"tied":{},"rest":' + b"9" * 100_000 + b"}", "is not an integer of 64 bits"),
        (b'{"tasks":{},"tied":{},"rest":{},"rest":{}}', "a name stands twice"),
        (b'{"tasks":{},"tied":{}}', "must have tasks, tied and rest"),
        (b'{"tasks":[],"tied":{},"rest":{}}', "must have tasks, tied and rest"),
        (b"null", "must have tasks, tied and rest"),
        (b"\xff\xfe", "can't decode byte"),
        (b"", "Expecting value"),
    ],
)
def test_what_a_description_may_not_be(path, text, message):
    with_text(path, text)
    found: list[str] = []

    def check() -> None:
        for read in (
            leco.describe,
            leco.thetas,
            leco.files.inventory.streams,
            lambda path: leco.load(path, nn.Linear(2, 2)),
        ):
            with pytest.raises(
                ValueError, match=f"m.safetensors: its description is damaged: .*{message}"
            ):
                read(path)
            found.append(message)

    if MEMORY:
        assert risen(check) < 32 * MB
    else:
        check()
    assert len(found) == 4
    assert SPARE_TEXT < 10**6


def claim(
    path: Path,
    theta: Any,
    shape: list[int],
    payloads: list[bytes] | None = None,
    view: Any = ("Vector", {}),
) -> None:
    """A file of one task that claims this."""
    task = {"params": {"weight": shape}, "view": list(view), "compression": None, "theta": theta}
    rest = {"bias": {"t": ["float32", [2], 8, {"name": "raw"}]}}
    data = [
        torch.frombuffer(bytearray(p) or bytearray(1), dtype=torch.uint8)[: len(p)]
        for p in payloads or [b""] * len(nodes(theta))
    ]
    Parts(
        {"tasks": {"t": task}, "tied": {}, "rest": rest},
        [*map(Payload, data), Payload(torch.zeros(8, dtype=torch.uint8))],
    ).write(path)


def zeros(*shape: int, dtype: str = "uint8") -> dict[str, Any]:
    """A tensor that takes no bytes, whatever its shape."""
    return {"t": [dtype, list(shape), 0, {"name": "digits", "base": 1}]}


HUGE = 10**15


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        ({"Codes": [zeros(HUGE), zeros(1)]}, "makes 1000000000000000 bytes, more than"),
        (
            {"Sparse": [zeros(HUGE, dtype="bool"), zeros(0)]},
            "makes 1000000000000000 bytes, more than",
        ),
        (
            {"HashedValues": [zeros(1), HUGE, 0]},
            "an array of 1000000000000000 entries is larger than",
        ),
        (
            {"Dense": [{"HashedValues": [zeros(1), HUGE, 0]}]},
            "an array of 1000000000000000 entries is larger than",
        ),
        (
            {
                "Factors": [
                    {"HashedValues": [zeros(2, 1), 40000, 0]},
                    {"HashedValues": [zeros(40000, 1), 4, 0]},
                ]
            },
            "entries is larger than",
        ),
        ({"Factors": [zeros(2, 4000), zeros(4000, 4)]}, "makes .* bytes, more than"),
        (
            {"CPFactors": [[zeros(1000, 1), zeros(1000, 1), zeros(1000, 1)]]},
            "entries is larger than",
        ),
        ({"CPFactors": [[zeros(2, 100), zeros(4, 100)]]}, r"of shape \(2, 4\) has no rank 100"),
        (
            {"TuckerFactors": [zeros(1, 1), [zeros(4000, 1), zeros(4000, 1)]]},
            "an array of 16000000 entries is larger than",
        ),
        ({"TuckerFactors": [zeros(60, 60), [zeros(2, 60), zeros(4, 60)]]}, "do not fit a core"),
        (
            {"TrainFactors": [[zeros(1, 2, 500), zeros(500, 4, 1)]]},
            r"of shape \(2, 4\) has no rank 500 after mode 1",
        ),
        ({"NMSparse": [zeros(2), zeros(2, 4), 63]}, "m = 63 must be at least 1 of at most 16"),
        (
            {
                "Sum": [
                    [{"Term": [{"Dense": [zeros(8)]}, {"v": ["Vector", {}]}, [0], 0, 1.0]}],
                    [[HUGE]],
                    1,
                ]
            },
            "term 0 needs the shape",
        ),
        ({"Sum": [[], [[8]], 1]}, "a sum of no blocks"),
        (
            {
                "Sum": [
                    [{"Term": [{"Dense": [zeros(8)]}, {"v": ["Vector", {}]}, [0], 0, 0.0]}],
                    [[8]],
                    1,
                ]
            },
            "with weight 0.0",
        ),
        (
            {
                "Sum": [
                    [{"Term": [{"Dense": [zeros(8)]}, {"v": ["Vector", {}]}, [0, 0], 0, 1.0]}],
                    [[8]],
                    1,
                ]
            },
            r"is at \(0, 0\) of 1 blocks",
        ),
        (
            {
                "Sum": [
                    [
                        {
                            "Term": [
                                {"Dense": [zeros(8, dtype="int64")]},
                                {"v": ["Vector", {}]},
                                [0],
                                0,
                                1.0,
                            ]
                        }
                    ]
                    * 500,
                    [[8]],
                    1,
                ]
            },
            "makes .* bytes, more than",
        ),
        (
            {"Dense": [zeros(2, 5)]},
            r"theta is of shape torch.Size\(\[2, 5\]\), its parameters are of torch.Size\(\[8\]\)",
        ),
        ({"Dense": [zeros(*[1] * 65, 8)]}, "a shape must be a list of counts"),
        (zeros(8), "theta must be a form"),
        ([zeros(8)], "theta must be a form"),
    ],
)
def test_claims_are_checked_before_memory_is_taken(path, theta, message):
    claim(path, theta, [2, 4])

    def check() -> None:
        with pytest.raises(ValueError, match=rf"m.safetensors: task 't' is damaged: .*({message})"):
            leco.load(path, nn.Linear(4, 2))
        with pytest.raises(ValueError, match="task 't' is damaged"):
            leco.thetas(path)

    if MEMORY:
        assert risen(check) < 16 * MB
    else:
        check()


def test_a_small_file_cannot_ask_for_much_work(path):
    view, rank = ("Reshape", {"sizes": [2] * 20}), 2**14
    claim(path, {"CPFactors": [[zeros(2, rank)] * 20]}, [1024, 1024], view=view)
    with pytest.raises(ValueError, match="an array of 33554432 entries is larger than"):
        leco.load(path, nn.Linear(1024, 1024))
    term = {"Term": [{"HashedValues": [zeros(3), 2**20, 1]}, {"v": ["Vector", {}]}, [0], 0, 1.0]}
    claim(path, {"Sum": [[term] * 600, [[2**20]], 1]}, [1024, 1024])
    with pytest.raises(ValueError, match="arrays of 69206016 entries in all are more than"):
        leco.load(path, nn.Linear(1024, 1024))
    sizes = [1] * 5000 + [1024, 1024]
    claim(
        path,
        {
            "Sum": [
                [
                    {
                        "Term": [
                            {"Codes": [zeros(2**20), zeros(1)]},
                            {"v": ["Vector", {}]},
                            [0],
                            0,
                            1.0,
                        ]
                    }
                ],
                [sizes],
                1,
            ]
        },
        [1024, 1024],
    )
    with pytest.raises(ValueError, match="theta has more than 64 dimensions"):
        leco.load(path, nn.Linear(1024, 1024))


def test_without_a_model_the_file_bounds_what_it_may_claim(path):
    claim(path, {"Codes": [zeros(10**12), zeros(1)]}, [10**6, 10**6])
    with pytest.raises(
        ValueError,
        match=r"it claims 1000000000002 weights; without a model, a file of \d+ bytes may have",
    ):
        leco.thetas(path)
    rest = {"bias": zeros(10**12)}
    Parts(
        {"tasks": {}, "tied": {}, "rest": rest}, [Payload(torch.zeros(0, dtype=torch.uint8))]
    ).write(path)
    with pytest.raises(ValueError, match="it claims 1000000000000 weights; without"):
        leco.breakdown(path)
    claim(path, {"Codes": [zeros(10**12), zeros(1)]}, [10**6, 10**6])
    with pytest.raises(
        ValueError,
        match=r"another architecture: 'weight' is \(1000000, 1000000\) in the file "
        r"and \(2, 4\) in the model",
    ):
        leco.load(path, nn.Linear(4, 2))


def test_integers_must_name_values_that_are_there(path):
    raw = {"name": "raw"}
    two, indices = {"t": ["float32", [2], 8, raw]}, {"t": ["uint8", [8], 8, raw]}
    for form in ("Codes", "Fixed"):
        claim(path, {form: [indices, two]}, [2, 4], [bytes([0, 1, 0, 1, 0, 1, 0, 2]), bytes(8)])
        with pytest.raises(
            ValueError,
            match="task 't' is damaged: indices from 0 to 2 must be at least 0 and below 2",
        ):
            leco.load(path, nn.Linear(4, 2))
    claim(path, {"ZeroCodes": [indices, two]}, [2, 4], [bytes([0, 1, 0, 1, 0, 1, 0, 2]), bytes(8)])
    leco.load(path, nn.Linear(4, 2))
    mask = {"t": ["bool", [8], 1, {"name": "digits", "base": 2}]}
    for ones, right in ((0b11, True), (0b1, False), (0b111, False)):
        claim(path, {"Sparse": [mask, two]}, [2, 4], [bytes([ones]), bytes(8)])
        assert bool(refusal(path, nn.Linear(4, 2))) != right
    pattern = {"t": ["uint8", [2], 2, raw]}
    values = {"t": ["float32", [2, 1], 8, raw]}
    for last, right in ((3, True), (4, False)):
        claim(path, {"NMSparse": [pattern, values, 4]}, [2, 4], [bytes([0, last]), bytes(8)])
        assert bool(refusal(path, nn.Linear(4, 2))) != right


def floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def whole(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, device="meta")


def bools(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bool, device="meta")


@pytest.mark.parametrize(
    "theta",
    [
        Codes(floats(4), floats(2)),
        Codes(whole(), floats(2)),
        Codes(whole(3, 4), floats(2, 2)),
        Codes(whole(4), floats(3, 2)),
        Scaled(whole(4), floats(2, 2), floats()),
        Scaled(whole(4), floats(2), floats(4)),
        VectorCodes(whole(3, 4), floats(5, 2)),
        VectorCodes(whole(4), floats(2)),
        HashedValues(floats(2), -1, 0),
        HashedValues(floats(2), 4, 0.5),  # pyright: ignore[reportArgumentType]
        HashedValues(floats(2), True, 0),
        Affine(whole(3, 4), floats(4), whole(4)),
        Sparse(whole(4), floats(2)),
        Sparse(bools(4), floats(5)),
        Sparse(bools(4), floats(2, 1)),
        GroupSparse(bools(4), floats(4)),
        GroupSparse(bools(4), floats(5, 2)),
        NMSparse(whole(4), floats(4, 3), 2),
        NMSparse(whole(4), floats(4, 17), 17),
        NMSparse(whole(4), floats(5, 2), 4),
        Factors(floats(3, 2), floats(1, 3)),
        Factors(floats(2, 3, 2), floats(3, 2, 3)),
        Factors(floats(3, 4), floats(4, 5)),
        ConvFactors(floats(4, 2), floats(2, 9), 3, 3, 3),
        ConvFactors(floats(4, 2), floats(2, 8), 1, 3, 3),
        ConvFactors(floats(4, 2), floats(2, 9), 2, 3, 3),
        ConvFactors(floats(4, 2), floats(2, 9), 1, 0, 3),
        TuckerFactors(floats(2, 2), (floats(3, 1),)),
        TuckerFactors(floats(3), (floats(2, 3),)),
        TuckerFactors(floats(2), (floats(3, 2), floats(3, 2))),
        CPFactors(()),
        CPFactors((floats(3, 2), floats(3, 1))),
        CPFactors((floats(2, 3), floats(3, 3))),
        TrainFactors((floats(1, 3, 2), floats(1, 3, 1))),
        TrainFactors((floats(2, 3, 1),)),
        TrainFactors((floats(1, 2, 3), floats(3, 4, 1))),
        TrainFactors((floats(1, 3), floats(3, 1))),
        Sum((Term(CPFactors((floats(3, 1),)), leco.Vector(), (1,)),), ((3,),), 1),
        Sum(
            (Term(CPFactors((floats(3, 1),)), leco.Vector(), (0,), weight=float("nan")),),
            ((3,),),
            1,
        ),
        Sum((Term(CPFactors((floats(3, 1),)), leco.Vector(), (0,)),), ((3,), (3,)), 1),
        Sum((Term(CPFactors((floats(3, 1),)), leco.Vector(), (0,)),), ((3,),), 2),
    ],
)
def test_fields_that_do_not_fit_are_seen_from_their_shapes(theta):
    with pytest.raises(ValueError, match=r"\w"):
        theta.shape()


def test_forms_in_forms_in_forms_end(path):
    theta: Any = {"Dense": [zeros(8)]}
    for _ in range(200):
        theta = {"Dense": [theta]}
    claim(path, theta, [2, 4])
    with pytest.raises(ValueError, match="forms may be nested 32 deep"):
        leco.load(path, nn.Linear(4, 2))


@pytest.mark.skipif(not MEMORY, reason="needs Linux")
def test_reading_takes_the_net_and_the_file(path):
    net = nn.Sequential(nn.Linear(2000, 1500), nn.Linear(1500, 1000))
    lc = leco.LC(net, leco.each(leco.match(net, "*.weight"), leco.Matrix(), leco.Codebook(4)))
    lc.mu = 1.0
    leco.save(path, lc)
    model = nn.Sequential(nn.Linear(2000, 1500), nn.Linear(1500, 1000))
    leco.describe(path)
    assert risen(lambda: leco.load(path, model)) < 2.2 * leco.dense_bytes(net)
    assert risen(lambda: leco.thetas(path)) < leco.dense_bytes(net)
    path.write_bytes(path.read_bytes()[:-1])
    assert risen(lambda: refusal(path, nn.Linear(2, 2))) < MB
