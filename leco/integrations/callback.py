"""What the callbacks of all trainers have in common."""

from collections.abc import Callable
from typing import Any

from leco.algorithm.lc import LC
from leco.algorithm.run import Run
from leco.integrations.driver import Driver, Schedule


class Driven:
    """A callback with a `Driver`. The arguments are the driver's."""

    def __init__(self, lc_of: Callable[[Any], LC], schedule: Schedule, **options: Any):
        self._driver = Driver(lc_of, schedule, **options)

    @property
    def lc(self) -> LC:
        """The LC. Raises ValueError before the training has begun."""
        return self._driver.lc

    @property
    def run(self) -> Run:
        """The run, with its records. Raises ValueError before the training has begun."""
        return self._driver.run
