"""Make the pictures of the catalog in ``docs/images/`` from a real run, with headless Chromium.

``python docs/make_screenshots.py`` makes a study of made-up visits in a temporary folder, brings it into a catalog by
the same functions as the commands, serves it on the loopback address and takes the pictures. Needs selenium, Chromium,
chromedriver and the extra ``previews``. Nothing in the pictures is of a person: the images are drawn by this program.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from icf_utils import (
    catalogify_studyvisit_from_meta,
    deposit_visit_dataset,
    deposit_visit_metadata,
    make_studyvisit_archive,
)
from icf_utils.catalog.index_page import build_index
from icf_utils.catalog.serve import CatalogServer
from icf_utils.settings import CatalogSettings, Settings

IMAGES = Path(__file__).parent / "images"
STUDY, OTHER, STORE_URL = "memory-1", "rest-pilot", "https://data.example.org"
DESKTOP, LAPTOP, PHONE = 1440, 1100, 390
#: Largest height (pixels) and size (bytes) of a picture.
HIGHEST, LARGEST = 1500, 150_000

#: Number, description, protocol, modality and images of each kind of series.
SERIES = (
    (1, "localizer", "AAHead_Scout", "MR", 3),
    (2, "t1_mprage_sag_p2_iso", "T1w", "MR", 12),
    (3, "ep2d_bold_rest_TR2000", "resting state", "MR", 20),
    (4, "ep2d_diff_b1000_64dir", "DTI", "MR", 16),
    (5, "t2_tse_cor_hippocampus", "T2w", "MR", 10),
    (99, "Phoenix report", "", "SR", 1),
)
#: TR, TE (ms), flip angle (degrees) and slice thickness (mm) by SeriesNumber.
PARAMETERS = {
    1: (8.6, 4, 20, 7),
    2: (2300, 2.98, 9, 1),
    3: (2000, 30, 80, 3),
    4: (8400, 88, 90, 2),
    5: (6000, 81, 150, 2),
}
SETTINGS = Settings(
    catalog=CatalogSettings(
        name="Imaging centre",
        description="Studies of the imaging centre of Example University.",
    )
)


STUDY_SETTINGS = """\
[study]
name = "Memory study"
description = "Structural and functional MRI of the memory study, two sessions for each participant."
keywords = ["memory", "MRI", "hippocampus"]
license = "CC BY 4.0"
license_url = "https://creativecommons.org/licenses/by/4.0/"
doi = "10.1234/memory"
publisher = "Example University"

[[study.authors]]
name = "Doe, Jane"
"""


def drawn(seed: int, at: int) -> bytes:
    """Ellipses in an ellipse: a phantom that looks like an image."""
    rows, columns = np.mgrid[-1:1:192j, -1:1:192j]
    random = np.random.default_rng(seed)
    picture = np.where(rows**2 / 0.8 + columns**2 / 0.55 < 1, 350.0, 0.0)
    for _ in range(9 + at % 3):
        y, x, height, width = random.uniform([-0.5, -0.4, 0.05, 0.05], [0.5, 0.4, 0.35, 0.3])
        picture += random.uniform(-160, 420) * (((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1)
    return bytes(np.clip(picture + random.normal(0, 18, picture.shape), 0, 1500).astype("<u2").tobytes())


def write_image(path: Path, visit: int, series: tuple[int, str, str, str, int], at: int) -> None:
    number, description, protocol, modality, _ = series
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[f"{visit} {number} {at}"])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[f"{visit}"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[f"{visit} {number}"])
    month = (visit + visit * visit // 9) % 20  # some months have more visits than others
    dataset.StudyDate, dataset.StudyTime = f"202{2 + month // 12}{1 + month % 12:02}14", "101500"
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = modality, number, description
    dataset.ProtocolName, dataset.InstanceNumber = protocol, at + 1
    if modality != "SR":
        dataset.Rows = dataset.Columns = 192
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Manufacturer, dataset.ManufacturerModelName = "SIEMENS", "Prisma" if visit < 18 else "Skyra"
        dataset.MagneticFieldStrength, dataset.BodyPartExamined = 3, "BRAIN"
        tr, te, flip, thickness = PARAMETERS[number]
        dataset.RepetitionTime, dataset.EchoTime = tr, te + (0.28 if (number, visit) in ((2, 1), (2, 5)) else 0)
        dataset.FlipAngle, dataset.SliceThickness, dataset.PixelSpacing = flip, thickness, [1, 1]
        dataset.PixelData = drawn(number * 100 + visit, at)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def make_store(root: Path) -> Path:
    """Twenty-four visits; every fourth one without diffusion images, and one with fewer of another kind."""
    for visit in range(24):
        name, source = f"sub-{visit // 2 + 1:02}_ses-{visit % 2 + 1}", root / "in" / str(visit)
        for series in SERIES:
            if visit % 4 or series[0] != 4:
                for at in range(series[4] - 4 * ((series[0], visit) == (3, 6))):
                    write_image(source / f"{series[0]:02}" / f"IM{at + 1:04}.dcm", visit, series, at)
        store = root / "store"
        make_studyvisit_archive(source, store, STUDY, name)
        deposit_visit_metadata(store, STUDY, name)
        deposit_visit_dataset(store, STUDY, name, store_url=STORE_URL, annex_url=True)
        catalogify_studyvisit_from_meta(store, STUDY, name, previews=visit == 1, settings=SETTINGS)
    (store / STUDY / "icf.toml").write_text(STUDY_SETTINGS, encoding="utf-8")
    small_study(root, store)
    for study, last in ((STUDY, name), (OTHER, "sub-01")):
        catalogify_studyvisit_from_meta(store, study, last, settings=SETTINGS)
    build_index(store, settings=SETTINGS)
    return store


def small_study(root: Path, store: Path) -> None:
    """Another study, so that there are several on the page of all studies."""
    for at in range(4):
        write_image(root / "other" / f"{at}.dcm", 30, (3, "ep2d_bold_rest", "resting state", "MR", 4), at)
    make_studyvisit_archive(root / "other", store, OTHER, "sub-01")
    deposit_visit_metadata(store, OTHER, "sub-01")
    deposit_visit_dataset(store, OTHER, "sub-01", store_url=STORE_URL)
    (store / OTHER / "icf.toml").write_text(
        '[study]\nname = "Resting state pilot"\ndescription = "One participant, to test the protocol."\n'
        'keywords = ["fMRI", "pilot"]\n',
        encoding="utf-8",
    )


#: Filters are closed on narrow screens when a page is opened there, and nothing has the focus.
_BEFORE = """
document.activeElement.blur();
document.querySelectorAll(".icf-facets").forEach(one => { one.open = innerWidth >= 960; });
"""


class Camera:
    """A browser that takes pictures of pages."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def go(self, address: str, then: str) -> None:
        self._driver.get("about:blank")
        self._size(DESKTOP, 900)  # wide pages open their filters as they load
        self._driver.get(address)
        self.wait(then)

    def do(self, script: str, then: str) -> None:
        self._driver.execute_script(script)
        self.wait(then)

    def wait(self, condition: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._driver, 30).until(lambda driver: driver.execute_script(f"return {condition}"))

    def take(self, name: str) -> None:
        for width, screen in ((DESKTOP, "desktop"), (LAPTOP, "laptop"), (PHONE, "phone")):
            for scheme in ("light", "dark"):
                self._take(IMAGES / f"{name}-{screen}-{scheme}.png", width, scheme)

    def _take(self, path: Path, width: int, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self._size(width, 900)
        self._driver.execute_script(_BEFORE)
        height = min(HIGHEST, self._driver.execute_script("return document.documentElement.scrollHeight"))
        self._size(width, height)
        self.wait("[...document.images].every(one => one.complete)")
        self._driver.execute_script("window.scrollTo(0, 0)")
        data = base64.b64decode(self._driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])
        Image.open(io.BytesIO(data)).convert("RGB").quantize(128).save(path, optimize=True)
        if path.stat().st_size > LARGEST:
            raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {LARGEST}")

    def _size(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@contextmanager
def camera(profile: str) -> Iterator[Camera]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Camera(driver)
    finally:
        driver.quit()


def take_pictures(address: str, view: Camera) -> None:
    """The page of all studies, a study's page, a search, the protocol matrix, a visit's page, and one of its series."""
    view.go(f"{address}index.html", "document.querySelectorAll('tbody tr').length === 2")
    view.take("catalog-index")
    address = f"{address}{STUDY}/catalog/"
    view.go(address, "document.querySelectorAll('td a').length")
    view.take("catalog-study")
    search = "#/?q=dti+tr%3A%3E8000+date%3A2022"
    view.go(
        f"{address}{search}", "[...document.querySelectorAll('.icf-count')].some(e => e.innerText.includes(' of '))"
    )
    view.take("catalog-search")
    view.go(f"{address}#/?view=matrix", "document.querySelectorAll('.icf-matrix td').length")
    view.take("catalog-matrix")
    view.go(f"{address}#/visit/sub-01_ses-2", "document.querySelector('.icf-neighbours a')")
    view.take("catalog-visit")
    view.go(f"{address}#/visit/sub-01_ses-2?series=2", "document.querySelectorAll('.icf-folder .icf-file').length")
    others = "main section:not(:has(#icf-details)):not(section section)"
    view.do(
        f"document.querySelectorAll('{others}').forEach(e => e.remove())", "document.querySelector('main .icf-marked')"
    )
    view.take("catalog-series")


def main() -> int:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder))
        with CatalogServer(store) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                with camera(f"{folder}/profile") as view:
                    take_pictures(server.address, view)
            finally:
                server.shutdown()
                thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
