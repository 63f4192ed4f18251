"""What `jobs.benchmark` measures beside our own code: plain ways to do the same."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffsasrec.config.training import ObjectiveConfig
from diffsasrec.model.batch import Batch
from diffsasrec.model.blocks import History
from diffsasrec.model.objective import batch_loss
from diffsasrec.model.transformer import SequenceModel

LOGITS_OF_PLAIN = 2**28  # 1 GiB of them, and as much again for each of their gradients


class Reencoding(SequenceModel):
    """A model that encodes the history anew for every step of decoding."""

    def encode_for_slots(
        self,
        items_BL: Tensor,
        lengths_B: Tensor,
        gaps_BL: Tensor,
        types_BL: Tensor | None = None,
        *,
        num_slots: int,
    ) -> History:
        return History(items_BL, lengths_B, gaps_BL, types_BL, None, [])

    def denoise_wanted(self, history: History, *args: Any, **kwargs: Any) -> Tensor:
        events = history.items_BL, history.lengths_B, history.gaps_BL, history.types_BL
        anew = self.encode(*events, with_states=False)
        return super().denoise_wanted(anew, *args, **kwargs)


def plain_loss(
    model: SequenceModel, batch: Batch, popularity_VF: Tensor, objective: ObjectiveConfig
) -> Iterator[Tensor]:
    """The loss of pretraining in the obvious way, in parts whose logits fit the memory.

    All sequences are padded to the longest that the model takes, and every place gets logits over
    the whole catalogue, whether it is scored or not.
    """
    num_sequences, num_slots = batch.slots_BS.shape
    width, longest = batch.history_BL.shape[1], model.config.max_seq_len
    missing = longest - width
    per_sequence = (longest + num_slots) * model.num_items
    for rows in torch.arange(num_sequences).split(max(1, LOGITS_OF_PLAIN // per_sequence)):
        history = model.encode(
            F.pad(batch.history_BL[rows], (0, missing)),
            batch.lengths_B[rows],
            F.pad(batch.gaps_BL[rows], (0, missing)),
        )
        states_BLD, slots_BSD = model.denoise(
            history, batch.slots_BS[rows], batch.num_slots_B[rows]
        )
        vectors_VW = model.item_vectors(popularity_VF)
        queries_BTW = model.queries(torch.cat([states_BLD, slots_BSD], dim=1))
        logits_BTV = queries_BTW[..., : vectors_VW.shape[1]] @ vectors_VW.T
        targets_BT = _padded(batch.targets_BT[rows], width, missing)
        nll_BT = F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none")
        weights_BT = (batch.masked_BT / batch.p_mask_BT)[rows]
        denoising = (nll_BT * _padded(weights_BT, width, missing)).sum()
        next_BL = F.pad(batch.next_BL[rows], (0, missing))
        next_nll_BL = F.cross_entropy(
            logits_BTV[:, :longest].transpose(1, 2), next_BL, reduction="none"
        )
        next_item = (next_nll_BL * F.pad(batch.scored_BL[rows], (0, missing))).sum()
        yield batch_loss((next_item, denoising, next_item.new_zeros(())), batch, objective)


def _padded(values_BT: Tensor, width: int, missing: int) -> Tensor:
    """History and slots [B, L + S] with `missing` places between them."""
    history_BL, slots_BS = values_BT[:, :width], values_BT[:, width:]
    return torch.cat([F.pad(history_BL, (0, missing)), slots_BS], dim=1)


def prepare_with_duckdb(log_path: str, output: str, *, quantile: float) -> None:
    """Split time, vocabulary, ordered histories and holdout of a log by DuckDB, as Parquet files.

    Unlike ours it checks no row and keeps no bad one.
    """
    import duckdb  # an outsider, which only the benchmark needs

    with duckdb.connect() as session:
        session.execute("set threads to 2")
        (split,) = session.execute(
            f"select quantile_disc(timestamp, {quantile}) from '{log_path}'"
        ).fetchall()[0]
        session.execute(
            f"create table events as select distinct user_id, item_id, timestamp from '{log_path}'"
        )
        session.execute(
            "create table vocab as select row_number() over (order by item_id) - 1 as index, * from"
            " (select item_id, count(*) as count, min(timestamp) as first_time,"
            f" count(*) filter (timestamp < {split}) as count_before from events group by item_id)"
        )
        for name, query in _queries(split).items():
            session.execute(f"copy ({query}) to '{output}/{name}.parquet' (compression zstd)")


def _queries(split: int) -> dict[str, str]:
    """What each file holds, of the tables `events` and `vocab`."""
    order = "order by timestamp, hash(user_id, item_id, timestamp)"
    later = (
        "select *, rank() over (partition by user_id order by timestamp) as place"
        f" from events join vocab using (item_id) where timestamp >= {split} and count_before > 0"
        f" and user_id in (select user_id from events where timestamp < {split})"
    )
    return {
        "vocab": "from vocab order by index",
        "sequences": f"select user_id, list(index {order}) as items,"
        f" list(timestamp {order}) as times,"
        f" count(*) filter (timestamp < {split}) as num_before"
        " from events join vocab using (item_id) group by user_id order by user_id",
        "holdout": "select user_id, item_id, timestamp,"
        f" 1 / count(*) over (partition by user_id) as weight from ({later}) where place = 1",
    }


def prepare_with_polars(log_path: str, output: str, *, quantile: float) -> None:
    """The same by Polars, on all cores."""
    import polars as pl  # an outsider, which only the benchmark needs

    time = pl.col("timestamp")
    log = pl.scan_parquet(log_path)
    split = log.select(time.quantile(quantile, "nearest")).collect().item()
    events = log.select("user_id", "item_id", "timestamp").unique().collect()
    counts = {"count": pl.len(), "first_time": time.min(), "count_before": (time < split).sum()}
    vocab = events.group_by("item_id").agg(**counts).sort("item_id").with_row_index("index")
    events = events.join(vocab.select("item_id", "index", "count_before"), on="item_id")
    tie = pl.struct("user_id", "item_id", "timestamp").hash()
    sequences = (
        events.with_columns(tie=tie)
        .sort("user_id", "timestamp", "tie")
        .group_by("user_id", maintain_order=True)
        .agg(items="index", times="timestamp", num_before=(time < split).sum())
    )
    after = events.filter((time >= split) & (pl.col("count_before") > 0))
    known = sequences.filter(pl.col("num_before") > 0).select("user_id")
    holdout = (
        after.join(known, on="user_id", how="semi")
        .filter(time == time.min().over("user_id"))
        .select("user_id", "item_id", "timestamp", weight=1 / pl.len().over("user_id"))
    )
    for name, table in (("vocab", vocab), ("sequences", sequences), ("holdout", holdout)):
        table.write_parquet(f"{output}/{name}.parquet", compression="zstd")
