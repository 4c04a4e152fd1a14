"""llama.cpp itself, called in the library of the package `xllamacpp`: logits of a GGUF file, and
ggml's own quantizer.

Structures of parameters are taken as the library gives them, but for the number of sequences. They
are the last arguments of their functions, so that room for more than they need does no harm.
"""

import ctypes
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


class Options(ctypes.Structure):
    """Room for a structure of parameters. That of a context begins with these four."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        ("room", ctypes.c_uint64 * 128),
    ]


class Batch(ctypes.Structure):
    """Tokens to decode."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def library() -> Any:
    """The shared library, with the types of its functions. It logs nothing."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.origin:
        raise SystemExit("install llama.cpp first: pip install xllamacpp")
    found: Any = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
        ("llama_backend_init", None, []),
        ("llama_log_set", None, [pointer, pointer]),
        ("llama_model_default_params", Options, []),
        ("llama_context_default_params", Options, []),
        ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Options]),
        ("llama_init_from_model", pointer, [pointer, Options]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", integer, [pointer]),
        ("llama_tokenize", integer, [pointer, ctypes.c_char_p, integer, pointer, integer]),
        ("llama_batch_init", Batch, [integer, integer, integer]),
        ("llama_batch_free", None, [Batch]),
        ("llama_decode", integer, [pointer, Batch]),
        ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [pointer]),
        ("llama_get_memory", pointer, [pointer]),
        ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
        ("llama_set_n_threads", None, [pointer, integer, integer]),
        ("llama_free", None, [pointer]),
        ("llama_model_free", None, [pointer]),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    found.llama_tokenize.argtypes += [ctypes.c_bool, ctypes.c_bool]
    found.llama_log_set(ctypes.cast(SILENT, pointer), None)
    found.llama_backend_init()
    return found


class Runtime:
    """A GGUF file in llama.cpp, on one thread.

    Args:
        path: the file.
        threads: of the products.
        sequences: the most that `step` takes at once.

    Raises:
        ValueError: llama.cpp does not load the file.
    """

    def __init__(self, path: Path | str, threads: int = 1, sequences: int = 1):
        self._lib = library()
        self._model = self._lib.llama_model_load_from_file(
            str(path).encode(), self._lib.llama_model_default_params()
        )
        if not self._model:
            raise ValueError(f"llama.cpp does not load {path}")
        options = self._lib.llama_context_default_params()
        options.n_seq_max = sequences
        self._context = self._lib.llama_init_from_model(self._model, options)
        self._lib.llama_set_n_threads(self._context, threads, threads)
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.tokens = self._lib.llama_vocab_n_tokens(self._vocab)

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def tokenize(self, text: str) -> list[int]:
        """The numbers of a text's tokens."""
        coded, room = text.encode(), (ctypes.c_int32 * (len(text.encode()) + 8))()
        count = self._lib.llama_tokenize(
            self._vocab, coded, len(coded), room, len(room), True, True
        )
        return list(room[:count])

    def forget(self) -> None:
        """Empty the cache of keys and values."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def decode(self, tokens: Sequence[int], first: int = 0) -> Tensor:
        """The logits (n, tokens) after each of n tokens; `first` is the place of the first one."""
        return self._decode(tokens, range(first, first + len(tokens)), [0] * len(tokens))

    def step(self, tokens: Sequence[int]) -> Tensor:
        """The logits (n, tokens) after the first tokens of n sequences."""
        self.forget()
        return self._decode(tokens, [0] * len(tokens), range(len(tokens)))

    def _decode(
        self, tokens: Sequence[int], places: Sequence[int], sequences: Sequence[int]
    ) -> Tensor:
        """The logits (n, tokens) after n tokens at their places in their sequences."""
        count = len(tokens)
        batch = self._lib.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i, (token, place, sequence) in enumerate(zip(tokens, places, sequences, strict=True)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), place, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, 1
        failed = self._lib.llama_decode(self._context, batch)
        self._lib.llama_batch_free(batch)
        if failed:
            raise ValueError(f"llama.cpp does not decode {count} tokens: code {failed}")
        logits = np.ctypeslib.as_array(
            self._lib.llama_get_logits(self._context), (count, self.tokens)
        )
        return torch.from_numpy(logits.copy())

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens, each the most likely one."""
        self.forget()
        logits, found = self.decode(tokens), []
        for i in range(count):
            found.append(int(logits[-1].argmax()))
            if i + 1 < count:
                logits = self.decode(found[-1:], len(tokens) + i)
        return found

    def speed(self, count: int) -> float:
        """Tokens a second, one at a time, after a first one."""
        self.forget()
        self.decode([1])
        start = time.perf_counter()
        for i in range(count):
            self.decode([1], i + 1)
        return count / (time.perf_counter() - start)


def quantized(
    weight: Tensor, number: int, importance: Tensor | None = None
) -> np.ndarray[Any, Any]:
    """A matrix as ggml's own quantizer packs it: bytes (rows, bytes of a row).

    Args:
        weight: (rows, length).
        number: ggml's number of the type.
        importance: (length,), the mean square of each input; types without a use for it ignore it.
    """
    lib, rows = library(), weight.detach().float().contiguous().numpy()
    weights = None if importance is None else importance.float().contiguous().numpy()
    lib.ggml_row_size.restype = ctypes.c_size_t
    lib.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    found = np.zeros((len(rows), lib.ggml_row_size(number, rows.shape[1])), np.uint8)
    source, into = (a.ctypes.data_as(ctypes.c_void_p) for a in (rows, found))
    by = None if weights is None else weights.ctypes.data_as(ctypes.c_void_p)
    lib.ggml_quantize_chunk(number, source, into, 0, *rows.shape, by)
    return found


def decoded(data: np.ndarray[Any, Any], kind: str, length: int) -> Tensor:
    """The weights (rows, length) that ggml decodes from bytes of a type, such as "Q4_0"."""
    function = getattr(library(), f"dequantize_row_{kind.lower()}")
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    own, found = np.ascontiguousarray(data), np.zeros((len(data), length), np.float32)
    source, into = (a.ctypes.data_as(ctypes.c_void_p) for a in (own, found))
    function(source, into, found.size)
    return torch.from_numpy(found)
