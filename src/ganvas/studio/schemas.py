"""Models of requests and responses; the API documentation is generated from them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ganvas.errors import ConfigError
from ganvas.explore.recipes import LARGEST_SEED, SLIDERS, Recipe
from ganvas.fields import meanings
from ganvas.image_formats import WRITTEN
from ganvas.options import Easing, Files, Filter, Format, Interpolate
from ganvas.records import Warned
from ganvas.reporting.comparison import Row
from ganvas.studio.engine import LARGEST_AMOUNT, MOST_PER_PASS, checked_recipe

_MOST_ARCHIVED = 1000  # images per ZIP file
_Number = Annotated[float, Field(ge=-LARGEST_AMOUNT, le=LARGEST_AMOUNT)]
_Name = Annotated[str, Field(max_length=300, description="A name of a run or a model from `GET /api/places`")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=False)


class _TowardsBody(_Strict):
    to: RecipeBody
    share: _Number = Field(description="0: the image itself, 1: the other image")


class _MixBody(_Strict):
    other: RecipeBody = Field(alias="with")
    depths: list[Annotated[int, Field(ge=0, le=99)]] = Field(
        min_length=1, max_length=100, description="Layers to take from the second image; 0 is the coarsest"
    )


_numbers: Any = {
    name: (float, Field(one.neutral, ge=one.low, le=one.high, description=" to ".join(one.ends)))
    for name, one in SLIDERS.items()
}
_Sliders: Any = create_model("_Sliders", __base__=_Strict, **_numbers)


class RecipeBody(_Sliders):
    """All values needed to generate one image again. Order: seed or code, truncation, edits, towards, mix."""

    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = None
    code: list[list[_Number]] | None = Field(None, max_length=101, description="Latents instead of a seed")
    label: str | dict[str, _Number] | None = Field(None, description="A class, or class weights")
    edits: dict[str, _Number] = Field({}, description="Directions by name, in standard deviations")
    towards: _TowardsBody | None = None
    mix: _MixBody | None = None

    def recipe(self) -> Recipe:
        """The checked recipe. Raises ConfigError."""
        return checked_recipe(Recipe.from_dict(self.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)))


class SeveralImages(_Strict):
    model: _Name
    recipes: list[RecipeBody] = Field(min_length=1, max_length=MOST_PER_PASS)
    columns: int | None = Field(None, ge=1, le=MOST_PER_PASS, description="Columns of the sheet")


class ToCompare(SeveralImages):
    begin: bool = Field(True, description="Read the training images even if there are many")


class One(_Strict):
    model: _Name
    recipe: RecipeBody


class Archive(_Strict):
    model: _Name
    recipes: list[RecipeBody] = Field(min_length=1, max_length=_MOST_ARCHIVED)


class Favourite(_Strict):
    model: _Name
    recipe: RecipeBody
    in_list: str = Field("favourites", max_length=40, alias="list")
    title: str | None = Field(None, max_length=200)


class Moved(_Strict):
    model: _Name
    recipe: RecipeBody
    in_list: str = Field("favourites", max_length=40, alias="list")
    place: int = Field(ge=0, le=10_000, description="New place in the list; 0 is the first")


class Command(_Strict):
    model: _Name
    recipes: list[RecipeBody] = Field([], max_length=_MOST_ARCHIVED)
    in_list: str | None = Field(
        None, max_length=40, alias="list", description="A list of favourites, instead of recipes"
    )


_FILM, _PRINT = meanings(Interpolate), meanings(Files)  # what the options mean, as on the command line


class _FilmLook(_Strict):
    form: Literal["mp4", "webm", "gif", "webp", "mov"] = Field("mp4", description="Format of the file")
    size: str | None = Field(None, max_length=20, description=_FILM["size"])
    seconds: Annotated[float, Field(gt=0, le=3600)] | None = Field(None, description=_FILM["seconds"])
    fps: float = Field(24, ge=0.1, le=120, description=_FILM["fps"])
    filter: Filter = Field("lanczos", description=_FILM["filter"])
    background: str | None = Field(None, max_length=40, description=_FILM["background"])

    def look(self) -> dict[str, Any]:
        """The options of every video, by name."""
        return {name: getattr(self, name) for name in ("size", "seconds", "fps", "filter", "background")}


class NewFilm(_FilmLook):
    model: _Name
    recipes: list[RecipeBody] = Field(min_length=2, max_length=_MOST_ARCHIVED, description="The images, in order")
    easing: Easing = Field("cosine", description=_FILM["easing"])
    loop: bool = Field(True, description=_FILM["loop"])


class NewTrainingFilm(_FilmLook):
    run: _Name


class NewPrint(_Strict):
    model: _Name
    recipes: list[RecipeBody] = Field(min_length=1, max_length=_MOST_ARCHIVED)
    format: Format = Field("png", description=_PRINT["format"], json_schema_extra={"enum": [*WRITTEN]})
    enlarge: int = Field(1, ge=1, le=64, description=_PRINT["enlarge"])
    filter: Filter = Field("lanczos", description=_PRINT["filter"])
    dpi: int | None = Field(300, ge=1, le=10_000, description=_PRINT["dpi"])
    columns: int | None = Field(
        None, ge=1, le=MOST_PER_PASS, description="One grid with this number of columns; else single images"
    )


class Wanted(_Strict):
    model: _Name
    num: int = Field(8, ge=1, le=32)


_SourceText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        description="Full path of a folder or archive (`GET /api/folders`), the answer of `POST /api/uploads/finish`, "
        "or the name of a data set (`GET /api/new`)",
    ),
]


class Images(_Strict):
    """Images and how they are read."""

    source: _SourceText
    labels: bool = Field(True, description="Use the classes of the images, such as subfolders")


class NewTraining(Images):
    """A training; the options are those of `ganvas train`."""

    name: str = Field("", max_length=120, description="Name of the run; not needed for a plan")
    size: str | None = Field(None, max_length=9, description="Pixels per side, or height x width such as 96x128")
    kind: str | None = Field(None, max_length=20)
    minutes: Annotated[float, Field(gt=0, le=100_000)] | None = None
    images: Annotated[int, Field(gt=0, le=10**12)] | None = Field(None, description="Budget in images seen")
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    drop_duplicates: bool = False
    mask_marks: bool = False


class RunBody(_Strict):
    run: _Name


class Titled(RunBody):
    title: str = Field(max_length=120, description="New title; empty: the name of the folder")


class Resumed(RunBody):
    budget: Annotated[float, Field(gt=0, le=10**12)] | None = Field(
        None, description="New budget in total, in the unit of the run; larger than before"
    )


class ToEvaluate(_Strict):
    model: _Name
    source: _SourceText | None = Field(None, description="The training images, needed for a model without its run")


class UploadBody(_Strict):
    name: str = Field(max_length=120, description="Name of the folder on the server")
    files: int = Field(ge=1, le=10**9)
    bytes: int = Field(ge=1, le=10**15)


# ---- answers ----


class Error(BaseModel):
    error: str = Field(description="One sentence: what was received, what was expected, what to do")


class PlaceOut(BaseModel):
    name: str
    title: str
    is_run: bool
    has_model: bool


class Places(BaseModel):
    places: list[PlaceOut]
    version: str


class DirectionOut(BaseModel):
    name: str
    source: str
    depths: list[int] | None


class SliderOut(BaseModel):
    """A number of a recipe."""

    name: str
    title: str
    low: float
    high: float
    step: float
    neutral: float = Field(description="The value without effect, which recipes leave out")
    ends: tuple[str, str] = Field(description="What the lowest and the highest value mean")


class ModelOut(BaseModel):
    name: str
    title: str
    hash: str = Field(description="SHA-256 of the weights, as in the metadata of images")
    version: str = Field(description="Changes with weights and directions; part of the URL of an image")
    newer: bool = Field(description="The file has changed after loading: reload it with anew=true")
    architecture: str
    height: int
    width: int
    channels: int
    depth: int
    kind: str
    classes: list[str] = Field(description="Classes, or the stored combinations of conditions")
    has_conditions: bool
    num_depths: int
    images_seen: int
    directions: list[DirectionOut]
    sliders: list[SliderOut]
    formats: dict[str, str] = Field(description="Formats of images to download -> their titles")
    sentence: str
    lists: list[str]


class _Drawn(BaseModel):
    address: str = Field(description="URL of the image; empty if too long")
    png: str = Field(description="The file in base64")


class DrawnList(BaseModel):
    pictures: list[_Drawn]


class RecipeOut(BaseModel):
    recipe: dict[str, Any]


class KeptOut(BaseModel):
    recipe: dict[str, Any]
    title: str


class ListOut(BaseModel):
    name: str
    lists: list[str]
    file: str
    undo: str = Field(description="The last change, if it can be undone: add, rename, remove or move")
    pictures: list[KeptOut]


class Aside(BaseModel):
    file: str


class CommandOut(BaseModel):
    command: str
    powershell: str = Field(description="The same, for PowerShell; it differs only for texts with an apostrophe")


class Near(BaseModel):
    index: int
    name: str
    correlation: float
    score: float
    copy_of_it: bool
    moved: str


class NearOut(BaseModel):
    state: str = Field(description="unread, preparing, ready or absent")
    sentence: str
    images: list[Near]


class TaskOut(BaseModel):
    id: str
    kind: str
    model: str = Field(description="The run or model, if there is one")
    state: str = Field(description="waiting, working, done or failed")
    sentence: str
    doing: str = Field(description="The current step")
    done: int
    total: int
    result: dict[str, Any]


class Tasks(BaseModel):
    tasks: list[TaskOut]


class SetOut(BaseModel):
    name: str
    title: str
    licence: str


class NewOut(BaseModel):
    allowed: bool = Field(description="Trainings may be resumed, and models be evaluated")
    new: bool = Field(description="New runs can be trained")
    sentence: str = Field(description="Why trainings are not allowed, or why no new run can be written here")
    folder: str = Field(description="Folder of the runs")
    roots: list[str] = Field(description="Folders from which images may be read")
    sets: list[SetOut]
    kinds: list[str]
    files: list[str] = Field(description="Endings of files that can be uploaded")
    minutes: float = Field(description="Default budget")


class EntryOut(BaseModel):
    name: str
    path: str


class FolderOut(BaseModel):
    path: str
    parent: str
    num_images: int = Field(description="Images directly in this folder")
    folders: list[EntryOut]
    archives: list[EntryOut]
    complete: bool


class UploadOut(BaseModel):
    id: str
    folder: str


class PieceOut(BaseModel):
    received: int = Field(description="Bytes of this file that have been received")


class SourceOut(BaseModel):
    source: str


class TrainingOut(BaseModel):
    run: str
    state: str = Field(description="starting, training, stopping, finished, stopped or failed")
    sentence: str
    began: float = Field(description="Seconds since 1970")


class TrainingsOut(BaseModel):
    trainings: list[TrainingOut]


class TitleOut(BaseModel):
    title: str


class RunLine(BaseModel):
    name: str
    title: str = Field(description="What the user calls the run; at first its name")
    state: str
    progress: float
    images: int
    sentence: str
    score: float | None
    grid: int | None


class Runs(BaseModel):
    runs: list[RunLine]


class GridOut(BaseModel):
    address: str = Field(description="URL; empty without images")
    note: str
    rows: list[str] = Field(description="Class of each row; empty without classes")


class DifferenceOut(BaseModel):
    name: str
    values: list[str]


class ComparisonOut(BaseModel):
    names: list[str] = Field(description="Titles of the runs")
    caveats: list[str]
    rows: list[Row]
    grids: list[GridOut]
    differences: list[DifferenceOut]


class RunOut(BaseModel):
    name: str
    title: str
    sentence: str
    state: str = Field(description="waiting, training, stopping, finished or stopped")
    has_model: bool
    progress: float = 0.0
    images: int = 0
    seconds: float | None = None
    eta: float | None = None
    rate: float | None = None
    score: float | None = None
    best: float | None = None
    about: dict[str, str] = {}
    options: dict[str, str] = {}
    reports: dict[str, list[float | None]] = {}
    vitals: dict[str, list[float | None]] = {}
    health: list[Warned] = []
    grids: list[int] = []
    rows: list[str] = Field([], description="Class of each row of the grids; empty without classes")
    films: list[str] = []
    has_report: bool = False
    budget: float | None = None
    budget_unit: str = Field("", description="minutes, images or epochs")


def read_recipe(text: str) -> Recipe:
    """Read a recipe from a URL, as JSON. Raises ConfigError."""
    try:
        return RecipeBody.model_validate(json.loads(text)).recipe()
    except ValidationError as error:
        raise ConfigError(f"the recipe: {error_in_words(error.errors(include_url=False))}") from None
    except (ValueError, RecursionError):
        raise ConfigError('the recipe is not JSON: expected for example {"seed": 5}') from None


def error_in_words(errors: list[Any]) -> str:
    """The first error of a request, as a sentence."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return "the request cannot be read: expected a JSON body"
    place = " ".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place or 'the request'}: {first['msg'][0].lower()}{first['msg'][1:]}{more}"
