"""Upload models to the Hugging Face Hub, or copy them into a folder, with a model card."""

from __future__ import annotations

from pathlib import Path

from ganvas.errors import ConfigError
from ganvas.fields import takes
from ganvas.generator import Generator
from ganvas.hub import CARD, DIRECTIONS, Contents, Hub, Name, copy_into, hub_name
from ganvas.model_file import CONFIG, WEIGHTS, find_weights
from ganvas.options import Push
from ganvas.system import files
from ganvas.training.card import card, facts_of, run_of


@takes(Push)
def push(asked: Push) -> str:
    """Upload a model to the Hub, or copy it into a folder; return its URL or path.

    The card of a run is rewritten with the last evaluation. `public` applies only if the repository is created.
    Raises CheckpointError for an incomplete model, ConfigError for an invalid name or a missing token, GanvasError if
    the Hub refuses or cannot be reached. All files are uploaded in one commit, or none.
    """
    name = hub_name(asked.repo)
    contents = model_files(find_weights(Path(asked.source)), name)
    if name is None:
        return str(copy_into(Path(asked.repo), contents))
    if name.revision is not None:
        raise ConfigError(f"{asked.repo}: push only supports the main branch: remove @{name.revision}")
    return Hub(name.repo, asked.endpoint, asked.token).send(contents, asked.public)


def model_files(weights: Path, name: Name | None) -> Contents:
    """The files to upload; the card is written if it is missing or the model belongs to a run."""
    generator = Generator.load(weights, "cpu")  # checks the model
    folder = weights.parent
    contents: Contents = {WEIGHTS: weights}
    contents[CONFIG] = files.json_bytes(generator.info.to_dict())
    if run_of(weights) is not None or not (folder / CARD).is_file():
        contents[CARD] = card(facts_of(weights, generator), name.repo if name else None).encode()
    else:
        contents[CARD] = folder / CARD
    if (folder / DIRECTIONS).is_file():
        contents[DIRECTIONS] = folder / DIRECTIONS
    return contents
