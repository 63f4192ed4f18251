"""Logits that never leave a GPU's chip: the maxima of groups of items and the logsumexp, in Triton.

Writing all logits of a large catalogue to memory costs several times as much as the products that
make them. Two kernels avoid that: one goes once over the catalogue and keeps a number per group of
items, the other makes the logits of the few groups that can hold the best.

Legend: R rows (states to score), W width of vectors, C items, N groups of items, U users, G chosen
groups of a row, P programs that share the catalogue, X places in a row, Y pairs (user, item).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 32  # items: one bit each of a word that hides items
ROWS, COLUMNS, DEPTH = 64, 64, 16  # of a tile of products: what fits the registers of sm_80 to 90
TILES = 32  # tiles in sequence per program: few enough that a small catalogue keeps a GPU busy
MAXIMA_LAUNCH = {"num_warps": 8, "num_stages": 3}
LOGITS_LAUNCH = {"num_warps": 1}


def nothing_hidden(num_users: int, num_items: int, device: torch.device) -> Tensor:
    """A word per user and group in which only the bits after the last item are set, [U, N]."""
    words_UN = torch.zeros((num_users, -(-num_items // GROUP)), dtype=torch.int32, device=device)
    if num_items % GROUP:
        words_UN[:, -1] = -1 << num_items % GROUP
    return words_UN


def hide(hidden_UN: Tensor, users_Y: Tensor, columns_Y: Tensor) -> Tensor:
    """With the bits of some pairs set, in any order, duplicates allowed: [U, N]."""
    if not len(users_Y):
        return hidden_UN
    keys_Y = (users_Y * (hidden_UN.shape[1] * GROUP) + columns_Y).unique()
    words = hidden_UN.flatten().clone()
    new_Y = keys_Y[(words[keys_Y // GROUP] & _bits(keys_Y)) == 0]
    words.index_add_(0, new_Y // GROUP, _bits(new_Y))  # bits that are not set yet: add is or
    return words.view_as(hidden_UN)


def is_hidden(hidden_UN: Tensor, users_Y: Tensor, columns_Y: Tensor) -> Tensor:
    """Whether the item of each pair is hidden, [Y]."""
    return (hidden_UN[users_Y, columns_Y // GROUP] & _bits(columns_Y)) != 0


def _bits(columns_Y: Tensor) -> Tensor:
    return torch.ones_like(columns_Y, dtype=torch.int32) << (columns_Y % GROUP).int()


def group_maxima(
    queries_RW: Tensor,
    users_R: Tensor,
    vectors_CW: Tensor,
    hidden_UN: Tensor,
    *,
    normalise: bool,
) -> tuple[Tensor, Tensor]:
    """The highest logit of each group, [R, N], and the logsumexp over all, [R]; float32.

    Hidden items count in neither; if a whole group or catalogue is hidden, it is -inf. Without
    `normalise`, which costs an exponential per item, the second is empty.
    """
    num_rows, width = queries_RW.shape
    num_groups = hidden_UN.shape[1]
    # the same parts for any rows, so that sums don't depend on batch mates
    parts = triton.cdiv(num_groups * GROUP, COLUMNS * TILES)
    maxima_RN = torch.empty(num_rows, num_groups, device=queries_RW.device)
    peak_RP, total_RP = torch.empty(
        2, num_rows if normalise else 0, parts, device=queries_RW.device
    )
    if num_rows:
        _group_maxima[(triton.cdiv(num_rows, ROWS), parts)](
            queries_RW.contiguous(),
            users_R.contiguous(),
            vectors_CW.contiguous(),
            hidden_UN.contiguous(),
            maxima_RN,
            peak_RP,
            total_RP,
            num_rows,
            len(vectors_CW),
            num_groups,
            **maxima_constants(width, normalise=normalise),
            **MAXIMA_LAUNCH,
        )
    return maxima_RN, (peak_RP + total_RP.log()).logsumexp(1)


def maxima_constants(width: int, *, normalise: bool) -> dict[str, Any]:
    """What the first kernel is compiled for."""
    sizes = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH, "TILES": TILES, "GROUP": GROUP}
    return {"NORMALISE": normalise, "WIDTH": width, **sizes}


@triton.jit(do_not_specialize=["num_rows"])
def _group_maxima(
    queries,
    users,
    vectors,
    hidden,
    maxima,
    peaks,
    totals,
    num_rows,
    num_items,
    num_groups,
    NORMALISE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    TILES: tl.constexpr,
    GROUP: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    is_row = row < num_rows
    user = tl.load(users + row, mask=is_row, other=0)
    peak, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    part = tl.program_id(1)
    for tile in range(part * TILES, (part + 1) * TILES):
        logits = _products(
            queries, row, is_row, vectors, tile, num_items, WIDTH, ROWS, COLUMNS, DEPTH
        )
        group = tile * (COLUMNS // GROUP) + tl.arange(0, COLUMNS // GROUP)
        is_group = is_row[:, None] & (group < num_groups)[None, :]
        words = hidden + user[:, None] * num_groups + group[None, :]
        logits = tl.reshape(logits, (ROWS, COLUMNS // GROUP, GROUP))
        logits = _shown(logits, tl.load(words, mask=is_group, other=-1), GROUP)
        highest = tl.max(logits, axis=2)
        tl.store(maxima + row[:, None] * num_groups + group[None, :], highest, mask=is_group)
        if NORMALISE:
            peak, total = _with_exponentials(peak, total, logits, highest)
    if NORMALISE:
        tl.store(peaks + row * tl.num_programs(1) + part, peak, mask=is_row)
        tl.store(totals + row * tl.num_programs(1) + part, total, mask=is_row)


@triton.jit
def _products(
    queries,
    row,
    is_row,
    vectors,
    tile,
    num_items,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The logits of some rows and the items of a tile."""
    column = (tile * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    logits = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        at = start + tl.arange(0, DEPTH)
        query = tl.load(
            queries + row[:, None] * WIDTH + at[None, :],
            mask=is_row[:, None] & (at < WIDTH)[None, :],
            other=0.0,
        )
        vector = tl.load(
            vectors + column[None, :] * WIDTH + at[:, None],
            mask=(column < num_items)[None, :] & (at < WIDTH)[:, None],
            other=0.0,
        )
        # three products of halves of the digits: as exact as float32, on tensor cores
        logits = tl.dot(query, vector, logits, input_precision="tf32x3")
    return logits


@triton.jit
def _shown(logits, word, GROUP: tl.constexpr):
    """The logits by group; -inf where the bit of the item is set in the word of its group."""
    bit = (word[:, :, None] >> tl.arange(0, GROUP)[None, None, :]) & 1
    return tl.where(bit == 0, logits, float("-inf"))


@triton.jit
def _with_exponentials(peak, total, logits, highest):
    """The peak so far, and the sum of exponentials below it, with those of a tile."""
    higher = tl.maximum(peak, tl.max(highest, axis=1))
    # while all is hidden: -inf - -inf would be nan
    base = tl.where(higher == float("-inf"), 0.0, higher)
    sums = tl.sum(tl.sum(tl.exp(logits - base[:, None, None]), axis=2), axis=1)
    return higher, total * tl.exp(peak - base) + sums


def group_logits(
    queries_RW: Tensor, users_R: Tensor, vectors_CW: Tensor, hidden_UN: Tensor, groups_RG: Tensor
) -> Tensor:
    """The logits of all items of some groups of each row, [R, G * GROUP] float32; hidden: -inf."""
    num_rows, width = queries_RW.shape
    logits_RX = torch.empty(num_rows, groups_RG.shape[1] * GROUP, device=queries_RW.device)
    if logits_RX.numel():
        _group_logits[(num_rows, groups_RG.shape[1])](
            queries_RW.contiguous(),
            users_R.contiguous(),
            vectors_CW.contiguous(),
            hidden_UN.contiguous(),
            groups_RG.contiguous(),
            logits_RX,
            len(vectors_CW),
            hidden_UN.shape[1],
            **logits_constants(width),
            **LOGITS_LAUNCH,
        )
    return logits_RX


def logits_constants(width: int) -> dict[str, Any]:
    """What the second kernel is compiled for."""
    return {"WIDTH": width, "DEPTH": 32, "GROUP": GROUP}


@triton.jit
def _group_logits(
    queries,
    users,
    vectors,
    hidden,
    groups,
    logits,
    num_items,
    num_groups,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    place = row * tl.num_programs(1) + tl.program_id(1)
    group = tl.load(groups + place)
    bit = tl.arange(0, GROUP)
    column = group * GROUP + bit
    dots = tl.zeros((GROUP,), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        at = start + tl.arange(0, DEPTH)
        query = tl.load(queries + row * WIDTH + at, mask=at < WIDTH, other=0.0)
        vector = tl.load(
            vectors + column[:, None] * WIDTH + at[None, :],
            mask=(column < num_items)[:, None] & (at < WIDTH)[None, :],
            other=0.0,
        )
        dots += tl.sum(vector.to(tl.float32) * query.to(tl.float32)[None, :], axis=1)
    word = tl.load(hidden + tl.load(users + row) * num_groups + group)
    is_hidden = ((word >> bit) & 1) != 0
    tl.store(logits + place * GROUP + bit, tl.where(is_hidden, float("-inf"), dots))
