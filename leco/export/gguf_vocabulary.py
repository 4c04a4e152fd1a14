"""A tokenizer of transformers as the vocabulary of a GGUF file: byte-level BPE, the kind of GPT-2,
Qwen2, Llama 3 and SmolLM2."""

import json
from typing import Any, NamedTuple

SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
"""llama.cpp's names of pre-tokenizers that split by a regular expression."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # token types


class Vocabulary(NamedTuple):
    """What a GGUF file says of a tokenizer: its tokens with their types, merges, special tokens by
    name, and the name of its pre-tokenizer."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: dict[str, int]
    begins: bool
    template: str | None


def vocabulary(function: str, tokenizer: Any, size: int, pre: str | None) -> Vocabulary:
    """The vocabulary of a fast tokenizer, with unused tokens up to `size`, the embedding's rows.

    Raises:
        ValueError: a tokenizer that is no byte-level BPE, that has more tokens than the embedding
            has rows, or whose pre-tokenizer has no known name.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{function}: a {type(tokenizer).__name__} has no backend_tokenizer; pass a fast "
            "tokenizer of transformers"
        )
    described = json.loads(backend.to_str())
    model = described["model"]
    if model["type"] != "BPE" or model.get("byte_fallback") or described["normalizer"]:
        kind = "byte_fallback" if model.get("byte_fallback") else "a normalizer"
        why = kind if model["type"] == "BPE" else f"the model {model['type']}"
        raise ValueError(f"{function}: the tokenizer has {why}; only byte-level BPE is written")
    by_number = {number: text for text, number in tokenizer.get_vocab().items()}
    if max(by_number) >= size:
        raise ValueError(
            f"{function}: the tokenizer has tokens up to number {max(by_number)}, "
            f"the embedding {size} rows"
        )

    # tokens and their types
    tokens = [by_number.get(number, f"[PAD{number}]") for number in range(size)]
    types = [NORMAL if number in by_number else UNUSED for number in range(size)]
    for added in described["added_tokens"]:
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]

    # special tokens
    ids = {n: getattr(tokenizer, f"{n}_token_id", None) for n in ("bos", "eos", "unk", "pad")}
    special = {name: number for name, number in ids.items() if number is not None}
    first = tokenizer("a")["input_ids"][:1]
    begins = first == [special.get("bos")]
    name = pre or _pre_tokenizer(function, described["pre_tokenizer"])
    template = getattr(tokenizer, "chat_template", None)
    return Vocabulary(name, tokens, types, merges, special, begins, template)


def _pre_tokenizer(function: str, described: Any) -> str:
    """llama.cpp's name of a pre-tokenizer."""
    steps = described["pretokenizers"] if described.get("type") == "Sequence" else [described]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        name = SPLITS.get(steps[0]["pattern"].get("Regex", ""))
        if name is not None:
            return name
    raise ValueError(
        f"{function}: the pre-tokenizer {' + '.join(kinds)} has no known name in llama.cpp; pass "
        "its name, such as pre='llama-bpe'"
    )
