"""Reading CT: every transfer syntax, both SOP classes, and every way a series can be wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from pipeline.errors import Corrupt, Declined
from pipeline.headers import LossyHistory, check_headers, frames
from pipeline.volume import CTSeries, read_series
from tests.pipeline.ct_datasets import Scan, classic, enhanced, sent, tilted_orientation, written

SCAN = Scan()
LOSSLESS = {
    "implicit": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}


def declined(datasets: list[Dataset]) -> Declined:
    with pytest.raises(Declined) as caught:
        read_series(datasets)
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.remedy
    return caught.value


def in_syntax(ds: Dataset, syntax: str) -> Dataset:
    """The dataset sent in another transfer syntax."""
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    return sent(ds)


def test_plain_series_in_any_order() -> None:
    datasets = classic(SCAN)
    random.Random(1).shuffle(datasets)
    series = read_series([sent(ds) for ds in datasets])
    assert np.array_equal(series.volume.values, np.maximum(SCAN.hu, -1024))
    assert series.volume.values.dtype == np.float32
    assert series.lossy is None
    assert series.corrections == ()
    assert [header.InstanceNumber for header in series.headers] == [1, 2, 3, 4, 5]
    assert all("PixelData" not in header for header in series.headers)
    assert all("PixelData" in ds for ds in datasets)


@pytest.mark.parametrize("syntax", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_lossless_syntaxes_give_the_same_values(syntax: str) -> None:
    series = read_series([in_syntax(ds, syntax) for ds in classic(SCAN)])
    assert np.array_equal(series.volume.values, SCAN.hu)
    assert series.lossy is None


def test_jpeg_lossless_as_gdcm_writes_it(tmp_path: Path) -> None:
    scan = Scan(slices=3)
    for number, stored in enumerate(scan.stored):
        image = sitk.GetImageFromArray(stored[None])
        image.SetSpacing((*scan.pixel_mm[::-1], scan.step_mm))
        image.SetOrigin([float(v) for v in scan.position_mm(number)])
        for tag, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0060": "CT",
            "0020|000e": "1.2.3.4",
            "0020|0052": "1.2.3.5",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(tmp_path / f"{number}.dcm"))
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.KeepOriginalImageUIDOn()
        writer.Execute(image)
    import pydicom

    datasets = [pydicom.dcmread(path) for path in sorted(tmp_path.iterdir())]
    assert datasets[0].file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    series = read_series(datasets)
    # The writer treats the given values as HU and stores them by the rescale.
    assert np.array_equal(series.volume.values, scan.stored.astype(np.float32))


def test_near_lossless_is_carried_on_as_lossy() -> None:
    datasets = classic(SCAN)
    for ds in datasets:
        ds.compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
    series = read_series([sent(ds) for ds in datasets])
    assert np.abs(series.volume.values - SCAN.hu).max() <= 2
    assert series.lossy is not None


def test_lossy_history_keeps_the_worst_ratio() -> None:
    datasets = classic(SCAN)
    for ds, ratio in zip(datasets, (8, 9, 10, 11, 12), strict=True):
        ds.compress(JPEG2000, j2k_cr=[2], generate_instance_uid=False)
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionRatio = ratio
        ds.LossyImageCompressionMethod = "ISO_15444_1"
    series = read_series([sent(ds) for ds in datasets])
    assert series.lossy == LossyHistory((12.0,), ("ISO_15444_1",))


def test_once_lossy_stays_lossy_in_a_lossless_syntax() -> None:
    datasets = classic(SCAN)
    datasets[2].LossyImageCompression = "01"
    datasets[2].LossyImageCompressionRatio = ["5", "20"]
    datasets[2].LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]
    assert read_series(datasets).lossy == LossyHistory((5.0, 20.0), ("ISO_10918_1", "ISO_15444_1"))


def test_enhanced_ct_equals_the_classic_series() -> None:
    order = [3, 0, 4, 1, 2]
    for ds in (enhanced(SCAN, order), sent(enhanced(SCAN, order))):
        series = read_series([ds])
        assert np.array_equal(series.volume.values, SCAN.hu)
        assert np.allclose(
            series.volume.grid.affine, read_series(classic(SCAN)).volume.grid.affine, atol=1e-6
        )
        assert len(series.headers) == 1


def test_enhanced_ct_compressed() -> None:
    ds = enhanced(SCAN, [4, 3, 2, 1, 0])
    ds.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(read_series([sent(ds)]).volume.values, SCAN.hu)


def test_geometry_equals_highdicom_and_simpleitk(tmp_path: Path) -> None:
    import highdicom

    datasets = classic(SCAN)
    ours = read_series(datasets).volume.grid
    theirs = highdicom.get_volume_from_series(datasets)
    last = np.array(ours.shape) - 1
    corners = np.array(list(np.ndindex(2, 2, 2))) * last
    mapped = corners @ theirs.affine[:3, :3].T + theirs.affine[:3, 3]
    assert np.allclose(np.sort(ours.to_mm(corners), axis=0), np.sort(mapped, axis=0), atol=1e-4)
    for number, ds in enumerate(datasets):
        (tmp_path / f"{number}.dcm").write_bytes(written(ds))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    for corner in corners:
        point = image.TransformIndexToPhysicalPoint([int(v) for v in corner[::-1]])
        assert np.allclose(ours.to_mm(corner.astype(float)), point, atol=1e-4)


def test_gantry_tilt_stays_in_the_affine() -> None:
    tilted = Scan(orientation=tilted_orientation(18.5), table_mm=(0.0, 0.0, 1.25))
    grid = read_series(classic(tilted)).volume.grid
    assert grid.is_sheared
    assert np.allclose(grid.steps_mm[0], (0, 0, 1.25))
    assert np.allclose(grid.image_position(4), tilted.position_mm(4), atol=1e-6)


def test_rescale_is_per_slice() -> None:
    datasets = classic(SCAN)
    datasets[1].RescaleSlope, datasets[1].RescaleIntercept = 2, -2048
    values = read_series(datasets).volume.values
    assert np.array_equal(values[0], SCAN.hu[0])
    expected = np.maximum(2.0 * SCAN.stored[1] - 2048, -1024)
    assert np.array_equal(values[1], expected.astype(np.float32))


def test_padding_becomes_air_and_nothing_lies_below_it() -> None:
    datasets = classic(SCAN)
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<i2").copy()
        stored[:5], stored[5] = -2000, -500
        ds.PixelData = stored.tobytes()
        ds.PixelPaddingValue = -2000
    values = read_series([sent(ds) for ds in datasets]).volume.values
    assert (values[:, 0, :6] == -1024).all()
    assert values.min() == -1024


def test_padding_that_is_also_tissue_is_not_applied() -> None:
    datasets = classic(SCAN)
    for ds in datasets:
        ds.PixelPaddingValue = 1024  # 0 HU: water
    series = read_series(datasets)
    assert np.array_equal(series.volume.values, SCAN.hu)
    assert any("padding" in note for note in series.corrections)


def test_exact_duplicates_are_dropped_and_noted() -> None:
    datasets = classic(SCAN)
    copy = sent(datasets[2])
    copy.SOPInstanceUID = generate_uid()
    first = read_series([*datasets, copy])
    assert np.array_equal(first.volume.values, SCAN.hu)
    assert len(first.headers) == SCAN.slices
    assert len(first.corrections) == 1
    assert read_series([copy, *reversed(datasets)]).corrections == first.corrections


def test_small_jitter_is_evened_out_and_noted() -> None:
    datasets = classic(SCAN)
    datasets[2].ImagePositionPatient[2] += 0.04
    series = read_series(datasets)
    assert series.volume.grid.spacing_mm[0] == pytest.approx(SCAN.step_mm)
    assert any("evened" in note for note in series.corrections)


def _other_pixels(datasets: list[Dataset]) -> list[Dataset]:
    other = sent(datasets[2])
    other.SOPInstanceUID = generate_uid()
    other.PixelData = datasets[3].PixelData
    return [*datasets, other]


def _without(index: int) -> Callable[[list[Dataset]], list[Dataset]]:
    return lambda datasets: datasets[:index] + datasets[index + 1 :]


def _with(keyword: str, value: object, every: bool = True) -> Callable[..., list[Dataset]]:
    def change(datasets: list[Dataset]) -> list[Dataset]:
        for ds in datasets if every else datasets[1:2]:
            setattr(ds, keyword, value)
        return datasets

    return change


DECLINES = {
    "other pixels at one place": (_other_pixels, "slices.overlap"),
    "missing slice": (_without(2), "slices.missing"),
    "single slice": (lambda d: d[:1], "slices.few"),
    "nothing": (lambda d: [], "slices.few"),
    "MR": (_with("Modality", "MR"), "series.class"),
    "secondary capture": (_with("SOPClassUID", SecondaryCaptureImageStorage), "series.class"),
    "two series": (_with("SeriesInstanceUID", "1.2.3", every=False), "series.mixed"),
    "two classes": (_with("SOPClassUID", EnhancedCTImageStorage, every=False), "series.mixed"),
    "localizer": (_with("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "series.localizer"),
    "color": (_with("SamplesPerPixel", 3), "pixels.color"),
    "palette": (_with("PhotometricInterpretation", "PALETTE COLOR"), "pixels.color"),
    "electron density": (_with("RescaleType", "ED"), "pixels.units"),
    "other orientation": (
        _with("ImageOrientationPatient", [1, 0, 0, 0, 0.98, 0.199], every=False),
        "slices.mixed",
    ),
    "other pixel spacing": (_with("PixelSpacing", [0.7, 0.6], every=False), "slices.mixed"),
    "other frame of reference": (_with("FrameOfReferenceUID", "1.2", every=False), "slices.mixed"),
    "coarse pixels": (_with("PixelSpacing", [1.4, 1.4]), "pixels.coarse"),
    "thick slices": (_with("SliceThickness", 5), "slices.coarse"),
}


@pytest.mark.parametrize(("change", "code"), DECLINES.values(), ids=DECLINES.keys())
def test_what_is_declined(change: Callable[[list[Dataset]], list[Dataset]], code: str) -> None:
    error = declined(change(classic(SCAN)))
    assert error.code == code
    assert not isinstance(error, Corrupt)


def test_eight_millimeter_slices_are_declined_with_their_size() -> None:
    error = declined(classic(Scan(slices=30, step_mm=8.0)))
    assert error.code == "slices.coarse"
    assert "8.00 mm" in error.found


def put(datasets: Sequence[Dataset], keyword: str, vr: str, value: bytes) -> None:
    """The bytes of one attribute as some device writes them."""
    tag = Tag(keyword)
    for ds in datasets:
        ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


@pytest.mark.parametrize("value", [b"1,25", b"1.0mm ", rb"1\1 ", b"inf ", b"  "])
def test_an_unreadable_thickness_is_none(value: bytes) -> None:
    slices, frames_at_once = classic(SCAN), enhanced(SCAN)
    put(slices, "SliceThickness", "DS", value)
    shared = frames_at_once.SharedFunctionalGroupsSequence[0]
    put(shared.PixelMeasuresSequence, "SliceThickness", "DS", value)
    for datasets in ([sent(ds) for ds in slices], [sent(frames_at_once)]):
        assert {one.geometry.thickness_mm for one in frames(datasets)} == {None}
        assert np.array_equal(read_series(datasets).volume.values, SCAN.hu)


def test_an_unreadable_ratio_is_dropped_and_lossy_stays_lossy() -> None:
    datasets = classic(SCAN)
    for ds in datasets:
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionMethod = "ISO_15444_1"
    put(datasets, "LossyImageCompressionRatio", "DS", b"10:1")
    series = read_series([sent(ds) for ds in datasets])
    assert series.lossy == LossyHistory((), ("ISO_15444_1",))


@pytest.mark.parametrize(("padding", "hu"), [((40, 5), -1024), ((), -984)])
def test_of_several_padding_values_the_first_counts(padding: tuple[int, ...], hu: float) -> None:
    datasets = classic(SCAN)
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<i2").copy()
        stored[:5] = 40
        ds.PixelData = stored.tobytes()
    put(datasets, "PixelPaddingValue", "SS", np.array(padding, "<i2").tobytes())
    assert (read_series([sent(ds) for ds in datasets]).volume.values[:, 0, :5] == hu).all()


CORRUPT = {
    "no position": lambda ds: ds.__delattr__("ImagePositionPatient"),
    "empty spacing": lambda ds: setattr(ds, "PixelSpacing", None),
    "no rescale": lambda ds: ds.__delattr__("RescaleIntercept"),
    "slope zero": lambda ds: setattr(ds, "RescaleSlope", 0),
    "no pixel data": lambda ds: ds.__delattr__("PixelData"),
    "truncated pixel data": lambda ds: setattr(ds, "PixelData", ds.PixelData[:200]),
    "no transfer syntax": lambda ds: ds.file_meta.__delattr__("TransferSyntaxUID"),
}


@pytest.mark.parametrize("damage", CORRUPT.values(), ids=CORRUPT.keys())
def test_what_is_corrupt(damage: Callable[[Dataset], None]) -> None:
    datasets = classic(SCAN)
    damage(datasets[3])
    assert isinstance(declined(datasets), Corrupt)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kept", [0.9, 0.3, 0.05])
def test_a_truncated_codestream_is_corrupt(syntax: str, kept: float) -> None:
    from pydicom.encaps import get_frame

    datasets = classic(SCAN)
    for ds in datasets:
        ds.compress(syntax, generate_instance_uid=False)
    frame = get_frame(datasets[1].PixelData, 0, number_of_frames=1)
    datasets[1].PixelData = encapsulate([frame[: int(len(frame) * kept) // 2 * 2]])
    assert isinstance(declined(datasets), Corrupt)


def test_enhanced_ct_without_its_functional_groups_is_corrupt() -> None:
    ds = enhanced(SCAN)
    del ds.PerFrameFunctionalGroupsSequence
    assert isinstance(declined([ds]), Corrupt)
    ds = enhanced(SCAN)
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert isinstance(declined([ds]), Corrupt)


def test_messages_name_no_patient() -> None:
    for change, _ in DECLINES.values():
        assert "Test" not in str(declined(change(classic(SCAN))))


def test_headers_alone_tell_the_geometry() -> None:
    datasets = classic(SCAN)
    for ds in datasets:
        del ds.PixelData
    assert check_headers(datasets).grid.shape == (5, 40, 36)


@pytest.mark.data
def test_the_real_neck(neck_series: CTSeries) -> None:
    volume = neck_series.volume
    assert volume.grid.shape == (295, 512, 512)
    assert np.allclose(volume.grid.spacing_mm, (1.0, 0.541015625, 0.541015625))
    assert volume.values.min() == -1024
    assert neck_series.lossy is not None
    assert neck_series.lossy.methods == ("ISO_15444_1",)
    assert neck_series.lossy.ratios[0] > 20
    assert neck_series.corrections == ()
