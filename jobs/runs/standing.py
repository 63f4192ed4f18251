"""Whether a published night is what is served; where not, what is and how to change it."""

from collections.abc import Callable
from typing import Any

from diffsasrec.lake.chain import Entry, newest_by_date, read_chain, shown_instead
from diffsasrec.lake.run_dir import RunDir

from .. import called
from ..night.records import Published
from .run_dates import is_future

Judge = Callable[[str], bool]  # whether a run date lies in the future


def standing_of(run: RunDir, published: Published, config_path: str) -> dict[str, Any]:
    """What the last line says of a published run: `current`, and a `note` where it is not that.

    Its status is `superseded` where its date shows another run.
    """
    chain = read_chain(run.lake)
    found: dict[str, Any] = {"current": chain[-1].current}
    if (other := shown_instead(run.lake, run)) is not None:
        entry = chain[published.counts["chain_number"] - 1]
        return found | {
            "status": "superseded",
            "note": f"run {run.run_id} is published as entry {entry.number}, but {run.ds} shows "
            f"run {other.run_id} since entry {other.number}; "
            f"{_rollback(config_path, entry.number)} serves it again"
            f"{_besides(entry, chain, said=(run.ds, run.run_id), is_of_current=False)}",
        }
    note = why_not_current(chain, run.ds, run.run_id, config_path=config_path)
    return found if note is None else found | {"note": note}


def why_not_current(
    chain: list[Entry], ds: str, run_id: str, *, config_path: str, is_ahead: Judge = is_future
) -> str | None:
    """Why a published run is not current, in words; None where it is, or where its time is over.

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
    """The entry since which the current run is current."""
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
        f"Until then no night becomes current; {_serves_current(entry, chain, config_path)}, and "
        "the next night that is published becomes current"
    )


def _back_to(chain: list[Entry], ds: str, config_path: str) -> str:
    """How an earlier state is served again, after an older date was published."""
    earlier = [entry for entry in chain if entry.current["ds"] < ds]
    meant = "Nothing is to be done where an older date was meant"
    if not earlier:
        return meant
    return f"{meant}; {_serves_current(earlier[-1], chain, config_path)}"


def _serves_current(entry: Entry, chain: list[Entry], config_path: str) -> str:
    """What going back to an entry does, where what was current then is meant."""
    ds, run_id = entry.current["ds"], entry.current["run_id"]
    besides = _besides(entry, chain, said=(ds, run_id), is_of_current=True)
    return f"{_rollback(config_path, entry.number)} serves {ds}, run {run_id}, again{besides}"


def _besides(
    entry: Entry, chain: list[Entry], *, said: tuple[str, str], is_of_current: bool
) -> str:
    """What going back to an entry changes besides what was said, in words.

    Args:
        said: date and id of the run that is served again.
        is_of_current: whether it was said to be what is current, not what its date shows.
    """
    found, now = "", chain[-1].current
    if not is_of_current and entry.current != now:
        found += f", and makes {entry.current['ds']}, run {entry.current['run_id']}, current"
    if (entry.ds, entry.run_id) != said and newest_by_date(chain)[entry.ds].run_id != entry.run_id:
        found += f", and {entry.ds} shows run {entry.run_id} again"
    return found


def _rollback(config_path: str, number: int) -> str:
    return f"{called('publish')} --config {config_path} --rollback-to {number}"
