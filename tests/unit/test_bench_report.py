"""The page: whole in one file, harmless whatever a peer said, and drawn by a real browser without a
complaint.
"""

from __future__ import annotations

import html
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from tests.unit.bench_documents import document, full, stream, trip

pytest.importorskip("plotly", reason="plotly is not installed (kinfolk[report])")

from kinfolk.bench.report.page import page
from kinfolk.bench.report.sections import bends, sections

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

#: Without background networking: a browser that asks the world for updates is no part of this.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic", "--disable-dev-shm-usage",
    "--enable-logging=stderr", "--virtual-time-budget=20000",
)  # fmt: skip


class Outline(html.parser.HTMLParser):
    """Tags, links, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not self._inside or self._inside[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def whole() -> str:
    return page(full())


def test_it_needs_no_network(whole):
    outline = Outline(whole)
    links = [
        attrs.get("src") or attrs.get("href")
        for _, attrs in outline.tags
        if "src" in attrs or "href" in attrs
    ]
    assert all(str(link).startswith(("#", "data:")) for link in links), links
    policy = next(attrs["content"] for tag, attrs in outline.tags if "http-equiv" in attrs)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_what_a_peer_said_stays_text(whole):
    outline = Outline(whole)
    assert "asleep </script><b>in</b> futex_do_wait" in outline.text
    assert "A <claim>." in outline.text
    assert sum(tag == "script" for tag, _ in outline.tags) == 3


def test_every_picture_has_a_name_and_every_figure_a_table(whole):
    outline = Outline(whole)
    pictures = [attrs for tag, attrs in outline.tags if attrs.get("role") == "img"]
    assert len(pictures) >= 6
    assert all(attrs["aria-label"] for attrs in pictures)
    for section in sections(full()):
        if section.plot is not None:
            assert section.tables, section.anchor


def test_a_run_with_little_makes_a_page_too():
    assert "Which to choose" in Outline(page(document(trip("os.pipe", 5)))).text
    assert "What took part" in Outline(page(document())).text


def test_a_figure_of_nothing_is_no_candidate():
    assert "What took part" in Outline(page(document(stream("os.pipe", 0.0)))).text


def test_where_curves_bend_is_said():
    assert list(bends(full().measured("channels"), "open channels")) == [
        "kin pipe: bends at 10,000 open channels"
    ]


def test_without_plotly_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(kin.NotFound, match=r"pip install kinfolk\[report\]"):
        page(document())


def browse(path: Path, tmp_path: Path, *flags: str) -> tuple[str, str]:
    """The page as the browser has made it, and what it said on its console."""
    if BROWSER is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path}/profile", *flags, "--dump-dom",
         path.as_uri()],
        capture_output=True, text=True, timeout=100, check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_draws_it_without_a_complaint(whole, dark, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(whole, encoding="utf-8")
    # Its two schemes are told apart by what the plots' text is drawn with: the page's own colour of
    # ink.
    flags = (
        ["--blink-settings=preferredColorScheme=0"]
        if dark
        else ["--blink-settings=preferredColorScheme=1"]
    )
    drawn, said = browse(path, tmp_path, *flags)
    assert said == ""
    count = re.search(r'data-drawn="(\d+)"', drawn)
    assert count is not None
    assert int(count[1]) == sum(section.plot is not None for section in sections(full()))
    assert drawn.count('class="main-svg"') >= int(count[1])
    assert ("rgb(232, 232, 238)" in drawn) == dark


#: As wide as a small phone; a browser without a screen has no window that narrow, but a frame can
#: be.
PHONE = 360

# What the page says of itself when it is drawn; the frame around it may not look inside.
PROBE = """<script>
addEventListener("load", () => {
  const page = document.documentElement;
  const plots = [...document.querySelectorAll(".plot")].map((plot) => plot.scrollWidth);
  const widths = [page.scrollWidth, ...plots];
  parent.postMessage(JSON.stringify({ inner: innerWidth, widths, drawn: page.dataset.drawn }), "*");
});
</script></body>"""
FRAME = """<!DOCTYPE html>
<iframe src="report.html" width="{width}" height="3000" style="border: 0"></iframe>
<script>
addEventListener("message", (said) => {{ document.body.dataset.said = said.data; }});
</script>"""


def in_a_frame(text: str, width: int, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """What a page says of itself that is so many pixels wide, and its console."""
    (tmp_path / "report.html").write_text(text.replace("</body>", PROBE), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    drawn, said = browse(tmp_path / "frame.html", tmp_path)
    found = re.search(r'data-said="([^"]*)"', drawn)
    assert found is not None, drawn
    return json.loads(html.unescape(found[1])), said


def test_on_a_phone_nothing_is_wider_than_the_screen(whole, tmp_path):
    page, said = in_a_frame(whole, PHONE, tmp_path)
    assert said == ""
    assert page["inner"] == PHONE
    assert max(page["widths"]) <= PHONE
    assert int(page["drawn"]) > 0


def test_what_is_wider_is_noticed(tmp_path):
    """The control."""
    page, _ = in_a_frame("<body><div style='width: 900px'>wide</div></body>", PHONE, tmp_path)
    assert max(page["widths"]) >= 900


def test_on_paper_each_table_is_unfolded(whole, tmp_path):
    path, paper = tmp_path / "report.html", tmp_path / "report.pdf"
    # Unfolded for the paper and folded again: what it was like meanwhile is noted between the
    # page's own two.
    note = """<script>addEventListener("beforeprint", () => {
      document.body.dataset.unfolded = document.querySelectorAll("details[open]").length;
    });
    dispatchEvent(new Event("beforeprint"));
    dispatchEvent(new Event("afterprint"));
    document.body.dataset.left = document.querySelectorAll("details[open]").length;
    </script></body>"""
    path.write_text(whole.replace("</body>", note), encoding="utf-8")
    drawn, said = browse(path, tmp_path, f"--print-to-pdf={paper}")
    assert said == ""
    assert f'data-unfolded="{whole.count("<details>")}"' in drawn
    assert 'data-left="0"' in drawn
    assert paper.read_bytes().startswith(b"%PDF")


def test_a_script_that_fails_is_heard(tmp_path):
    """The control: the browser does report what goes wrong."""
    path = tmp_path / "broken.html"
    path.write_text("<script>nowhere()</script>")
    assert "nowhere is not defined" in browse(path, tmp_path)[1]
