"""``configs/metadata.json`` of a MONAI bundle: what the network expects and returns."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from hstf.method.exported_model import ExportedModel
from hstf.runtime.documents import Document, Part

METADATA_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
IGNITE = "0.4.11"
"""The lowest version of pytorch-ignite with which MONAI runs a bundle."""
INTENDED_USE = (
    "Research. Not a medical device; its output needs a physician's review before any clinical use."
)
OWNER = "see the owner of this folder"


class BundleTensor(Part):
    """An input or output of the network, as a MONAI bundle describes it."""

    type: str = "image"
    format: str
    modality: str
    num_channels: int
    spatial_shape: list[int]
    dtype: str = "float32"
    value_range: tuple[float, ...] = ()
    is_patch_data: bool = True
    channel_def: dict[str, str]
    """Name of each channel."""


class BundleData(Part):
    """Inputs and outputs of the network."""

    inputs: dict[str, BundleTensor]
    outputs: dict[str, BundleTensor]


class BundleMetadata(Document):
    """``configs/metadata.json`` of a MONAI bundle."""

    stage: ClassVar[str] = "export"

    schema_: str = Field(serialization_alias="schema")
    version: str
    changelog: dict[str, str]
    monai_version: str
    pytorch_version: str
    numpy_version: str
    required_packages_version: dict[str, str]
    """Packages that the bundle needs in addition to those above."""
    name: str
    task: str
    description: str
    authors: str = OWNER
    copyright: str = OWNER
    data_type: str = "nifti"
    intended_use: str = INTENDED_USE
    network_data_format: BundleData

    def to_json(self) -> dict[str, Any]:
        """Convert the document to plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)


def bundle_metadata(model: ExportedModel) -> BundleMetadata:
    """Describe an exported model in the format of a MONAI bundle.

    Example:
        >>> from hstf.method.bundle.metadata import BundleMetadata
        >>> BundleMetadata.model_fields["schema_"].serialization_alias
        'schema'
    """
    provenance = model.provenance
    packages = provenance.packages
    classes = list(model.labels)
    version = f"1.0.{provenance.round}"
    patch = list(model.plan.patch_size)
    modality = ", ".join(dict.fromkeys(kind.upper() for kind in model.modalities.values()))
    image = _tensor("magnitude", modality, list(model.modalities), patch)
    prediction = _tensor("labels", "n/a", classes, patch)
    return BundleMetadata(
        schema_=METADATA_SCHEMA,
        version=version,
        changelog={version: f"round {provenance.round} of self-training"},
        monai_version=packages["monai"],
        pytorch_version=packages["torch"],
        numpy_version=packages["numpy"],
        required_packages_version={
            "nibabel": packages["nibabel"],
            "scipy": packages["scipy"],
            "pytorch-ignite": IGNITE,
        },
        name=model.experiment,
        task=f"3D segmentation of {', '.join(classes[1:])}",
        description=(
            f"Segmentation network of the experiment {model.experiment}, trained by self-training."
        ),
        network_data_format=BundleData(inputs={"image": image}, outputs={"pred": prediction}),
    )


def _tensor(
    form: str,
    modality: str,
    channels: Sequence[str],
    patch: list[int],
) -> BundleTensor:
    return BundleTensor(
        format=form,
        modality=modality,
        num_channels=len(channels),
        spatial_shape=patch,
        channel_def={str(index): name for index, name in enumerate(channels)},
    )
