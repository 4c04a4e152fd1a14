"""The trials of `leco sweep --optimize`: a search for small files with small errors.

Optuna's TPE sampler chooses a word for each group of layers. Each choice is a job of `leco
compress` in a folder of its own. A journal in the folder of the search keeps the trials.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from leco.command import recipe as recipes
from leco.command import space
from leco.command.jobs import point, work
from leco.command.recipe import Recipe
from leco.command.sources import source
from leco.command.words import KEEP
from leco.optional import optional

STALE = 30  # choices in turn that were tried before, after which the search ends
KEPT, JOURNAL = "search.yaml", "trials.journal"

Words = dict[str, str]


class Search:
    """The trials of a recipe's search, in a folder. Those that are done are not done again.

    Args:
        recipe: with a search and a judge.
        out: keeps the journal, the recipe, and a folder for each trial.

    Raises:
        ValueError: no judge; a folder of another search; patterns that match nothing.
        ImportError: optuna is not installed.
    """

    def __init__(self, recipe: Recipe, out: Path):
        self._optuna = optional("optuna", "leco sweep --optimize", "optuna", "search")
        self._states = optional("optuna.trial", "leco sweep", "optuna", "search").TrialState
        if recipe.evaluate is None:
            raise ValueError("--optimize needs --evaluate, with data to choose by")
        self._groups = space.groups_of(source(recipe.model).model, recipe)
        self._recipe, self._out = recipe, out
        self._check_folder()
        self._study = self._opened()

    @property
    def tried(self) -> dict[Path, Words]:
        """The choices that are done, by folder."""
        return {
            self._out / trial.user_attrs["folder"]: trial.user_attrs["words"]
            for trial in self._study.trials
            if trial.state.is_finished() and "folder" in trial.user_attrs
        }

    def run(self, jobs: int, console: Console, bar: bool) -> None:
        """Try choices until there are as many as the recipe says, some at a time.

        Raises:
            ValueError: a job that fails; the same command goes on with it.
        """
        assert self._recipe.optimize is not None
        most = self._recipe.optimize.trials
        while (count := len(self.tried)) < most:
            trials = self._next(min(jobs, most - count))
            if not trials:
                console.print(f"{count} trials; the search finds no other choice")
                return
            made, titles = dict[Path, Recipe](), dict[Path, str]()
            for trial in trials:
                folder, words = self._out / trial.user_attrs["folder"], trial.user_attrs["words"]
                made[folder] = space.recipe_of(self._recipe, self._groups, words)
                titles[folder] = f"{folder.name} of {most}: {space.spoken(words)}"
            work(made, titles, jobs, console, bar)
            for trial in trials:
                self._tell(trial)

    # --- the folder

    def _check_folder(self) -> None:
        """Keep the recipe in the folder. Raises ValueError where it has another one."""
        assert self._recipe.optimize is not None
        part = self._recipe.optimize.model_copy(update={"trials": 1})  # more trials may follow
        own = self._recipe.model_copy(update={"optimize": part})
        kept = self._out / KEPT
        if kept.exists() and recipes.checked(recipes.read(kept), str(kept)) != own:
            raise ValueError(f"{self._out} is of another search; remove it, or give another --out")
        self._out.mkdir(parents=True, exist_ok=True)
        recipes.write(kept, own)

    def _opened(self) -> Any:
        """Open the study of the folder's journal. A new one begins with one word for all groups."""
        journals = optional("optuna.storages.journal", "leco sweep", "optuna", "search")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        backend = journals.JournalFileBackend(str(self._out / JOURNAL))
        study = self._optuna.create_study(
            storage=self._optuna.storages.JournalStorage(backend),
            study_name="leco",
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        if not study.trials:
            for words in space.plain(self._groups):
                study.enqueue_trial(words)
        return study

    # --- the trials

    def _next(self, most: int) -> list[Any]:
        """Return the trials to do: interrupted ones first, then choices that were not tried."""
        found = list[Any]()
        for trial in self._study.get_trials(states=[self._states.RUNNING]):
            if "folder" in trial.user_attrs:
                found.append(trial)
            else:  # stopped before its choice was kept
                self._study.tell(trial.number, state=self._states.FAIL)
        stale = 0
        while len(found) < most and stale < STALE:
            trial = self._ask()
            words = space.suggested(trial, self._groups)
            known = [*self.tried.values(), *(other.user_attrs["words"] for other in found)]
            if words in known or set(words.values()) == {KEEP}:
                self._study.tell(trial, state=self._states.FAIL)
                stale += 1
                continue
            trial.set_user_attr("words", words)
            trial.set_user_attr("folder", f"trial-{len(known) + 1}")
            found.append(trial)
            stale = 0
        return found[:most]

    def _ask(self) -> Any:
        """Ask for a trial. Its number gives the seed, so a search that goes on repeats itself."""
        seed = 1000 * self._recipe.seed + len(self._study.trials)
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
        return self._study.ask()

    def _tell(self, trial: Any) -> None:
        """Tell the study the bytes and the error of a trial."""
        found = point("", self._out / trial.user_attrs["folder"])
        if found["value"] is None:  # no finite number
            self._study.tell(trial.number, state=self._states.FAIL)
        else:
            self._study.tell(trial.number, [found["bytes"], found["value"]])
