"""Whether a published night is what is served; where not, what is and how to change it."""

from collections.abc import Callable, Mapping
from typing import Any

from diffsasrec.publish import Entry, read_chain, shown_instead
from diffsasrec.rundir import RunDir
from jobs.dates import is_future

Judge = Callable[[str], bool]  # whether a run date lies in the future


def standing_of(run: RunDir, published: Mapping[str, Any], config_path: str) -> dict[str, Any]:
    """What the last line says of a published run: `current`, and a `note` where it is not that.

    Its status is `superseded` where its date shows another run.
    """
    chain = read_chain(run.lake)
    found: dict[str, Any] = {"current": chain[-1].current}
    if (other := shown_instead(run.lake, run)) is not None:
        entry = chain[published["counts"]["chain_number"] - 1]
        return found | {
            "status": "superseded",
            "note": f"run {run.run_id} is published as entry {entry.number}, but {run.ds} shows "
            f"run {other.run_id} since entry {other.number}; "
            f"{_rollback(config_path, entry.number)} serves it again{_besides(entry, chain, run)}",
        }
    note = why_not_current(chain, run.ds, run.run_id, config_path=config_path)
    return found if note is None else found | {"note": note}


def why_not_current(
    chain: list[Entry], ds: str, run_id: str, *, config_path: str, is_ahead: Judge = is_future
) -> str | None:
    """That a published run is not current, in words; None where it is, or has had its time.

    Args:
        is_ahead: whether a run date lies in the future.
    """
    mine = {"ds": ds, "run_id": run_id}
    numbers = [entry.number for entry in chain if (entry.ds, entry.run_id) == (ds, run_id)]
    if not numbers or chain[-1].current == mine:
        return None
    current, was_current = chain[-1].current, any(entry.current == mine for entry in chain)
    if was_current and current["ds"] >= ds:
        return None  # a later night, or a newer run of its date, has followed
    since = _since(chain)
    what = (
        f"run {run_id} of {ds} is published as entry {numbers[0]}, but it is not current: "
        f"{current['ds']}, run {current['run_id']}, is since entry {since.number}"
    )
    if current["ds"] < ds:  # only a rollback goes back
        own = [entry for entry in chain if entry.current == mine and entry.ds == ds]
        how = "the next night that is published becomes current"
        if own:
            how = f"{_rollback(config_path, own[-1].number)} serves this run again"
        return f"{what}, a rollback; {how}"
    if is_ahead(current["ds"]):
        how = way_out(chain, config_path, is_ahead)
        return f"{what}, and {current['ds']} lies in the future. {how}"
    return f"{what}, and a later run date stays current. {_back_to(chain, ds, config_path)}"


def _since(chain: list[Entry]) -> Entry:
    """The entry since which what is current is so."""
    since = chain[-1]
    for entry in reversed(chain):
        if entry.current != chain[-1].current:
            break
        since = entry
    return since


def way_out(chain: list[Entry], config_path: str, is_ahead: Judge = is_future) -> str:
    """How a lake whose current night lies in the future gets out of it."""
    sane = [entry for entry in chain if not is_ahead(entry.current["ds"])]
    if not sane:
        return (
            "Until then no night becomes current, and the chain has no entry before it to go back "
            "to; publish into a new lake"
        )
    entry = sane[-1]
    return (
        f"Until then no night becomes current; {_rollback(config_path, entry.number)} serves "
        f"{entry.current['ds']}, run {entry.current['run_id']}, again, and the next night that is "
        "published becomes current"
    )


def _back_to(chain: list[Entry], ds: str, config_path: str) -> str:
    """How an earlier state is served again, after an older date was published."""
    earlier = [entry for entry in chain if entry.current["ds"] < ds]
    meant = "Nothing is to be done where an older date was meant"
    if not earlier:
        return meant
    entry = earlier[-1]
    return (
        f"{meant}; {_rollback(config_path, entry.number)} serves {entry.current['ds']}, run "
        f"{entry.current['run_id']}, again"
    )


def _besides(entry: Entry, chain: list[Entry], run: RunDir) -> str:
    """What going back to an entry changes besides the date of a run, in words."""
    if entry.current in (chain[-1].current, {"ds": run.ds, "run_id": run.run_id}):
        return ""
    return f", and makes {entry.current['ds']}, run {entry.current['run_id']}, current"


def _rollback(config_path: str, number: int) -> str:
    return f"python -m jobs.publish --config {config_path} --rollback-to {number}"
