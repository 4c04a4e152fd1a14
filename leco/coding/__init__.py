"""Lossless coding of tensors: `tensors` chooses among the codings that `streams`, `contexts` and
`floats` implement."""
