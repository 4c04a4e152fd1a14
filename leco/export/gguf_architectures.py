"""The architectures that llama.cpp knows and `export_gguf` writes: what a configuration of
transformers must be, and the keys of the file."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Architecture(NamedTuple):
    """An architecture of llama.cpp.

    Args:
        name: llama.cpp's, which is also transformers' `model_type`.
        wanted: options that the runtime computes with, and the only values that it knows.
        keys: writes the keys of the file, of a writer and a configuration.
        permuted: whether the rows of queries and keys are in another order, pairs of rotary
            embeddings side by side.
    """

    name: str
    wanted: dict[str, tuple[Any, ...]]
    keys: Callable[[Any, Any], None]
    permuted: bool

    def check(self, function: str, config: Any) -> None:
        """Raise ValueError for an option that the runtime does not know."""
        for option, known in self.wanted.items():
            value = getattr(config, option, known[0])
            if value not in known:
                raise ValueError(
                    f"{function}: {self.name} with {option} = {value!r} is not what llama.cpp "
                    f"computes; it must be {' or '.join(map(repr, known))}"
                )
        rope = rotary(config)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise ValueError(
                f"{function}: rotary embeddings {rope} are not written, only the default"
            )

    def order(self, config: Any, name: str) -> Callable[[Tensor], Tensor]:
        """The order of the rows of a tensor with this name in the file."""
        heads = {"attn_q": config.num_attention_heads} if self.permuted else {}
        if self.permuted:
            heads["attn_k"] = config.num_key_value_heads
        own = next((n for part, n in heads.items() if f".{part}." in name), None)
        return (lambda x: x) if own is None else (lambda x: _paired(x, own))


def _paired(x: Tensor, heads: int) -> Tensor:
    """The rows of each head with those of the two halves in turn."""
    halves = x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:])
    return halves.transpose(1, 2).reshape(x.shape)


def rotary(config: Any) -> dict[str, Any]:
    """The options of rotary embeddings."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    return dict(found or {})


def _llama_keys(writer: Any, config: Any) -> None:
    """Blocks with rotary embeddings, gates and RMS norms."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    default = getattr(config, "rope_theta", 10000.0)
    writer.add_rope_freq_base(float(rotary(config).get("rope_theta", default)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _gpt2_keys(writer: Any, config: Any) -> None:
    """Blocks with learned positions and layer norms."""
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


ARCHITECTURES = {
    found.name: found
    for found in (
        Architecture("llama", {"hidden_act": ("silu",)}, _llama_keys, True),
        Architecture(
            "qwen2", {"hidden_act": ("silu",), "use_sliding_window": (False,)}, _llama_keys, False
        ),
        Architecture(
            "gpt2",
            {
                "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
                "scale_attn_weights": (True,),
                "scale_attn_by_inverse_layer_idx": (False,),
                "add_cross_attention": (False,),
            },
            _gpt2_keys,
            False,
        ),
    )
}
"""By transformers' `model_type`."""


def architecture_of(function: str, model: Any) -> Architecture:
    """The architecture of a model of transformers.

    Raises:
        ValueError: a model without a configuration, of another architecture, or with an option
            that the runtime does not know.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        named = type(model).__name__ if kind is None else f"{type(model).__name__} ({kind})"
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{function}: the model is a {named}; known are {known} of transformers")
    found = ARCHITECTURES[kind]
    found.check(function, config)
    return found


def dense(weight: Tensor, half: bool) -> Any:
    """A tensor as an array in float32; a matrix in half precision where `half`."""
    kind = torch.float16 if half and weight.dim() > 1 else torch.float32
    return weight.detach().to(kind).cpu().contiguous().numpy()
