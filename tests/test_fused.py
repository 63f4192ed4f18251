"""The fused kernels against whole logits; without a GPU Triton's interpreter runs them."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_recommend import lists_of, lively_model, random_histories

from diffsasrec import top
from diffsasrec.catalogue import Candidates, Catalogue
from diffsasrec.diffusion import Extras
from diffsasrec.errors import ConfigError
from diffsasrec.recommend import Decoding
from diffsasrec.top import top_items

fused = pytest.importorskip("diffsasrec.fused", reason="Triton is not installed")
ROOT = Path(__file__).parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """The interpreter takes a second for a tile of the real size."""
    monkeypatch.setattr(fused, "ROWS", 16)
    monkeypatch.setattr(fused, "COLUMNS", 64)


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
    maxima, normaliser = fused.block_maxima(queries, users, vectors, hidden, normalise=True)
    logits = dense(queries, users, vectors, pairs)
    behind = -num_items % fused.BLOCK
    blocks = torch.nn.functional.pad(logits, (0, behind), value=-torch.inf)
    expected = blocks.view(19, -1, fused.BLOCK).amax(2)
    torch.testing.assert_close(maxima, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normaliser, logits.logsumexp(1), atol=1e-5, rtol=1e-5)
    _, highest = fused.block_maxima(queries, users, vectors, hidden, normalise=False)
    torch.testing.assert_close(highest, logits.amax(1), atol=1e-5, rtol=1e-5)


def test_where_everything_is_hidden_nothing_is_a_number_but_minus_infinity():
    everything = torch.full((1, 2), -1, dtype=torch.int32, device=DEVICE)
    users = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    maxima, normaliser = fused.block_maxima(
        drawn(1, 16), users, drawn(40, 16), everything, normalise=True
    )
    assert maxima.tolist() == [[-torch.inf] * 2] and normaliser.tolist() == [-torch.inf]


def test_the_logits_of_some_blocks_are_those_of_the_whole():
    queries, vectors = drawn(3, 20), drawn(70, 20, seed=1)
    users = torch.tensor([0, 0, 1], device=DEVICE)
    hidden = fused.hide(
        fused.nothing_hidden(2, 70, queries.device), *torch.tensor([[1, 69], [0, 3]]).T.to(DEVICE)
    )
    blocks = torch.tensor([[2, 0], [1, 2], [2, 1]], device=DEVICE)
    logits = dense(queries, users, vectors, [(1, 69), (0, 3)])
    logits = torch.nn.functional.pad(logits, (0, 26), value=-torch.inf).view(3, 3, 32)
    rows = torch.arange(3, device=DEVICE)[:, None]
    found = fused.block_logits(queries, users, vectors, hidden, blocks)
    torch.testing.assert_close(found, logits[rows, blocks].flatten(1), atol=1e-5, rtol=1e-5)


def test_hiding_sets_each_bit_once_whatever_is_hidden_already():
    nothing = fused.nothing_hidden(2, 40, torch.device("cpu"))
    once = fused.hide(nothing, torch.tensor([0, 1, 1]), torch.tensor([31, 32, 5]))
    twice = fused.hide(once, torch.tensor([1, 0, 1]), torch.tensor([5, 0, 5]))
    users, columns = torch.arange(2).repeat_interleave(64), torch.arange(64).repeat(2)
    is_hidden = fused.is_hidden(twice, users, columns).view(2, 64)
    expected = [[0, 31, *range(40, 64)], [5, 32, *range(40, 64)]]
    assert [row.nonzero()[:, 0].tolist() for row in is_hidden] == expected


def test_an_empty_catalogue_leaves_lists_empty():
    nothing = Catalogue(drawn(4, 16), torch.zeros(4, device=DEVICE).bool(), fused=True)
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    users = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    top = top_items(drawn(1, 16), users, Candidates(nothing, none, none), 2)
    assert top.items_RM.tolist() == [[-1, -1]]


class OwnScores:
    """Something for the items 0, 7 and 33 of each user."""

    def of_rows(self, queries_RW, users_R):
        rows, items = torch.cartesian_prod(torch.arange(len(users_R)), torch.tensor([0, 7, 33])).T
        scores = queries_RW[rows.to(DEVICE), 0] + items.to(DEVICE) / 10
        return Extras(rows.to(DEVICE), items.to(DEVICE), scores)


@pytest.mark.parametrize("own", [None, OwnScores()], ids=["none", "own scores"])
@pytest.mark.parametrize("m", [1, 10])
@pytest.mark.parametrize("spare", [0, 8])
def test_the_best_items_are_those_of_the_tiles(monkeypatch, spare, m, own):
    monkeypatch.setattr(top, "SPARE", spare)
    vectors, queries = drawn(900, 16, seed=1), drawn(20, 16)
    vectors[5::40] = vectors[5]  # equals, and more of them than blocks are looked at
    users = (torch.arange(20, device=DEVICE) // 4).long()
    allowed = torch.arange(900, device=DEVICE) % 9 > 0
    blocked = torch.tensor([[0, 7], [1, 33], [1, 34], [6, 34]], device=DEVICE).T
    besides = torch.tensor([[10, -1], [-1, -1], [7, 9], [-1, 5], [1, 2]], device=DEVICE)
    tops = [
        top_items(
            queries,
            users,
            Candidates(Catalogue(vectors, allowed, fused=is_fused), *blocked, own),
            m,
            besides_BK=besides,
            normalise=True,
        )
        for is_fused in (False, True)
    ]
    assert torch.equal(tops[1].items_RM, tops[0].items_RM)
    torch.testing.assert_close(tops[1].logits_RM, tops[0].logits_RM, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tops[1].normaliser_R, tops[0].normaliser_R, atol=1e-5, rtol=1e-5)


def test_a_list_longer_than_what_is_left_ends_where_nothing_is_left():
    users = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    blocked = torch.tensor([0, 0], device=DEVICE), torch.tensor([1, 2], device=DEVICE)
    small = Catalogue(
        torch.eye(4, 16, device=DEVICE), torch.ones(4, device=DEVICE).bool(), fused=True
    )
    top = top_items(torch.eye(1, 16, device=DEVICE), users, Candidates(small, *blocked), 6)
    assert top.items_RM.tolist() == [[0, 3, -1, -1, -1, -1]]


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("decode", ["single", "multi", "autoregressive"])
def test_lists_are_those_of_the_tiles(decode, filter_seen):
    histories = random_histories(5, longest=9)
    decoding = Decoding(5, decode, steps=3, filter_seen=filter_seen)
    model = lively_model("prefix").to(DEVICE)
    items, scores = lists_of(model, histories, decoding)
    fused_items, fused_scores = lists_of(model, histories, replace(decoding, fused=True))
    assert fused_items.tolist() == items.tolist()
    np.testing.assert_allclose(fused_scores, scores, atol=1e-4)


def test_where_triton_is_missing_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"score\.fused=true needs the package triton"):
        lists_of(lively_model("prefix"), [[1]], Decoding(5, fused=True))


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from diffsasrec import fused

floats, ints = {"maxima", "peaks", "totals", "logits"}, {"users": "*i64", "blocks": "*i64"}
constants = {"NORMALISE": True, "WIDTH": 104, "BLOCK": fused.BLOCK, "ROWS": fused.ROWS}
constants |= {"COLUMNS": fused.COLUMNS, "DEPTH": int(sys.argv[3])}
kernel = getattr(fused, sys.argv[1])


def kind(name):
    if name in constants:
        return "constexpr"
    if name in ("queries", "vectors"):
        return "*" + sys.argv[4]
    if name in floats:
        return "*fp32"
    return ints.get(name, "*i32" if name == "hidden" else "i32")


names = kernel.arg_names
source = ASTSource(
    kernel,
    {name: kind(name) for name in names},
    constexprs={(names.index(name),): constants[name] for name in names if name in constants},
)
made = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[2]), 32))
assert made.asm["cubin"] and made.metadata.shared < 48 * 1024, made.metadata.shared
"""


@pytest.mark.parametrize(
    ("kernel", "depth", "capability", "kind"),
    [
        ("_block_maxima", "16", "80", "fp32"),
        ("_block_maxima", "16", "90", "bf16"),
        ("_block_logits", "128", "80", "fp32"),
    ],
)
def test_the_compiler_makes_the_kernels_for_gpus(kernel, depth, capability, kind):
    arguments = [sys.executable, "-c", COMPILE, kernel, capability, depth, kind]
    environment = {name: os.environ[name] for name in os.environ if name != "TRITON_INTERPRET"}
    environment["PYTHONWARNINGS"] = "ignore"
    made = subprocess.run(arguments, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
