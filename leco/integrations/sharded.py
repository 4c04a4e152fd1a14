"""The state of an LC in a checkpoint of torch's `distributed.checkpoint`."""

import io
from collections.abc import Mapping
from typing import Any

import torch

from leco.algorithm.lc import LC


class ShardedState:
    """An LC as a part of what `distributed.checkpoint` saves and loads: each rank writes its parts
    of the multipliers and of the metric, and any number of ranks reads them.

        state = {"model": model.state_dict(), "lc": ShardedState(lc)}
        dcp.save(state, checkpoint_id=folder)
        dcp.load(state, checkpoint_id=folder)

    Load the model's weights in the same call: the Thetas belong to them.

    Args:
        lc: made with a metric where the saved one had one, of the parameters' shapes.
            `load_state_dict` raises ValueError for other tasks, changing nothing but the
            multipliers and the metric.
    """

    def __init__(self, lc: LC):
        self.lc = lc

    def state_dict(self) -> dict[str, Any]:
        """The sharded tensors, and all else as bytes, whose length may differ at the next load."""
        state, file = self.lc.state_dict(), io.BytesIO()
        tensors = {name: state.pop(name) for name in ("multipliers", "metric")}
        torch.save(state, file)
        return {**tensors, "other": file.getvalue()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, after `distributed.checkpoint` filled the tensors."""
        file = io.BytesIO(state["other"])
        other = torch.load(file, map_location="cpu", weights_only=True)
        tensors = {name: state.get(name, {}) for name in ("multipliers", "metric")}
        self.lc.load_state_dict({**other, **tensors})
