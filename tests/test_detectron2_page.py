"""docs/detectron2.md: its snippets run in their order, and what it says of the script is so."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import smmcl.d2 as d2

PAGE = (pathlib.Path(__file__).resolve().parents[1] / "docs/detectron2.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(d2.ENGINE != "detectron2", reason="Detectron2 is not here")
def test_the_snippets_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    for folder, shape in (("rgb", (64, 96, 3)), ("heat", (64, 96)), ("labels", (64, 96))):
        (tmp_path / "my_pairs" / folder).mkdir(parents=True)
        Image.fromarray(np.ones(shape, np.uint8)).save(tmp_path / f"my_pairs/{folder}/0.png")
    names: dict = {}
    snippets = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(snippets) == 10
    for snippet in snippets:
        exec(compile(snippet, "docs/detectron2.md", "exec"), names)
    assert "output/mine/model_final.pth" in PAGE
    assert names["trainer"].iter == 2
    d2.DatasetCatalog.remove("my_pairs")
    d2.MetadataCatalog.remove("my_pairs")
