"""Folders of transformers with a compressed net: `save_pretrained` here, and `from_pretrained` of
every Auto class.

    from leco.integrations.pretrained import save_pretrained  # also tells transformers of leco

    save_pretrained("small", model, lc)
    model = AutoModelForCausalLM.from_pretrained("small")

The folder has config.json with `quant_method: "leco"`, and the file of `leco.save` as
model.safetensors. The weights of the loaded model are Delta(Theta), cast to its dtype.
"""

import copy
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm.compressed import Compressed
from leco.algorithm.lc import LC
from leco.algorithm.record import Snapshot
from leco.files.contents import contents, decoded
from leco.files.reader import opened
from leco.files.save import save
from leco.layers.packed import pack
from leco.optional import optional
from leco.theta import THETAS
from leco.views import VIEWS

OWNER = "leco.integrations.pretrained"
quantizers = optional("transformers.quantizers.auto", OWNER, "transformers", "trainers")
base = optional("transformers.quantizers.base", OWNER, "transformers", "trainers")
configs = optional("transformers.utils.quantization_config", OWNER, "transformers", "trainers")
METHOD = "leco"
FILE = "model.safetensors"
LOGGER = logging.getLogger("transformers.modeling_utils")


class _NoTies(logging.Filter):
    """Drops the warning about a missing tied weight, before the file of leco is read."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "The tied weights mapping" not in record.getMessage()


@quantizers.register_quantization_config(METHOD)
class LecoConfig(configs.QuantizationConfigMixin):
    """`quantization_config` of a folder with a compressed net.

    Args:
        packed: the loaded layers keep their weights packed, as those of `leco.pack`; False: the
            weights are dense, at Delta(Theta).
    """

    def __init__(self, packed: bool = False, **others: Any):
        self.quant_method = METHOD
        self.packed = packed


@quantizers.register_quantizer(METHOD)
class LecoQuantizer(base.HfQuantizer):
    """Loads a file of `leco.save` into a model of transformers."""

    def __init__(self, quantization_config: Any, **options: Any):
        super().__init__(quantization_config, **options)
        self._files: list[str] = []
        self._versions: dict[str, int] = {}
        self._quiet = _NoTies()

    # --- loading

    def validate_environment(self, *_: Any, **__: Any) -> None:
        if not self.pre_quantized:
            raise ValueError(
                "leco compresses with leco.calibrate, leco.run or `leco compress`; "
                "from_pretrained loads what they made"
            )

    def _process_model_before_weight_loading(self, model: Any, **given: Any) -> Any:
        """Note the files. transformers finds none of its names in them; suppress its warnings."""
        self._files = list(given.get("checkpoint_files") or [])
        self._quiet = _NoTies()
        LOGGER.addFilter(self._quiet)
        model._keys_to_ignore_on_load_missing = {"."}
        model._keys_to_ignore_on_load_unexpected = {"."}
        return model

    @torch.no_grad()
    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        """Put Delta(Theta) and all else that the files hold into the model."""
        del model._keys_to_ignore_on_load_missing, model._keys_to_ignore_on_load_unexpected
        LOGGER.removeFilter(self._quiet)
        values, tasks = _read(self._files)
        # the model's own names
        names = _own_names(model, values)
        state = model.state_dict(keep_vars=True)
        filled = {id(state[own]) for own in names.values()}
        fresh = [name for name, value in state.items() if id(value) not in filled]
        if fresh:
            shown = ", ".join(fresh[:4]) + (", ..." if len(fresh) > 4 else "")
            warnings.warn(f"not in the file, and newly initialized: {shown}", stacklevel=2)
        # the values
        for name, own in names.items():
            if state[own].shape != values[name].shape:
                raise ValueError(
                    f"{self._files[0]}: {name!r} has shape {tuple(values[name].shape)}, "
                    f"{own!r} of the model {tuple(state[own].shape)}"
                )
            state[own].copy_(values[name])
        if self.quantization_config.packed:
            _pack_(model, tasks, names)
        self._versions = _versions(model)
        return model

    # --- saving again

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return not self.quantization_config.packed

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the entries of the files that the model was loaded from.

        Raises:
            ValueError: a model that was changed since, or files that are gone.
        """
        if _versions(model) != self._versions:
            raise ValueError(
                "the weights have changed since they were loaded, so the model is not that of its "
                "file; model.dequantize() makes it an ordinary model, or compress it again"
            )
        return _entries(self._files), {}

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        """Return the model as an ordinary one. Dense weights are already as they must be."""
        if self.quantization_config.packed:
            raise ValueError("a packed model has no dense weights; set packed to false to load it")
        return model


def save_pretrained(
    folder: str | os.PathLike[str],
    model: Any,
    lc: LC,
    *,
    snapshot: Snapshot | None = None,
    dtype: torch.dtype | None = None,
    packed: bool = False,
    tokenizer: Any = None,
) -> int:
    """Write a folder that `from_pretrained` loads, and return the bytes of its model.safetensors.

    Args:
        folder: where to write; it is made where it is not there.
        model: of transformers, whose LC `lc` is.
        lc: with Thetas.
        snapshot, dtype: as for `leco.save`.
        packed: whether a loaded model keeps its weights packed.
        tokenizer: saved beside the model where it is given.

    Raises:
        TypeError: a model that is not of transformers.
        ValueError: an LC of another model; as `leco.save`.
    """
    config = getattr(model, "config", None)
    if config is None or not callable(getattr(config, "save_pretrained", None)):
        raise TypeError(f"save_pretrained: {type(model).__name__} is no model of transformers")
    if lc.model is not model:
        raise ValueError("save_pretrained: lc is of another model")
    # the file
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    size = save(place / FILE, lc, snapshot=snapshot, dtype=dtype)
    # what stands beside it
    described = copy.deepcopy(config)
    described.architectures = [type(model).__name__]
    described.dtype = str(model.dtype).removeprefix("torch.")
    described.quantization_config = LecoConfig(packed)
    described.save_pretrained(place)
    if model.can_generate():
        model.generation_config.save_pretrained(place)
    if tokenizer is not None:
        tokenizer.save_pretrained(place)
    return size


def _read(files: list[str]) -> tuple[dict[str, Tensor], dict[str, Compressed]]:
    """Return every tensor of the net, by name, and the tasks."""
    if len(files) != 1:
        return _read_shards(files)
    values, tasks = dict[str, Tensor](), dict[str, Compressed]()
    with opened(files[0]) as file:
        found = contents(file, THETAS, VIEWS, None)
        for name, task in decoded(file, found, found.tasks):
            tasks[name] = task
            values |= task.deltas()
        values |= {name: file.read(stored).clone() for name, stored in found.rest.items()}
        values |= {name: values[first] for name, first in found.tied.items()}
    return values, tasks


def _read_shards(files: list[str]) -> tuple[dict[str, Tensor], dict[str, Compressed]]:
    """Do the same for a file that transformers has split into several."""
    if not files:
        raise ValueError("from_pretrained gave no files; leco needs transformers 5 or newer")
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        whole = f"{folder}/{FILE}"
        save_file(_entries(files), whole)
        return _read([whole])


def _entries(files: Iterable[str]) -> dict[str, Tensor]:
    """Return the safetensors entries of files."""
    from safetensors.torch import load_file

    return {name: t.clone() for file in files for name, t in load_file(file).items()}


def _own_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Return the model's name for each name in the file: the same one, or one with or without the
    prefix of the base model."""
    own, prefix = set(model.state_dict()), f"{model.base_model_prefix}."
    found = dict[str, str]()
    for name in names:
        for known in (name, name.removeprefix(prefix), prefix + name):
            if known in own:
                found[name] = known
                break
    if not found:
        raise ValueError(f"the file is of another architecture than {type(model).__name__}")
    return found


def _pack_(model: nn.Module, tasks: Mapping[str, Compressed], names: Mapping[str, str]) -> None:
    """Replace the layers of the model by packed ones."""
    mine = {
        task: found._replace(shapes={names[n]: shape for n, shape in found.shapes.items()})
        for task, found in tasks.items()
        if all(name in names for name in found.shapes)
    }
    _replace_(model, pack(model, mine))


def _replace_(model: nn.Module, packed: nn.Module) -> None:
    """Put the layers of a packed copy that have another class into the model."""
    for name, child in packed._modules.items():
        own = model._modules[name]
        if child is None or own is None:
            continue
        if type(own) is type(child):
            _replace_(own, child)
        else:
            model._modules[name] = child


def _versions(model: nn.Module) -> dict[str, int]:
    """Return how often each parameter was written to."""
    return {name: p._version for name, p in model.named_parameters()}
