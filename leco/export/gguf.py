"""GGUF: a file that llama.cpp runs, whose quantized blocks are the grids of Theta."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from leco.algorithm.compressed import Compressed, compressed_tasks
from leco.algorithm.lc import LC
from leco.atomic import atomically
from leco.compressions.runtime_grids import GGUF
from leco.export.codes import at_delta
from leco.export.gguf_architectures import Architecture, architecture_of, dense
from leco.export.gguf_blocks import FILE_TYPES, LEVELS, NUMBERS, Fields, Packed, fields_of, pack
from leco.export.gguf_vocabulary import Vocabulary, vocabulary
from leco.modules import check_copyable, linear_like
from leco.optional import optional

FUNCTION = "export_gguf"
TYPES = ("Q1_0", "TQ2_0", "Q2_0", "Q4_0", "Q4_1", "Q8_0")


class Held(NamedTuple):
    """A tensor of the file: its name, its data, its shape, and ggml's number of its type (None for
    floats)."""

    name: str
    data: np.ndarray[Any, Any]
    shape: tuple[int, ...]
    number: int | None


def export_gguf(
    path: str | os.PathLike[str],
    model: nn.Module,
    compressed: LC | Mapping[str, Compressed],
    tokenizer: Any = None,
    *,
    types: Sequence[str] = TYPES,
    half: bool = False,
    pre: str | None = None,
) -> dict[str, str]:
    """Write a GGUF file of the net at w = Delta(Theta), and return the type of each compressed
    parameter.

    The model is one of transformers: `llama` (SmolLM2, Llama 2 and 3), `qwen2` or `gpt2`. Each
    compressed parameter is held by the first of `types` that holds it exactly: nothing is quantized
    again, and the weights that the runtime decodes are Delta(Theta) to the bit (in float32).
    `leco.gguf_grid` gives the grids. All other parameters are dense. An output layer that is tied
    to the embedding is written once.

    Args:
        path: replaced at once, when all is written.
        model: the net of `compressed`, or one with the same parameters; it is not changed.
        compressed: an `LC` that has its Thetas, or what `leco.thetas` gives.
        tokenizer: a fast tokenizer of transformers with byte-level BPE. Without one the file has no
            vocabulary: it runs on token numbers only.
        types: GGUF types in the order of preference. Put "TQ1_0" before "TQ2_0" for a smaller
            file of ternary weights, which is slower to decode.
        half: matrices in no task in half precision; else in float32. Vectors are in float32.
        pre: llama.cpp's name of the tokenizer's pre-tokenizer, where it is not found by itself.

    Raises:
        ImportError: gguf is not installed, or can't be imported.
        ValueError: an architecture, a tokenizer or a configuration that is not known; a parameter
            that the model has not, or of another shape; a compressed parameter that no type holds,
            with the reasons and the nearest grid.

    Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    gguf = optional("gguf", FUNCTION, "gguf", "gguf")
    unknown = [kind for kind in types if kind not in GGUF]
    if unknown:
        raise ValueError(f"{FUNCTION}: types has {unknown}; known are {', '.join(GGUF)}")
    architecture = architecture_of(FUNCTION, model)
    check_copyable(FUNCTION, model)
    net: Any = at_delta(FUNCTION, model, compressed)
    rows = net.get_input_embeddings().weight.shape[0]
    words = None if tokenizer is None else vocabulary(FUNCTION, tokenizer, rows, pre)

    # the tensors
    packed = _packed(net, compressed, architecture, types, gguf)
    tensors = list(_tensors(net, packed, architecture, half, gguf))
    kinds = Counter(own.kind for own in packed.values())

    def write(temporary: str) -> None:
        writer = gguf.GGUFWriter(temporary, architecture.name)
        try:
            _write_keys(writer, net.config, architecture, kinds, half)
            _write_vocabulary(writer, words, rows)
            for tensor in tensors:
                writer.add_tensor(tensor.name, tensor.data, tensor.shape, tensor.number)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    atomically(Path(path), write)
    return {name: own.kind for name, own in packed.items()}


def _packed(
    net: Any,
    compressed: LC | Mapping[str, Compressed],
    architecture: Architecture,
    types: Sequence[str],
    gguf: Any,
) -> dict[str, Packed]:
    """Each compressed parameter as blocks, its rows in the file's order."""
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.name.upper()], net.config.num_hidden_layers
    )
    upright = _transposed(net)
    found = {}
    for task, (shapes, view, theta) in compressed_tasks(compressed).items():
        fields = fields_of(theta, view, shapes)
        for name in shapes:
            order = architecture.order(net.config, _name(names, name))
            own = None if fields is None else fields[name]
            if own is not None and net.get_parameter(name).dim() == 2:
                if name in upright:
                    own = own.arranged(lambda x: x.mT)
                own = own.arranged(order)
                tried = {kind: pack(own, kind, gguf) for kind in types}
            else:
                tried = dict.fromkeys(types, f"a {type(theta).__name__} of shape {shapes[name]}")
            held = next((p for p in tried.values() if isinstance(p, Packed)), None)
            if held is None:
                raise ValueError(_refusal(task, name, theta, own, tried))
            found[name] = held
    return found


def _refusal(
    task: str, name: str, theta: Any, fields: Fields | None, tried: Mapping[str, Any]
) -> str:
    """Why no type holds a parameter, and which grid is nearest."""
    reasons = "; ".join(f"{kind}: {reason}" for kind, reason in tried.items())
    return (
        f"{FUNCTION}: task {task!r} has {name!r} as a {type(theta).__name__}, which no type holds "
        f"({reasons}). The nearest grid is leco.gguf_grid({_nearest(fields)!r})"
    )


def _nearest(fields: Fields | None) -> str:
    """The smallest type that has the levels of a grid, in rows that it fits."""
    if fields is None or fields.levels.dim() != 2:
        return "Q8_0"
    least, most = int(fields.levels.min()), int(fields.levels.max())
    length = fields.levels.shape[1]
    for kind, (low, high) in LEVELS.items():
        fits = low <= least <= most <= high or -high <= least <= most <= -low
        shifted = fields.shift is not None
        if fits and shifted == (kind == "Q4_1") and not length % GGUF[kind].size:
            return kind
    return "Q8_0"


def _transposed(net: nn.Module) -> set[str]:
    """The weights (in, out) of transformers' Conv1D."""
    return {f"{name}.weight" for name, m in net.named_modules() if linear_like(m) == 1}


def _name(names: Any, parameter: str) -> str:
    """The name of a parameter in the file."""
    found = names.get_name(parameter, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ValueError(f"{FUNCTION}: {parameter!r} has no place in a file of this architecture")
    return found


def _tensors(
    net: Any, packed: Mapping[str, Packed], architecture: Architecture, half: bool, gguf: Any
) -> Any:
    """The tensors of the file, each parameter once."""
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.name.upper()], net.config.num_hidden_layers
    )
    blocks = {id(net.get_parameter(name)): own for name, own in packed.items()}
    upright = _transposed(net)
    for name, weight in net.named_parameters():
        place = _name(names, name)
        shape = tuple(weight.shape[::-1] if name in upright else weight.shape)
        own = blocks.get(id(weight))
        if own is not None:
            yield Held(place, own.data.view(np.int8), shape, NUMBERS[own.kind])
            continue
        seen = weight.mT if name in upright else weight
        array = dense(architecture.order(net.config, place)(seen), half)
        yield Held(place, array, array.shape, None)


def _write_keys(
    writer: Any, config: Any, architecture: Architecture, kinds: Counter[str], half: bool
) -> None:
    """Write what the architecture needs, and the type that most matrices are of."""
    writer.add_type("model")
    writer.add_name(str(getattr(config, "name_or_path", "") or architecture.name))
    most = kinds.most_common(1)[0][0] if kinds else "F16" if half else "F32"
    writer.add_file_type(FILE_TYPES[most])
    writer.add_quantization_version(2)
    architecture.keys(writer, config)
    writer.add_vocab_size(config.vocab_size)


def _write_vocabulary(writer: Any, words: Vocabulary | None, rows: int) -> None:
    """Write the tokenizer, or that there is none."""
    if words is None:
        writer.add_tokenizer_model("none")
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(words.begins)
    for name, number in words.special.items():
        {
            "bos": writer.add_bos_token_id,
            "eos": writer.add_eos_token_id,
            "unk": writer.add_unk_token_id,
            "pad": writer.add_pad_token_id,
        }[name](number)
    if words.template:
        writer.add_chat_template(words.template)
