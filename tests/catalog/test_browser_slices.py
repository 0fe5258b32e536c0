"""The pictures of a series in a real browser: first, middle and last, by buttons and by keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from tests.catalog.browsing import Visitor, served
from tests.catalog.test_previews import STUDY, image, make_slices

pytest.importorskip("numpy", reason="numpy is not installed")

PICTURE = "const found = document.querySelector('.icf-slice'); return [found.alt, found.naturalWidth]"


def test_a_reader_steps_through_a_series(tmp_path: Path, visitor: Visitor) -> None:
    images = [image(1, BodyPartExamined="KNEE", EchoTime=2.5) for _ in range(5)]
    for at, one in enumerate(images):
        one.SOPInstanceUID = f"1.2.3.4.{at}"
    root = make_slices(tmp_path, images)
    catalogify_studyvisit_from_meta(root, STUDY, "v1", previews=True)
    with served(root) as address:
        visitor.open(f"{address}/{STUDY}/catalog/index.html#/visit/v1?series=1")
        visitor.wait(lambda: visitor.driver.execute_script(PICTURE) == ["Series 1, middle image", 256])
        assert visitor.texts(".icf-stepper span") == ["middle image (2 of 3)"]
        visitor.click(visitor.button("Next picture"))
        visitor.wait(lambda: visitor.driver.execute_script(PICTURE) == ["Series 1, last image", 256])
        assert not visitor.button("Next picture").is_enabled()
        visitor.button("Previous picture").send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        visitor.wait(lambda: visitor.driver.execute_script(PICTURE) == ["Series 1, first image", 256])
        visitor.wait(lambda: visitor.texts("[aria-label='Other visits'], .icf-neighbours") is not None)
        assert len(visitor.texts(".icf-parameters")) == 1  # made again when the study's usual values have come
        assert "2.5 ms" in visitor.texts(".icf-parameters")[0]
        assert visitor.axe_violations() == []
