"""report.html as a person has it: in a browser, of whole nights and of those that stopped."""

import asyncio
import re
import shutil
import subprocess
import sys
from collections import Counter
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest
from chromium import chromium, find_chromium, look
from recorded import (
    BAD_DAY,
    BAD_FILE,
    counts_of,
    metrics_of,
    settings_of,
    write_night,
    write_quarantine,
)

from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import append_entry, append_rollback, read_chain
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import REPORT
from jobs.faults.rig.nights import ROOT
from jobs.prepare import check_or_record
from jobs.publish import NOT_IN_MANIFEST
from jobs.report.pages import write_index, write_report
from jobs.report.read_run import earlier_nights, read_facts
from jobs.runs.published_runs import config_if_known, find_run


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three calm nights, a bad one, a refused one and one that prepare stopped; all reported."""
    lake = tmp_path_factory.mktemp("lake") / "lake"
    for day in range(26, 29):
        write_night(lake, f"2024-02-{day}", ndcg=0.001 * day + 0.22)
    runs = [write_night(lake, "2024-03-01", ndcg=0.18, bad=900, seconds=150.0)]
    runs.append(write_night(lake, "2024-03-02", until="finetune"))
    runs[-1].storage.write_bytes("metrics.json", to_json(metrics_of(0.05)))
    runs[-1].begin("evaluate")
    runs.append(stopped_run(lake))
    for run in runs:
        write_report(run, settings_of(lake))
    return lake


def stopped_run(lake: Path) -> RunDir:
    run = RunDir(Storage.of(str(lake)), ds="2024-03-03", run_id="x", identity="i", attempt="a")
    run.begin("prepare")
    write_quarantine(run, 5_000)
    counts = counts_of(bad=5_000)
    names = ("rows", "kept", "after_run_date", "null_item_id", "unparsable_time")
    found = Counter({name: counts[name] for name in names})
    with pytest.raises(InputDataError, match="are bad"):
        check_or_record(found, settings_of(lake), run)
    return run


def page_of(lake: Path, ds: str = "2024-03-01", run_id: str = "calm") -> Path:
    return lake / f"runs/ds={ds}/{run_id}/{REPORT}"


def words_of(path: Path) -> str:
    """What stands on a page, without its charts and links."""
    html = re.sub(r"<(svg|style|nav).*?</\1>", "", path.read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_a_report_is_small_and_of_its_run_alone(lake: Path):
    assert page_of(lake).stat().st_size < 500_000
    assert page_of(lake).name in NOT_IN_MANIFEST


def test_a_planted_day_stands_among_the_first_words(lake: Path):
    first = words_of(page_of(lake)).partition("What was published")[0][:600]
    assert "Wrong: 900 bad rows, 4.50 % of the log, far more than usual" in first
    assert f"897 on {BAD_DAY}" in first and BAD_FILE in first


def test_a_night_that_prepare_stopped_says_so_with_the_bad_rows(lake: Path):
    words = words_of(page_of(lake, "2024-03-03", "x"))
    assert "Wrong: This night failed in prepare; nothing was published" in words
    assert "Wrong: 5,000 bad rows, 25.0 % of the log" in words
    assert f"4,997 on {BAD_DAY}" in words and BAD_FILE in words


def test_a_night_that_the_gate_refused_says_so_with_its_quality(lake: Path):
    words = words_of(page_of(lake, "2024-03-02"))
    assert "Wrong: This night was refused in evaluate; nothing was published" in words
    assert "NDCG@5 is 0.0500, below its floor of 0.1 (gate.floors)" in words
    assert "NDCG@5 is 0.0500; own most frequent has 0.2000." in words


def test_a_night_that_reuses_weights_shows_what_they_are_worth_and_how_old_it_is(tmp_path: Path):
    lake = tmp_path / "lake"
    for day in range(26, 29):
        write_night(lake, f"2024-02-{day}", ndcg=0.25 if day < 28 else 0.18)
    run = write_night(lake, "2024-03-01", ndcg=0.18, cites="2024-02-28")
    write_report(run, settings_of(lake))
    words = words_of(page_of(lake))
    first, _, rest = words.partition("What was published")
    assert "Wrong: The model is no better than own most frequent" in first
    assert "Nothing unusual" not in first and "as usual" not in first
    measured = "Measured on the night of 2024-02-28 (run calm), whose weights serve: 2 days old."
    assert measured in first
    tile = "Quality NDCG@5 0.1800; own most frequent 0.2000; of 2024-02-28, 2 days old"
    assert tile in rest
    quality = rest.partition(" Quality Measured")[2].partition(" The lists ")[0]
    assert "NDCG@5 of the model 0.1800 Best counter: own most frequent 0.2000" in quality
    assert "Of the last 3 nights that measured; this one did not." in quality
    html = (lake / "reports/index.html").read_text()
    row = " ".join(re.sub(r"<[^>]+>", " ", html.split("<tr>")[2]).split())
    assert row.startswith(
        "2024-03-01 published , current, no better than a counter 0.1800, 2 days old "
        "own most frequent 0.2000 0.600 60"
    )


def test_metrics_of_an_earlier_config_in_the_same_directory_are_not_tonights(tmp_path: Path):
    run = write_night(tmp_path / "lake", "2024-03-01", until="pretrain")
    run.storage.write_bytes("metrics.json", to_json(metrics_of(0.25)))
    assert read_facts(run, settings_of(tmp_path / "lake")).night.metrics is None


def test_the_message_of_a_failed_night_is_shown_until_its_stage_is_done(tmp_path: Path):
    lake = tmp_path / "lake"
    run = write_night(lake, "2024-03-01", until="refit")
    ended = {"status": "failed", "stage": "score", "error": "a <b>node</b> died"}
    run.storage.write_bytes("outcome.json", to_json(ended))
    write_report(run, settings_of(lake))
    assert "a &lt;b&gt;node&lt;/b&gt; died" in page_of(lake).read_text()
    write_report(write_night(lake, "2024-03-01"), settings_of(lake))
    assert "node" not in words_of(page_of(lake))


def test_ids_and_titles_are_escaped(lake: Path):
    html = page_of(lake).read_text()
    assert "<script" not in html and "&lt;script&gt;alert(x)&lt;/script&gt;" in html
    assert "<b>0" not in html


@pytest.mark.process
def test_a_report_is_made_anew_from_the_lake_alone_with_the_same_bytes(lake: Path):
    before = page_of(lake).read_bytes()
    command = [
        sys.executable,
        "-m",
        "jobs.report",
        "--lake",
        str(lake),
        "--date",
        "2024-03-01",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(page_of(lake)), f"{lake}/reports/index.html"]
    assert page_of(lake).read_bytes() == before


def test_the_index_has_a_row_per_run_with_links_to_reports(lake: Path):
    html = (lake / "reports/index.html").read_text()
    rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in html.split("<tr>")[2:]]
    assert rows[0].startswith("2024-03-03 failed in prepare - - - - 25.0 %")
    assert rows[2].startswith(
        "2024-03-01 published , current, no better than a counter 0.1800 own most frequent 0.2000 "
        "0.600 60 4.50 % 212 calm"
    )
    assert len(rows) == 6
    links = re.findall(r'href="([^"#]+)"', html)
    assert links and all((lake / "reports" / link).resolve().exists() for link in links)


def test_a_run_is_found_by_its_date_or_as_what_is_served(lake: Path):
    storage = Storage.of(str(lake))
    assert find_run(storage, None, None).ds == "2024-03-01"
    assert find_run(storage, "2024-03-03", None).run_id == "x"
    assert config_if_known(find_run(storage, "2024-03-01", None)) == settings_of(lake)
    assert config_if_known(find_run(storage, "2024-03-03", None)) is None
    for ds, run_id in (("2024-03-09", None), ("2024-03-01", "../x"), (None, "calm")):
        with pytest.raises(ConfigError):
            find_run(storage, ds, run_id)


def test_a_run_with_nothing_but_its_beginning_has_a_report(tmp_path: Path):
    lake = tmp_path / "lake"
    run = RunDir(Storage.of(str(lake)), ds="2024-03-01", run_id="r", identity="i", attempt="a")
    run.begin("prepare")
    write_report(run, None)
    words = words_of(page_of(lake, run_id="r"))
    assert "Look at this: This night has not finished in prepare; nothing was published" in words


def test_a_table_of_items_that_has_gone_costs_the_titles_alone(tmp_path: Path):
    lake = tmp_path / "lake"
    run = write_night(lake, "2024-03-01")
    text = f"lake: {lake}\nevents: {{path: log}}\nitems: {{path: gone.csv, title_column: t}}"
    write_report(run, load_config(text))
    assert "No titles: items.path=gone.csv can't be read" in words_of(page_of(lake))


def test_a_night_is_seen_beside_earlier_ones_that_no_rollback_went_behind(tmp_path: Path):
    for day in (1, 2, 3):
        write_night(tmp_path / "lake", f"2024-03-0{day}", run_id=f"r{day}")
    lake = Storage.of(str(tmp_path / "lake"))
    append_rollback(lake, 2, attempt="back")
    nights = earlier_nights(lake, "2024-03-04", read_chain(lake))
    assert [night.ds for night in nights] == ["2024-03-01", "2024-03-02"]


@pytest.mark.process
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_it_on_every_screen_without_a_request_or_a_complaint(
    lake: Path, tmp_path: Path
):
    shutil.copy(page_of(lake), alone := tmp_path / REPORT)  # nothing lies beside it

    async def check(page) -> None:
        colours = set()
        for width, dark in ((390, True), (1280, False)):
            await page.load(alone, width=width, dark=dark)
            assert await page.run("document.documentElement.scrollWidth") <= width
            drawn = (
                "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)"
            )
            heights = await page.run(drawn)
            assert len(heights) == 13 and min(heights) > 60
            fill = "getComputedStyle(document.querySelector('svg text')).fill"
            colours.add(await page.run(fill))
        assert len(colours) == 2  # the charts are dark and light with the page
        figures = "[...document.querySelector('#quality table').rows].map(r => r.innerText)"
        ndcg = {row.split("\t")[0]: row.split("\t")[-1] for row in await page.run(figures)}
        assert ndcg == {
            "list": "NDCG@5", "model": "0.1800", "own most frequent": "0.2000", "popular": "0.1000"
        }  # fmt: skip
        heads = await page.run("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName[1])")
        assert heads[0] == "1" and all(int(b) - int(a) <= 1 for a, b in pairwise(heads))
        await page.press("Tab")
        assert await page.run("document.activeElement.getBoundingClientRect().left") >= 0
        await page.press("Enter")
        assert (await page.run("location.hash")) == "#unusual"
        await page.run("document.querySelector('details').open = true")
        assert await page.run("document.querySelector('details table').offsetHeight > 0")
        assert set(page.requests()) == {alone.as_uri()}
        assert page.complaints() == []

    with chromium(tmp_path) as address:
        asyncio.run(look(address, check))


def test_the_index_tells_what_was_replaced_from_what_its_date_shows(lake: Path, tmp_path: Path):
    shutil.copytree(lake, tmp_path / "lake")
    storage = Storage.of(str(tmp_path / "lake"))
    again = RunDir(storage, "2024-03-01", "again", "identity", "attempt")
    again.storage.write_bytes("manifest.json", b"{}")
    append_entry(storage, again, "digest")
    write_index(storage)
    html = (tmp_path / "lake/reports/index.html").read_text()
    rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in html.split("<tr>")[2:]]
    replaced = next(row for row in rows if row.startswith("2024-03-01 replaced"))
    assert replaced.endswith("calm")
    (current,) = [row for row in rows if ", current" in row]
    assert current.startswith("2024-03-01") and current.endswith("again")


def test_the_index_says_which_published_runs_were_deleted(lake: Path, tmp_path: Path):
    shutil.copytree(lake, tmp_path / "lake")
    storage = Storage.of(str(tmp_path / "lake"))
    entry = read_chain(storage)[0]
    storage.delete_tree(f"runs/ds={entry.ds}/{entry.run_id}")
    write_index(storage)
    html = (tmp_path / "lake/reports/index.html").read_text()
    row = next(row for row in html.split("<tr>") if entry.run_id in row and entry.ds in row)
    assert "deleted" in row and "href" not in row
