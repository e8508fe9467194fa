"""Rendered images and thumbnails: what the eye gets must be what the object says."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from insitu_services.api.dicomweb import rendered
from insitu_services.api.dicomweb.negotiation import BadRequest
from insitu_services.api.dicomweb.rendered import parse_view, windowed


def picture(response) -> np.ndarray:
    """Pixels of an answer."""
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def address(dataset, rest: str = "/rendered") -> str:
    """Path of a rendered instance."""
    series = f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
    return f"{series}/instances/{dataset.SOPInstanceUID}{rest}"


PNG = {"Accept": "image/png"}


def test_the_window_of_the_request_is_applied_after_the_modality_lut(site, make):
    dataset = make(1, PixelData=np.linspace(0, 2300, 24).astype("<i2").tobytes())
    site.take(dataset)
    got = picture(site.get(address(dataset, "/rendered?window=100,200,linear-exact"), headers=PNG))
    values = np.linspace(0, 2300, 24).astype("<i2").reshape(4, 6) - 1024.0
    assert np.array_equal(got, np.round(np.clip(values / 200, 0, 1) * 255).astype(np.uint8))


def test_the_window_of_the_object_is_used_and_monochrome1_is_inverted(site, make):
    dark = make(1, WindowCenter=[0, 50], WindowWidth=[1, 100])
    inverse = make(2, WindowCenter="0", WindowWidth="1", PhotometricInterpretation="MONOCHROME1")
    for dataset in (dark, inverse):
        dataset.PixelData = np.array([0, 1023, 1024, 3000] * 6, "<i2").tobytes()
    site.take(dark, inverse)
    assert picture(site.get(address(dark), headers=PNG))[0, :4].tolist() == [0, 0, 255, 255]
    assert picture(site.get(address(inverse), headers=PNG))[0, :4].tolist() == [255, 255, 0, 0]


def test_without_any_window_the_whole_range_is_shown(site, make):
    dataset = make(1)
    site.take(dataset)
    got = picture(site.get(address(dataset), headers=PNG))
    assert (got.min(), got.max()) == (0, 255)


SHAPES = [
    ("examples_palette.dcm", (350, 800, 3)),
    ("examples_rgb_color.dcm", (240, 320, 3)),
    ("SC_rgb_rle_16bit.dcm", (100, 100, 3)),
    ("examples_ybr_color.dcm", (240, 320, 3)),
    ("JPEG2000.dcm", (1024, 256)),
    ("liver_1frame.dcm", (512, 512)),
    ("rtdose.dcm", (10, 10)),
    ("SC_ybr_full_422_uncompressed.dcm", (100, 100, 3)),
]


def test_colour_and_compressed_images_are_rendered(site, sample):
    for name, shape in SHAPES:
        dataset = sample(name)
        site.take(dataset)
        got = picture(site.get(address(dataset), headers=PNG))
        assert got.shape == shape
        assert got.std() > 1


def test_a_frame_of_an_enhanced_image_uses_its_own_rescaling_and_window(site, make):
    def groups(slope: float) -> pydicom.Dataset:
        item, rescale, window = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 50, 100, "LINEAR_EXACT"
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [rescale], [window]
        return item

    dataset = make(1, NumberOfFrames=2, PixelData=np.full(48, 25, "<i2").tobytes(),
                   PerFrameFunctionalGroupsSequence=[groups(1), groups(3)])  # fmt: skip
    del dataset.RescaleSlope, dataset.RescaleIntercept
    site.take(dataset)
    for number, grey in ((1, 64), (2, 191)):
        got = picture(site.get(address(dataset, f"/frames/{number}/rendered"), headers=PNG))
        assert set(got.ravel().tolist()) == {grey}


def test_thumbnails_are_small_and_come_from_the_middle(site, make, sample):
    report = sample("test-SR.dcm")
    report.StudyInstanceUID = "1.2.3"
    big = [make(n, Rows=300, Columns=200, WindowCenter=1.5 - 1024, WindowWidth=1,
                PixelData=np.full(60000, n, "<i2").tobytes()) for n in (1, 2, 3)]  # fmt: skip
    site.take(report, *big)
    for path in ("/studies/1.2.3", "/studies/1.2.3/series/1.2.3.4"):
        got = picture(site.get(f"{path}/thumbnail", headers=PNG))
        assert got.shape == (128, 85)
        assert got.mean() == 255  # 2 lies above the window's centre, 1 does not
    assert picture(site.get(address(big[0], "/thumbnail"), headers=PNG)).mean() == 0
    assert picture(site.get(address(big[0], "/thumbnail?viewport=30,30"), headers=PNG)).shape == (30, 20)
    assert site.get(address(report, "/thumbnail")).status_code == 404
    assert site.get(address(report)).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "window=1", "window=1,2", "window=a,b,linear", "window=1,0,linear", "window=1,2,cubic", "viewport=0,5", "viewport=5",
        "viewport=5,5,a", "viewport=5,5,0,0,0,5", "viewport=5,5,0,0,1,1,1", "quality=0", "annotation=face",
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_meant_are_refused(query):
    name, _, value = query.partition("=")
    with pytest.raises(BadRequest):
        parse_view({name: value})


def test_a_parameter_that_is_not_known_is_ignored_with_a_warning():
    view = parse_view({"x": "1", "annotation": "patient"})
    assert len(view.warnings) == 2


def test_a_region_may_leave_values_out_and_a_thumbnail_has_none():
    view = parse_view({"viewport": "50,40,,,-7"})
    assert (view.size, view.region) == ((50, 40), (0.0, 0.0, -7.0, None))
    with pytest.raises(BadRequest):
        parse_view({"viewport": "50,40,0,0,7,7"}, thumbnail=True)


def test_windows_are_those_of_the_standard():
    values = np.array([-0.5, 0.0, 63.5, 127.0, 127.5, 128.0])
    linear = windowed(values, 64.0, 128.0, "LINEAR")
    assert np.allclose(linear[[1, 2, 3]], [0, 0.5, 1])
    assert np.allclose(windowed(np.array([0.0, 64, 128]), 64.0, 128.0, "LINEAR_EXACT"), [0, 0.5, 1])
    assert np.allclose(windowed(np.array([64.0]), 64.0, 128.0, "SIGMOID"), [0.5])


def images(response) -> list[tuple[int, int]]:
    """Sizes of the images of a multipart answer."""
    assert response.status_code == 200, response.text
    boundary = response.headers["Content-Type"].partition("boundary=")[2].partition(";")[0].strip('"')
    parts = response.content.split(b"--" + boundary.encode())[1:-1]
    return [Image.open(io.BytesIO(part.partition(b"\r\n\r\n")[2][:-2])).size for part in parts]


def test_a_series_and_a_study_are_rendered_whole_frame_by_frame(site, make, sample):
    site.take(make(1), make(2), make(1, SeriesInstanceUID="1.2.3.5"))
    assert images(site.get("/studies/1.2.3/series/1.2.3.4/rendered")) == [(6, 4)] * 2
    assert images(site.get("/studies/1.2.3/rendered?viewport=3,2")) == [(3, 2)] * 3
    assert site.get("/studies/1.2.3/rendered", headers={"Accept": "image/jpeg"}).status_code == 406
    site.become()
    assert site.get("/studies/1.2.3/rendered").status_code == 403
    site.be_admin()
    several = sample("rtdose.dcm")
    site.take(several)
    whole = site.get(address(several), headers={"Accept": 'multipart/related; type="image/png"'})
    assert images(whole) == [(several.Columns, several.Rows)] * 15
    assert picture(site.get(address(several), headers=PNG)).shape == (several.Rows, several.Columns)


def test_several_frames_are_one_gif_at_the_pace_of_the_object(site, make):
    pixels = np.concatenate([np.full(24, 1024 + 40 * n, "<i2") for n in range(3)]).tobytes()
    film = make(1, NumberOfFrames=3, FrameTime="250", WindowCenter="50", WindowWidth="100", PixelData=pixels)
    site.take(film)
    answer = site.get(address(film), headers={"Accept": "image/gif"})
    assert answer.headers["Content-Type"] == "image/gif"
    with Image.open(io.BytesIO(answer.content)) as found:
        assert (found.n_frames, found.info["duration"]) == (3, 250)
    with Image.open(
        io.BytesIO(site.get(address(film, "/frames/2/rendered"), headers={"Accept": "image/gif"}).content)
    ) as one:
        assert one.n_frames == 1
    assert picture(site.get(address(film), headers=PNG)).shape == (4, 6)


def test_too_many_frames_for_one_gif_are_refused_with_the_way_out(site, make, monkeypatch):
    film = make(1, NumberOfFrames=2, PixelData=bytes(96))
    site.take(film)
    monkeypatch.setattr(rendered, "LARGEST_ANIMATION", 50)
    answer = site.get(address(film), headers={"Accept": "image/gif"})
    assert answer.status_code == 406
    assert "multipart" in answer.json()["detail"]


def test_a_video_is_not_rendered_and_says_how_to_get_it(site, make):
    video = make(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.1.1", NumberOfFrames=2, BitsAllocated=8, BitsStored=8, HighBit=7,
                 PixelRepresentation=0, SamplesPerPixel=3, PhotometricInterpretation="YBR_PARTIAL_420", PlanarConfiguration=0,
                 PixelData=encapsulate([b"\x00\x00\x00\x18ftypmp42" * 10]))  # fmt: skip
    video["PixelData"].VR, video["PixelData"].is_undefined_length = "OB", True
    video.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    site.take(video)
    for path, accept in (("/rendered", "video/mp4"), ("/rendered", "*/*"), ("/thumbnail", "*/*")):
        answer = site.get(address(video, path), headers={"Accept": accept})
        assert answer.status_code == 406, path
    assert "transfer-syntax=*" in answer.json()["detail"]
    assert site.get(address(video, ""), headers={"Accept": "application/dicom"}).content == site.file(video)
