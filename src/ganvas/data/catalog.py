"""The named data sets: official location, checksum, licence and default options.

`locate` finds or downloads the files of a data set, `open_at` opens them. Files are downloaded only from the
locations listed here, over https, and verified if a checksum is published.
"""

from __future__ import annotations

import contextlib
import http.client
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ganvas.config import DataConfig, Fit, Kind
from ganvas.data.download import File, download
from ganvas.data.packing.pack import Policy, Progress
from ganvas.data.reading.digits import DIGITS_VERSION, digits
from ganvas.data.reading.sources import Source, fingerprint_of, open_source
from ganvas.errors import DataError, did_you_mean
from ganvas.system import files


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalogue."""

    name: str
    title: str
    kind: Kind
    licence: str
    attribution: str
    files: tuple[File, ...] = ()
    """Files to download, or to put into the folder by hand."""
    size: str | None = None
    """Default image size, as in `DataConfig`; None: chosen from the images."""
    fit: Fit | None = None
    account_needed: str | None = None
    """Site that requires an account for the download."""
    page: str | None = None
    """Web page of the data set."""

    @property
    def folder(self) -> Path:
        """Download folder."""
        return files.cache_dir() / "downloads" / self.name

    @property
    def hint(self) -> str:
        """How to get the data set by hand, as one clause."""
        names = " and ".join(file.name for file in self.files)
        account = f" (an account at {self.account_needed} is needed)" if self.account_needed else ""
        return f"download {names} from {self.page}{account} to {self.folder}, or give its folder with --data PATH"


def _idx_files(base: str, sums: dict[str, tuple[str, int]]) -> tuple[File, ...]:
    return tuple(File(name, base + name, checksum, num_bytes) for name, (checksum, num_bytes) in sums.items())


_MNIST = {
    "train-images-idx3-ubyte.gz": ("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422),
    "train-labels-idx1-ubyte.gz": ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28_881),
    "t10k-images-idx3-ubyte.gz": ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877),
    "t10k-labels-idx1-ubyte.gz": ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4_542),
}
_FASHION = {
    "train-images-idx3-ubyte.gz": ("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26_421_880),
    "train-labels-idx1-ubyte.gz": ("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29_515),
    "t10k-images-idx3-ubyte.gz": ("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4_422_102),
    "t10k-labels-idx1-ubyte.gz": ("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5_148),
}

CATALOG: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "digits",
            "1,797 handwritten digits of 8x8 pixels, enlarged to 32x32, included in Ganvas",
            kind="digits",
            licence="CC BY 4.0",
            attribution="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, "
            "UCI Machine Learning Repository, doi:10.24432/C50P49",
            page="https://archive.ics.uci.edu/dataset/80",
        ),
        Dataset(
            "mnist",
            "70,000 handwritten digits, 28x28 gray, 10 classes",
            kind="digits",
            licence="CC BY-SA 3.0",
            attribution="Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits",
            files=_idx_files("https://ossci-datasets.s3.amazonaws.com/mnist/", _MNIST),
            page="https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        Dataset(
            "fashion-mnist",
            "70,000 articles of clothing, 28x28 gray, 10 classes",
            kind="photo",
            licence="MIT",
            attribution="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, Zalando Research",
            files=_idx_files("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/", _FASHION),
            page="https://github.com/zalandoresearch/fashion-mnist",
        ),
        Dataset(
            "cifar10",
            "60,000 small photographs, 32x32 colour, 10 classes",
            kind="photo",
            licence="none stated",
            attribution="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
            files=(
                File(
                    "cifar-10-python.tar.gz",
                    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                    170_498_071,
                ),
            ),
            page="https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        Dataset(
            "celeba",
            "202,599 aligned faces, 178x218 colour, 40 attributes",
            kind="face",
            licence="non-commercial research only, no redistribution",
            attribution="Z. Liu, P. Luo, X. Wang and X. Tang, Deep Learning Face Attributes in the Wild, 2015",
            files=(
                File("img_align_celeba.zip"),
                File("list_attr_celeba.txt"),
                File("list_eval_partition.txt"),
            ),
            size="64",
            fit="crop",
            page="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        ),
        Dataset(
            "mednist",
            "58,954 medical images, 64x64 gray, 6 classes",
            kind="scan",
            licence="CC BY-SA 4.0 (the sets it was gathered from have terms of their own)",
            attribution="B. J. Erickson, Department of Radiology, Mayo Clinic; gathered from TCIA, "
            "the RSNA Bone Age Challenge and the NIH Chest X-ray data set",
            files=(
                File(
                    "MedNIST.tar.gz",
                    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/MedNIST.tar.gz",
                    "0bc7306e7427e00ad1c5526a6677552d",  # MONAI publishes no SHA-256
                ),
            ),
            size="64",
            page="https://github.com/Project-MONAI/MONAI-extra-test-data/releases/tag/0.8.1",
        ),
        Dataset(
            "chest-xray",
            "5,856 chest X-rays of children, normal and pneumonia, gray, of many sizes",
            kind="xray",
            licence="CC BY 4.0",
            attribution="Kermany, Zhang and Goldbaum, Labeled Optical Coherence Tomography (OCT) "
            "and Chest X-Ray Images for Classification, Mendeley Data, doi:10.17632/rscbjbr9sj",
            files=(File("chest-xray-pneumonia.zip"),),
            account_needed="Kaggle",
            page="https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia",
        ),
        Dataset(
            "simpsons",
            "9,877 cropped faces of the Simpsons, colour, of many sizes",
            kind="comic",
            licence="copyrighted frames: for private study only",
            attribution="K. Stoliarov, Simpsons Faces, Kaggle",
            files=(File("simpsons-faces.zip"),),
            size="64",
            account_needed="Kaggle",
            page="https://www.kaggle.com/datasets/kostastokis/simpsons-faces",
        ),
        Dataset(
            "face2comics",
            "10,000 pairs of a face and its comic, colour",
            kind="comic",
            licence="MIT",
            attribution="A. Spirin, Comic faces (paired, synthetic), Kaggle",
            files=(File("comic-faces-paired-synthetic.zip"),),
            size="128",
            account_needed="Kaggle",
            page="https://www.kaggle.com/datasets/defileroff/comic-faces-paired-synthetic",
        ),
    )
}


_DICOM_KINDS: dict[str, Kind] = {"radiographs": "xray", "dicom": "scan"}
"""Form of a source -> kind, for DICOM files; neither kind is mirrored."""


def locate(
    data: str, path: str | Path | None = None, progress: Progress | None = None
) -> tuple[Dataset | None, Path | None]:
    """Resolves `data` to (data set, location of its files, downloaded if needed) or (None, path).

    An existing path has precedence over a name, unless `path` gives the location of the named set. The location is
    None for data included in a package. Raises `DataError` if `data` is neither a path nor a name.
    """
    if path is None and Path(data).exists():
        return None, Path(data).resolve()
    if data not in CATALOG:
        raise DataError(
            f"{data!r} is neither an existing path nor the name of a data set"
            f"{did_you_mean(data, list(CATALOG))}: the named data sets are {', '.join(CATALOG)}"
        )
    dataset = CATALOG[data]
    if path is not None:
        return dataset, Path(path).resolve()
    return dataset, fetch(dataset, progress) if dataset.files else None


def policy_for(dataset: Dataset | None, place: Path | None, config: DataConfig, form: str | None = None) -> Policy:
    """Known facts about the images, from the catalogue or guessed from the form of the source."""
    if dataset is None:
        # The form "celeba" is a specific data set; IDX files usually contain digits.
        like = {"celeba": CATALOG["celeba"], "idx": CATALOG["mnist"]}.get(form or "")
        kind, size, fit = (like.kind, like.size, like.fit) if like else (_DICOM_KINDS.get(form or ""), None, None)
        name = place.name if place and place.name else "pictures"
        known = (like.licence, like.attribution) if like and form == "celeba" else ()  # IDX may be another set
        return Policy(name, str(place), config.kind or kind, size, fit, *known)
    return Policy(
        dataset.name,
        None if place is None else str(place),
        config.kind or dataset.kind,
        dataset.size,
        dataset.fit,
        dataset.licence,
        dataset.attribution,
    )


def fingerprint(place: Path | None, config: DataConfig) -> str:
    """Fingerprint of the source at `place`, without opening it."""
    return DIGITS_VERSION if place is None else fingerprint_of(place, config.labels, config.conditions)


def open_at(dataset: Dataset | None, place: Path | None, config: DataConfig) -> tuple[Source, Policy]:
    """Opens the result of `locate`. Raises `DataError` if it has no images."""
    if place is None and config.conditions is not None:
        raise DataError(f"--conditions {config.conditions}: the digits have no table of conditions")
    source = digits() if place is None else open_source(place, config)
    return source, policy_for(dataset, place, config, source.form)


def fetch(dataset: Dataset, progress: Progress | None = None) -> Path:
    """Downloads missing files of a data set. Returns the folder, or the file if there is only one.

    Raises `DataError` with instructions if there is no network or an account is needed.
    """
    if any(file.url is None for file in dataset.files):
        if dataset.folder.is_dir() and any(dataset.folder.iterdir()):
            return dataset.folder  # files put there by hand
        raise DataError(f"{dataset.name} cannot be downloaded automatically: {dataset.hint}")
    try:
        with files.explained(dataset.folder):
            dataset.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            lock = FileLock(dataset.folder / ".lock")
            if files.acquire(lock):
                held.callback(lock.release)
            for file in dataset.files:
                if not (dataset.folder / file.name).exists():
                    download(file, dataset.folder / file.name, progress)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{dataset.name} could not be downloaded ({error}): {dataset.hint}") from error
    return dataset.folder / dataset.files[0].name if len(dataset.files) == 1 else dataset.folder
