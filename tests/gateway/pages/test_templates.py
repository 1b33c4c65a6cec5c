"""What every template has to keep to: no inline script or style, a token in each form, valid names of parts."""

import re
from pathlib import Path

import pytest

from gateway.rendering import TEMPLATES, environment

ALL = sorted(str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*.html"))


@pytest.mark.parametrize("name", ALL)
def test_a_template_compiles(name: str) -> None:
    environment().get_template(name)


@pytest.mark.parametrize("name", ALL)
def test_a_template_holds_nothing_that_the_content_policy_forbids(name: str) -> None:
    text = (TEMPLATES / name).read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text, re.IGNORECASE)
    for script in re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL):
        assert script.strip() == ""


@pytest.mark.parametrize("name", ALL)
def test_every_posted_form_carries_the_token(name: str) -> None:
    text = (TEMPLATES / name).read_text("utf-8")
    for form in re.findall(r"<form[^>]*method=\"post\".*?</form>", text, re.DOTALL):
        assert 'name="csrf_token" value="{{ csrf_token }}"' in form


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_put_on_a_page_unescaped(name: str) -> None:
    text = (TEMPLATES / name).read_text("utf-8")
    assert "|safe" not in text.replace(" ", "")
    assert "autoescape" not in text


def test_no_file_of_a_third_party_is_kept_beside_ours() -> None:
    ours = {"app.css", "icon.svg"}
    static = TEMPLATES.parent / "static"
    assert {path.name for path in static.iterdir()} - {"vendor"} == ours


def test_the_lock_of_the_assets_names_no_address() -> None:
    lock = Path(TEMPLATES.parent / "package-lock.json").read_text("utf-8")
    assert "resolved" not in lock
    assert "://" not in lock
