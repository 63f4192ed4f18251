"""The fused kernels against whole logits; without a GPU Triton's interpreter runs them."""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from histories import lists_of, lively_model, random_histories

pytest.importorskip("triton")

from sources import ROOT

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode import recommender as recommend
from diffsasrec.errors import ConfigError
from diffsasrec.model.heads.pairs import Extras
from diffsasrec.retrieve import fused_top_k, tiles
from diffsasrec.retrieve import top_k_triton as fused
from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.retrieve.top_k import top_items

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """The interpreter takes a second for a tile of the real size; programs have several anyway."""
    monkeypatch.setattr(fused, "TILES", 2)  # a size: small catalogues have several parts
    if DEVICE == "cpu":
        monkeypatch.setattr(fused, "ROWS", 16)  # a size, for the interpreter


@pytest.fixture
def tiled_rows(monkeypatch) -> list[int]:
    """How many rows each call made by tiles."""
    made, by_tiles = [], tiles.top_of_rows

    def spy(queries_TW, *arguments):
        made.append(len(queries_TW))
        return by_tiles(queries_TW, *arguments)

    monkeypatch.setattr(tiles, "top_of_rows", spy)  # counts, and does the real thing
    return made


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def dense(queries_RW, users_R, vectors_CW, hidden):
    logits_RC = queries_RW @ vectors_CW.T
    for user, column in hidden:
        logits_RC[users_R == user, column] = -torch.inf
    return logits_RC


@pytest.mark.parametrize("width", [16, 24, 70])
@pytest.mark.parametrize("num_items", [1, 32, 100, 300])
def test_maxima_and_sums_are_those_of_the_whole_logits(num_items, width):
    queries, vectors = drawn(19, width), drawn(num_items, width, seed=1)
    users = (torch.arange(19, device=DEVICE) // 5).long()
    pairs = [(0, 0), (1, num_items - 1), (1, num_items - 1), (3, num_items // 2)]
    nothing = fused.nothing_hidden(4, num_items, queries.device)
    hidden = fused.hide(nothing, *torch.tensor(pairs, device=DEVICE).T)
    maxima, normaliser = fused.group_maxima(queries, users, vectors, hidden, normalise=True)
    logits = dense(queries, users, vectors, pairs)
    behind = -num_items % fused.GROUP
    groups = torch.nn.functional.pad(logits, (0, behind), value=-torch.inf)
    expected = groups.view(19, -1, fused.GROUP).amax(2)
    torch.testing.assert_close(maxima, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normaliser, logits.logsumexp(1), atol=1e-5, rtol=1e-5)


def test_the_sum_of_a_row_does_not_depend_on_the_others():
    queries, vectors = drawn(40, 16), drawn(700, 16, seed=1)
    users = torch.zeros(40, dtype=torch.int64, device=DEVICE)
    hidden = fused.nothing_hidden(1, 700, queries.device)
    _, together = fused.group_maxima(queries, users, vectors, hidden, normalise=True)
    _, alone = fused.group_maxima(queries[:1], users[:1], vectors, hidden, normalise=True)
    assert together[0] == alone[0]


def test_where_everything_is_hidden_nothing_is_a_number_but_minus_infinity():
    everything = torch.full((1, 2), -1, dtype=torch.int32, device=DEVICE)
    users = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    maxima, normaliser = fused.group_maxima(
        drawn(1, 16), users, drawn(40, 16), everything, normalise=True
    )
    assert maxima.tolist() == [[-torch.inf] * 2] and normaliser.tolist() == [-torch.inf]


def test_the_logits_of_some_groups_are_those_of_the_whole():
    queries, vectors = drawn(3, 70), drawn(70, 70, seed=1)
    users = torch.tensor([0, 9, 0, 9, 1, 9], device=DEVICE)[::2]  # not side by side in memory
    hidden = fused.hide(
        fused.nothing_hidden(2, 70, queries.device), *torch.tensor([[1, 69], [0, 3]]).T.to(DEVICE)
    )
    groups = torch.tensor([[2, 0], [1, 2], [2, 1]], device=DEVICE)
    logits = dense(queries, users, vectors, [(1, 69), (0, 3)])
    logits = torch.nn.functional.pad(logits, (0, 26), value=-torch.inf).view(3, 3, 32)
    rows = torch.arange(3, device=DEVICE)[:, None]
    found = fused.group_logits(queries, users, vectors, hidden, groups)
    torch.testing.assert_close(found, logits[rows, groups].flatten(1), atol=1e-5, rtol=1e-5)


def test_hiding_sets_each_bit_once_whatever_is_hidden_already():
    nothing = fused.nothing_hidden(2, 40, torch.device("cpu"))
    once = fused.hide(nothing, torch.tensor([0, 1, 1]), torch.tensor([31, 32, 5]))
    twice = fused.hide(once, torch.tensor([1, 0, 1]), torch.tensor([5, 0, 5]))
    users, columns = torch.arange(2).repeat_interleave(64), torch.arange(64).repeat(2)
    is_hidden = fused.is_hidden(twice, users, columns).view(2, 64)
    expected = [[0, 31, *range(40, 64)], [5, 32, *range(40, 64)]]
    assert [row.nonzero()[:, 0].tolist() for row in is_hidden] == expected


class OwnScores:
    """Something for the items 0, 7, 33 and 35 of each user; the last can't be had by even users."""

    def of_rows(self, queries_RW, users_R):
        own = torch.tensor([0, 7, 33, 35])
        rows, items = torch.cartesian_prod(torch.arange(len(users_R)), own).T.to(DEVICE)
        scores = queries_RW[rows, 0] + items / 10
        out_of_reach = (items == 35) & (users_R[rows] % 2 == 0)
        return Extras(rows, items, scores.masked_fill(out_of_reach, -torch.inf))


NUM_ITEMS = 900
ALLOWED = torch.arange(NUM_ITEMS, device=DEVICE) % 9 > 0
BLOCKED = torch.tensor([[0, 7], [1, 33], [1, 34], [1, 33], [6, 34]], device=DEVICE).T
BESIDES = torch.tensor([[10, -1], [-1, -1], [7, 9], [-1, 5], [1, 2], [3, 4]], device=DEVICE)
USERS = torch.arange(20, device=DEVICE).flip(0) // 5 + 1  # not from 0, and not ascending


def both_ways(vectors, queries, m, *, own=None, cap=None, blocked=BLOCKED):
    """The best by tiles, and by the kernels."""
    return [
        top_items(
            queries,
            USERS,
            Candidates(
                Catalogue(vectors, ALLOWED, cap=cap, fused=is_fused), blocked[0], blocked[1], own
            ),
            m,
            besides_BK=BESIDES,
            normalise=True,
        )
        for is_fused in (False, True)
    ]


def assert_same(tiled, by_kernels):
    assert torch.equal(by_kernels.items_RM, tiled.items_RM)
    for one, other in zip(by_kernels[::2], tiled[::2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("own", [None, OwnScores()], ids=["none", "own scores"])
@pytest.mark.parametrize("m", [1, 10])
def test_the_kernels_find_what_the_tiles_find_and_need_none(tiled_rows, m, own):
    tops = both_ways(drawn(NUM_ITEMS, 16, seed=1), drawn(20, 16), m, own=own)
    assert_same(*tops)
    assert tiled_rows == [20]  # those of the first way


@pytest.mark.parametrize("most", [1.0, 50.0])
@pytest.mark.parametrize("m", [1, 10])
def test_the_kernels_add_boosts_as_the_tiles_do(tiled_rows, m, most):
    vectors, queries = drawn(NUM_ITEMS, 17, seed=1), drawn(20, 17)
    vectors[:, -1] = most * (torch.arange(NUM_ITEMS, device=DEVICE) % 40 == 1)
    queries[:, -1] = 1.0
    tiled, by_kernels = both_ways(vectors, queries, m, own=OwnScores())
    assert torch.equal(by_kernels.items_RM, tiled.items_RM)
    torch.testing.assert_close(by_kernels.logits_RM, tiled.logits_RM, atol=1e-4, rtol=0)


@pytest.mark.parametrize("m", [1, 10])
def test_of_equal_items_in_many_groups_the_first_are_found_by_tiles(tiled_rows, m):
    tops = both_ways(torch.ones(NUM_ITEMS, 16, device=DEVICE), drawn(20, 16), m)
    assert_same(*tops)
    assert tiled_rows == [20, 20]


def test_items_that_rounding_could_hide_are_looked_for_by_tiles(tiled_rows):
    vectors, queries = 1000 * drawn(NUM_ITEMS, 16, seed=1), drawn(20, 16)
    # ten items of as many groups that differ by less than products of such size are exact
    vectors[1::64] = vectors[1] * (1 + 1e-6 * torch.arange(15, device=DEVICE)[:, None])
    queries[:] = vectors[1] / 100
    assert_same(*both_ways(vectors, queries, 2))
    assert tiled_rows == [20, 20]


def test_the_numbers_that_are_kept_at_once_are_bounded(monkeypatch):
    monkeypatch.setattr(fused_top_k, "NUMBERS_AT_ONCE", 16_000)  # three rows
    monkeypatch.setattr(fused_top_k, "PAIRS_AT_ONCE", 48)  # three pairs
    assert_same(*both_ways(drawn(NUM_ITEMS, 16, seed=1), drawn(20, 16), 10, own=OwnScores()))


def test_who_has_nothing_blocked_is_not_taken_for_who_has():
    one_user = BLOCKED[:, 1:4]
    own = OwnScores()
    assert_same(
        *both_ways(drawn(NUM_ITEMS, 16, seed=1), drawn(20, 16), 10, own=own, blocked=one_user)
    )


def test_of_equal_items_the_first_comes_first_whatever_else_is_in_its_group(tiled_rows):
    vectors = drawn(NUM_ITEMS, 16, seed=1).clamp(max=1)
    vectors[170] = 3
    vectors[[172, 70]] = 2
    tiled, by_kernels = both_ways(vectors, torch.ones(20, 16, device=DEVICE), 3)
    assert_same(tiled, by_kernels)
    assert by_kernels.items_RM[0].tolist() == [170, 70, 172]
    assert tiled_rows == [20]


@pytest.mark.parametrize("most", [1, 3])
def test_a_cap_on_categories_holds_for_both(most):
    cap = CategoryCap(most, torch.arange(NUM_ITEMS, device=DEVICE) % 4)
    assert_same(*both_ways(drawn(NUM_ITEMS, 16, seed=1), drawn(20, 16), 6, cap=cap))


@pytest.mark.parametrize("own", [None, OwnScores()], ids=["none", "own scores"])
def test_lists_end_where_nothing_is_left(tiled_rows, own):
    users = torch.arange(1, 6, device=DEVICE).repeat_interleave(NUM_ITEMS - 10)
    items = torch.arange(NUM_ITEMS - 10, device=DEVICE).repeat(5)
    blocked = torch.stack([users, items])[:, items != 33]  # nine are left, and one own
    tiled, by_kernels = both_ways(
        drawn(NUM_ITEMS, 16, seed=1), drawn(20, 16), 12, own=own, blocked=blocked
    )
    assert_same(tiled, by_kernels)
    assert (by_kernels.items_RM[:, -1] == -1).all()
    assert tiled_rows == [20]


def test_a_list_longer_than_the_catalogue_ends_where_nothing_is_left():
    users = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    blocked = torch.tensor([0, 0], device=DEVICE), torch.tensor([1, 2], device=DEVICE)
    small = Catalogue(
        torch.eye(4, 16, device=DEVICE), torch.ones(4, device=DEVICE).bool(), fused=True
    )
    best = top_items(torch.eye(1, 16, device=DEVICE), users, Candidates(small, *blocked), 6)
    assert best.items_RM.tolist() == [[0, 3, -1, -1, -1, -1]]


def test_an_empty_catalogue_leaves_lists_empty():
    nothing = Catalogue(drawn(4, 16), torch.zeros(4, device=DEVICE).bool(), fused=True)
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    users = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    best = top_items(drawn(1, 16), users, Candidates(nothing, none, none), 2)
    assert best.items_RM.tolist() == [[-1, -1]]


def test_a_normaliser_that_nobody_asks_for_is_not_made():
    everything = Catalogue(drawn(40, 16), torch.ones(40, device=DEVICE).bool(), fused=True)
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    users = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    own: Any = OwnScores()
    best = top_items(drawn(1, 16), users, Candidates(everything, none, none, own), 2)
    assert len(best.normaliser_R) == 0


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("decode", ["single", "multi", "autoregressive"])
def test_lists_are_those_of_the_tiles(monkeypatch, tiled_rows, decode, filter_seen):
    monkeypatch.setattr(recommend, "HAVE_KERNELS", ("cpu", "cuda"))  # by the interpreter
    histories = random_histories(5, longest=9)
    decoding = DecodingConfig(k=5, decode=decode, steps=3, filter_seen=filter_seen)
    model = lively_model("prefix").to(DEVICE)
    items, scores = lists_of(model, histories, decoding)
    num_tiled = len(tiled_rows)
    fused = decoding.model_copy(update={"fused": True})
    fused_items, fused_scores = lists_of(model, histories, fused)
    assert fused_items.tolist() == items.tolist()
    np.testing.assert_allclose(fused_scores, scores, atol=1e-4)
    assert len(tiled_rows) == num_tiled > 0


def test_where_there_is_no_gpu_the_same_lists_are_made_by_tiles(tiled_rows):
    lists_of(lively_model("prefix"), [[1]], DecodingConfig(k=5, fused=True))
    assert tiled_rows == [1]


def test_where_triton_is_missing_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(recommend, "HAVE_KERNELS", ("cpu",))  # by the interpreter
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # it is installed here
    with pytest.raises(ConfigError, match=r"score\.fused=true needs the package triton"):
        lists_of(lively_model("prefix"), [[1]], DecodingConfig(k=5, fused=True))


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from diffsasrec.retrieve import top_k_triton as fused

WIDTH = 104  # of the item vectors of a model of width 64
POINTERS = {"users": "*i64", "groups": "*i64", "hidden": "*i32"}
POINTERS |= {name: "*fp32" for name in ("maxima", "peaks", "totals", "logits")}
KERNELS = (
    (fused._group_maxima, fused.maxima_constants(WIDTH, normalise=True), fused.MAXIMA_LAUNCH),
    (fused._group_maxima, fused.maxima_constants(WIDTH, normalise=False), fused.MAXIMA_LAUNCH),
    (fused._group_logits, fused.logits_constants(WIDTH), fused.LOGITS_LAUNCH),
)
for target in sys.argv[1:]:
    capability, kind = target.split("-")
    pointers = {**POINTERS, "queries": f"*{kind}", "vectors": f"*{kind}"}
    for kernel, constants, launch in KERNELS:
        names = kernel.arg_names
        kinds = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
        values = {(names.index(name),): value for name, value in constants.items()}
        source = ASTSource(kernel, kinds, constexprs=values)
        gpu = GPUTarget("cuda", int(capability), 32)
        made = triton.compile(source, target=gpu, options=launch)
        print(target, len(made.asm["cubin"]) > 0 and made.metadata.shared < 48 * 1024)
"""


def test_the_compiler_makes_the_kernels_for_gpus():
    environment = {name: os.environ[name] for name in os.environ if name != "TRITON_INTERPRET"}
    environment["PYTHONWARNINGS"] = "ignore"
    targets = ["80-fp32", "90-fp32", "90-bf16"]  # capability of the GPU, kind of the numbers
    arguments = [sys.executable, "-c", COMPILE, *targets]
    made = subprocess.run(arguments, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == [word for target in targets for word in (target, "True") * 3]
