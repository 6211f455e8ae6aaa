"""Where figures and samples go beside the log: what accelerate knows, by its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
from PIL import Image

from flexvar.errors import FlexvarError
from flexvar.training.recipe import TrainRecipe
from flexvar.training.run import RunDirectory


class Trackers:
    """The trackers of a run; one that fails is left out with a warning, and the run goes on."""

    def __init__(
        self, run: RunDirectory, recipe: TrainRecipe, say: Callable[[str], None], step: int
    ) -> None:
        self.say = say
        self.known: dict[str, Any] = {}
        for name in recipe.trackers:
            self.known[name] = _open(name, run, recipe, step)

    def figures(self, group: str, figures: Mapping[str, float], step: int) -> None:
        """Numbers of a step, as ``group/name``."""
        values = {f"{group}/{name}": value for name, value in figures.items()}
        self._each(lambda tracker: tracker.log(values, step=step))

    def picture(self, image: Image.Image, step: int) -> None:
        """The pictures of a step, where the tracker takes any."""
        pixels = np.asarray(image)[None]

        def show(tracker: Any) -> None:
            if hasattr(tracker, "log_images"):
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": pixels}, step=step, **options)

        self._each(show)

    def close(self) -> None:
        """End all of them."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, call: Callable[[Any], object]) -> None:
        for name, tracker in list(self.known.items()):
            try:
                call(tracker)
            except Exception as error:
                del self.known[name]
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                self.say(
                    f"Warning: {name} cannot be written to ({reason.splitlines()[0]}) and gets "
                    "nothing more; the log has it all."
                )


def _open(name: str, run: RunDirectory, recipe: TrainRecipe, step: int) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        near = get_close_matches(name, LOGGER_TYPE_TO_CLASS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FlexvarError(
            f"tracker: there is no {name!r}.{hint} There are {', '.join(LOGGER_TYPE_TO_CLASS)}."
        )
    known = {str(getattr(one, "value", one)) for one in get_available_trackers()}
    make = LOGGER_TYPE_TO_CLASS[name]
    if name not in known and make.__module__.startswith("accelerate."):
        other = ", or set tensorboard=false" if name == "tensorboard" else ""
        raise FlexvarError(
            f"tracker: the package of {name} is not installed: pip install {name}{other}."
        )
    try:
        if name == "tensorboard":
            # What was logged after the step that the run goes on from is dropped.
            tracker = make("tensorboard", run.path, purge_step=step + 1)
        elif make.requires_logging_directory:
            tracker = make(recipe.tracker_project, run.path)
        else:
            tracker = make(recipe.tracker_project)
        tracker.start()
        if name != "tensorboard":
            tracker.store_init_configuration(recipe.model_dump(mode="json", exclude_none=True))
    except OSError as error:
        raise FlexvarError(
            f"Cannot write to {run.path}: {error.strerror or error}.{run.whole()}"
        ) from None
    except Exception as error:
        raise FlexvarError(
            f"tracker: {name} cannot be started ({str(error).splitlines()[0]}); set it up, or "
            "leave it out with tracker=none."
        ) from None
    return tracker
