"""What a night leaves behind for those who watch it, and what it never does."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from recorded import write_night

from diffsasrec.config.load import load_config
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import append_entry, append_rollback
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import DERIVED, METRICS, OUTCOME
from jobs.night.records import Prepared
from jobs.observe.outcome import OBSERVER_PATIENCE, ObservedNight, last_success, observe
from jobs.publish import NOT_IN_MANIFEST

CONFIG = load_config("lake: lake\nevents: {path: log.parquet}")


def run_in(lake: Path, run_id: str = "r1") -> RunDir:
    return RunDir(Storage.of(str(lake)), "2024-03-01", run_id, "identity", "attempt")


def ended(run: RunDir, stage: str | None, code: int, error: str | None = None) -> dict[str, Any]:
    """outcome.json of a night that has ended in a stage."""
    night = ObservedNight("jobs.report.pages", stage_started=time.monotonic() - 5)
    night.follow(CONFIG, run)
    summary = {"status": "failed" if code else "done", "stage": stage}
    observe(night, summary if error is None else {**summary, "error": error}, code)
    outcome: dict[str, Any] = json.loads(run.storage.read_bytes(OUTCOME))
    return outcome


def test_a_failure_leaves_stage_code_error_and_what_was_done_before(tmp_path: Path):
    run = run_in(tmp_path)
    counts = {"rows": 7, "kept": 7}
    prepared = Prepared(
        counts=counts, seconds=3.5, num_buckets=1, num_items=1, split_time=1, second_cut=1
    )
    run.finish("prepare", prepared.to_json())
    outcome = ended(run, "pretrain", 5, "training failed after its retries")
    assert (outcome["status"], outcome["stage"], outcome["exit_code"]) == ("failed", "pretrain", 5)
    assert outcome["error"] == "training failed after its retries"
    assert outcome["counts"] == {"prepare": {"rows": 7, "kept": 7}}
    assert outcome["seconds"]["prepare"] == 3.5 and 5 <= outcome["seconds"]["pretrain"] < 60
    start, end = (datetime.fromisoformat(outcome[name]) for name in ("started", "ended"))
    assert start <= end <= datetime.now(UTC)
    assert b'diffsasrec_failed{stage="pretrain"} 1.0' in run.storage.read_bytes(METRICS)


def test_the_error_is_written_without_secrets(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hushhush")
    error = "reading s3://lake failed: key hushhush at https://me:word@store/?X-Amz-Signature=abc"
    text = ended(run_in(tmp_path), None, 5, error)["error"]
    assert "reading s3://lake failed" in text
    assert not any(secret in text for secret in ("hushhush", "word", "abc"))


def test_nothing_is_written_of_a_run_without_work(tmp_path: Path):
    observe(ObservedNight("jobs.report.pages"), {"status": "done", "stage": "publish"}, 0)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_a_line_each_and_no_error(tmp_path: Path, caplog):
    (tmp_path / "runs").write_text("a file where a directory should be")
    night = ObservedNight("jobs.report.pages")
    night.follow(CONFIG, run_in(tmp_path))
    observe(night, {"status": "done", "stage": "publish"}, 0)
    lines = [record.getMessage() for record in caplog.records]
    assert [name in line for name, line in zip(DERIVED, lines, strict=True)] == [True] * 3
    assert all("is not written" in line and "\n" not in line for line in lines)


def test_a_store_that_is_down_is_not_waited_for_long():
    assert OBSERVER_PATIENCE.attempts * OBSERVER_PATIENCE.seconds <= 60


def test_metrics_of_an_earlier_config_in_the_same_directory_are_not_tonights(tmp_path: Path):
    run = run_in(tmp_path)
    run.storage.write_bytes("metrics.json", b'{"model": {}, "baselines": {}}')
    ended(run, "prepare", 3, "bad rows")
    assert b"ndcg" not in run.storage.read_bytes(METRICS)


def test_a_night_that_reuses_weights_tells_their_quality(tmp_path: Path):
    run = write_night(tmp_path, "2024-03-01", ndcg=0.18, cites="2024-02-28")
    ended(run, "publish", 0)
    told = run.storage.read_bytes(METRICS).decode()
    assert 'diffsasrec_ndcg{k="5",name="model",of="model"} 0.18' in told
    assert 'diffsasrec_ndcg{k="5",name="own most frequent",of="best_counter"} 0.2' in told
    assert "diffsasrec_quality_age_seconds 172800.0" in told


def test_the_last_success_is_the_last_publication_and_no_rollback(tmp_path: Path):
    lake = Storage.of(str(tmp_path))
    assert last_success(lake) is None
    for number in (1, 2):
        run = run_in(tmp_path, f"r{number}")
        run.storage.write_bytes("manifest.json", b"{}")
        append_entry(lake, run, manifest_sha256="")
    append_rollback(lake, 1, attempt="back")
    chain = sorted((tmp_path / "recommendations/_published").glob("*.json"))
    assert len(chain) == 3
    assert last_success(lake) == pytest.approx(chain[1].stat().st_mtime)


def test_derived_files_stand_in_no_manifest():
    assert all(name.startswith(NOT_IN_MANIFEST) for name in DERIVED)
    assert not "metrics.json".startswith(NOT_IN_MANIFEST)
