"""The examples of the pages run as they stand, one after the other, and the pictures are there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_examples_of_the_page_on_diffusion_run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "diffusion.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(block, namespace)
    assert len(blocks) == 7
    printed = capsys.readouterr().out
    assert "nan" not in printed
    rough, moved, smooth = map(float, printed.splitlines()[-2].split())
    assert smooth < moved < 0.7 * rough


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_and_pictures_of_pages_are_there(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
