"""Logits that never leave a GPU's chip: the maxima of blocks of items and the logsumexp, in Triton.

Written to memory as a whole, the logits of a large catalogue cost several times as much as the
products that make them. Two kernels leave that out: one goes once over the catalogue and keeps a
number per block of items, the other makes the logits of the few blocks that can hold the best.

Legend: R rows (states to score), W width of vectors, C items, N blocks of items, U users, G chosen
blocks of a row, Y pairs (row, item).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 32  # items of a block: one bit each of a word that hides items
ROWS, COLUMNS, DEPTH = 64, 64, 16  # of a program's tile: what fits the registers of sm_86 and sm_90
PROGRAMS = 1024  # a GPU's processors have several each to hide waiting


def nothing_hidden(num_users: int, num_items: int, device: torch.device) -> Tensor:
    """A word per user and block in which only the bits behind the last item are set, [U, N]."""
    num_blocks = -(-num_items // BLOCK)
    words_UN = torch.zeros((num_users, num_blocks), dtype=torch.int32, device=device)
    if num_items % BLOCK:
        words_UN[:, -1] = -1 << num_items % BLOCK
    return words_UN


def hide(hidden_UN: Tensor, users_Y: Tensor, columns_Y: Tensor) -> Tensor:
    """Sets the bits of some pairs (user, item), in any order, doubles allowed: [U, N]."""
    keys_Y = (users_Y * (hidden_UN.shape[1] * BLOCK) + columns_Y).unique()
    words = hidden_UN.flatten().clone()
    new_Y = keys_Y[(words[keys_Y // BLOCK] & _bits(keys_Y)) == 0]
    words.index_add_(0, new_Y // BLOCK, _bits(new_Y))  # bits that are not set yet: add is or
    return words.view_as(hidden_UN)


def is_hidden(hidden_UN: Tensor, users_Y: Tensor, columns_Y: Tensor) -> Tensor:
    """Whether the item of each pair is hidden, [Y]."""
    return (hidden_UN[users_Y, columns_Y // BLOCK] & _bits(columns_Y)) != 0


def _bits(columns_X: Tensor) -> Tensor:
    return torch.ones_like(columns_X, dtype=torch.int32) << (columns_X % BLOCK).int()


def block_maxima(
    queries_RW: Tensor,
    users_R: Tensor,
    vectors_CW: Tensor,
    hidden_UN: Tensor,
    *,
    normalise: bool,
) -> tuple[Tensor, Tensor]:
    """The highest logit of each block, [R, N], and the logsumexp over all, [R]; float32.

    Hidden items count in neither; where a whole block or catalogue is hidden, it is -inf. Without
    `normalise` the second is the highest logit: a sum takes an exponential for each.
    """
    num_rows, width = queries_RW.shape
    num_blocks = hidden_UN.shape[1]
    num_tiles = triton.cdiv(num_blocks * BLOCK, COLUMNS)
    row_tiles = triton.cdiv(num_rows, ROWS)
    parts = max(1, min(num_tiles, PROGRAMS // max(row_tiles, 1)))
    maxima_RN = torch.empty(num_rows, num_blocks, device=queries_RW.device)
    peak_RP, total_RP = torch.ones(2, num_rows, parts, device=queries_RW.device)
    if num_rows:
        _block_maxima[(row_tiles, parts)](
            queries_RW.contiguous(),
            users_R,
            vectors_CW.contiguous(),
            hidden_UN,
            maxima_RN,
            peak_RP,
            total_RP,
            num_rows,
            len(vectors_CW),
            num_blocks,
            triton.cdiv(num_tiles, parts),
            NORMALISE=normalise,
            WIDTH=width,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            DEPTH=DEPTH,
            BLOCK=BLOCK,
            num_warps=8,
            num_stages=3,
        )
    if normalise:
        return maxima_RN, (peak_RP + total_RP.log()).logsumexp(1)
    return maxima_RN, peak_RP.amax(1)


@triton.jit
def _block_maxima(
    queries,
    users,
    vectors,
    hidden,
    maxima,
    peaks,
    totals,
    num_rows,
    num_items,
    num_blocks,
    tiles,  # of columns, for each program
    NORMALISE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    is_row = row < num_rows
    user = tl.load(users + row, mask=is_row, other=0)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    part = tl.program_id(1)
    for tile in range(part * tiles, (part + 1) * tiles):
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
        block = tile * (COLUMNS // BLOCK) + tl.arange(0, COLUMNS // BLOCK)
        is_block = is_row[:, None] & (block < num_blocks)[None, :]
        word = tl.load(
            hidden + user[:, None] * num_blocks + block[None, :], mask=is_block, other=-1
        )
        bit = (word[:, :, None] >> tl.arange(0, BLOCK)[None, None, :]) & 1
        logits = tl.reshape(logits, (ROWS, COLUMNS // BLOCK, BLOCK))
        logits = tl.where(bit == 0, logits, float("-inf"))
        highest = tl.max(logits, axis=2)
        tl.store(maxima + row[:, None] * num_blocks + block[None, :], highest, mask=is_block)
        higher = tl.maximum(peak, tl.max(highest, axis=1))
        if NORMALISE:
            # while all is hidden: -inf less -inf would be no number
            base = tl.where(higher == float("-inf"), 0.0, higher)
            sums = tl.sum(tl.sum(tl.exp(logits - base[:, None, None]), axis=2), axis=1)
            total = total * tl.exp(peak - base) + sums
        peak = higher
    place = row * tl.num_programs(1) + part
    tl.store(peaks + place, peak, mask=is_row)
    tl.store(totals + place, total, mask=is_row)


def block_logits(
    queries_RW: Tensor, users_R: Tensor, vectors_CW: Tensor, hidden_UN: Tensor, blocks_RG: Tensor
) -> Tensor:
    """The logits of all items of some blocks of each row, [R, G * BLOCK] float32; hidden: -inf."""
    num_rows, width = queries_RW.shape
    num_blocks = hidden_UN.shape[1]
    logits_RX = torch.empty(num_rows, blocks_RG.shape[1] * BLOCK, device=queries_RW.device)
    if logits_RX.numel():
        _block_logits[(num_rows, blocks_RG.shape[1])](
            queries_RW.contiguous(),
            users_R,
            vectors_CW.contiguous(),
            hidden_UN,
            blocks_RG.contiguous(),
            logits_RX,
            len(vectors_CW),
            num_blocks,
            WIDTH=width,
            DEPTH=triton.next_power_of_2(width),
            BLOCK=BLOCK,
            num_warps=1,
        )
    return logits_RX


@triton.jit
def _block_logits(
    queries,
    users,
    vectors,
    hidden,
    blocks,
    logits,
    num_items,
    num_blocks,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    place = row * tl.num_programs(1) + tl.program_id(1)
    block = tl.load(blocks + place)
    bit = tl.arange(0, BLOCK)
    column = block * BLOCK + bit
    at = tl.arange(0, DEPTH)
    query = tl.load(queries + row * WIDTH + at, mask=at < WIDTH, other=0.0).to(tl.float32)
    vector = tl.load(
        vectors + column[:, None] * WIDTH + at[None, :],
        mask=(column < num_items)[:, None] & (at < WIDTH)[None, :],
        other=0.0,
    ).to(tl.float32)
    word = tl.load(hidden + tl.load(users + row) * num_blocks + block)
    dots = tl.sum(vector * query[None, :], axis=1)
    is_hidden = ((word >> bit) & 1) != 0
    tl.store(logits + place * BLOCK + bit, tl.where(is_hidden, float("-inf"), dots))
