"""Two processes train what one trains with the same global batch, and a killed one ends the other with a clear line."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convbench.errors import InputError
from convbench.train.parallel import BatchNorm2d, Dropout, Group, replaced, shared

SMALL = [
    "classify",
    "--data",
    "digits",
    "--set",
    "width=4",
    "--impl",
    "torch.aten",
    "--model",
    "classifier",
    "--form",
    "separable",
    "--epochs",
    "2",
    "--batch",
    "128",
]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "convbench", "train"]


def trained(command, folder):
    done = subprocess.run([*command, *SMALL, "--out", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "train.json").read_text()), done


def test_two_processes_give_the_result_of_one(tmp_path):
    one, _ = trained([sys.executable, "-m", "convbench", "train"], tmp_path / "one")
    two, done = trained(TWO, tmp_path / "two")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert done.stdout.count("2 processes") == 1  # one process speaks
    for single, double in zip(one["histories"], two["histories"], strict=True):
        assert len(double["losses"]) == 22
        assert double["losses"] == pytest.approx(single["losses"], rel=1e-3)
        assert double["evaluations"][0]["confusion"] is not None
        total = [sum(map(sum, h["evaluations"][-1]["confusion"])) for h in (single, double)]
        assert total == [360, 360]  # each test image counted once
    assert all(row["scaling_efficiency"] > 0 for row in two["rows"])
    assert all(row["scaling_efficiency"] is None for row in one["rows"])
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two")]
    for single, double in zip(*(state["variants"] for state in states), strict=True):
        for name, value in single["model"].items():
            assert torch.allclose(value.double(), double["model"][name].double(), rtol=0.02, atol=2e-3), name


def test_a_killed_process_ends_the_other_with_a_line(tmp_path):
    command = [*TWO, *SMALL[:-4], "--epochs", "500", "--batch", "128", "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("epoch 1/"):
            break
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, rest = process.communicate()
    assert process.returncode != 0
    assert "--resume" in rest
    assert torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["done"] > 0


def test_a_batch_that_cannot_be_shared():
    assert shared(64, Group(0, 2)) == 32
    with pytest.raises(InputError, match="--batch 63: 2 processes share it"):
        shared(63, Group(0, 2))


def test_shards_hold_every_row_once():
    rows = torch.arange(12)
    parts = [Group(rank, 3).shard(rows) for rank in range(3)]
    assert sorted(torch.cat(parts).tolist()) == rows.tolist()


def test_dropout_gives_each_image_the_mask_it_has_alone():
    x = torch.rand(8, 5)
    torch.manual_seed(1)
    whole = F.dropout(x, 0.4)
    for rank in range(2):
        torch.manual_seed(1)
        group = Group(rank, 2)
        assert torch.equal(Dropout(0.4, group)(group.shard(x)), group.shard(whole))
    assert torch.equal(Dropout(0.4, Group(0, 2)).eval()(x), x)


@pytest.mark.parametrize("rank_of", [(0, 1), (1, 2)])
def test_dropout_gives_the_same_mask_in_every_memory_format(rank_of):
    x = torch.rand(4, 3, 5, 6)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        results.append(Dropout(0.4, Group(*rank_of))(x.contiguous(memory_format=memory_format)))
        assert results[-1].is_contiguous(memory_format=memory_format)
    assert torch.equal(*results) and 0 < (results[0] == 0).sum() < x.numel()


class Doubled(nn.Dropout):
    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_of_the_users_own_stay():
    model = Group().wrap(nn.Sequential(nn.Dropout(0.3), Doubled(), nn.Sequential(nn.Dropout())))
    assert [type(layer) for layer in model.modules() if not list(layer.children())] == [Dropout, Doubled, Dropout]
    assert model[0].p == 0.3


def test_batch_normalisation_alone_is_torchs(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        torchs = nn.Sequential(nn.BatchNorm2d(3)).double()
        nn.init.uniform_(torchs[0].weight)
        ours = replaced(nn.Sequential(nn.BatchNorm2d(3)).double(), nn.BatchNorm2d, BatchNorm2d.like)
        ours.load_state_dict(torchs.state_dict())
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
        other = x.detach().clone().requires_grad_()
        for _ in range(2):
            expected, found = torchs(x), ours(other)
            expected.square().sum().backward(), found.square().sum().backward()
        assert torch.allclose(found, expected) and torch.allclose(x.grad, other.grad)
        for name, value in torchs.state_dict().items():
            assert torch.allclose(value.double(), ours.state_dict()[name].double()), name
        assert torch.allclose(ours.eval()(x), torchs.eval()(x))
    finally:
        torch.distributed.destroy_process_group()
