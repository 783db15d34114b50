"""The places for associations, which several processes share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import Refuse
from node.seats import Seats

ROOT = Path(__file__).parents[2]
TAKER = """
import sys
from pathlib import Path
from node.seats import Seats

seats = Seats(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
for address in sys.argv[4:]:
    seats.take(address)
print("taken", flush=True)
sys.stdin.read()
"""


def taker(path: Path, count: int, per_address: int, *addresses: str) -> subprocess.Popen[str]:
    """Another process, which takes these places and keeps them."""
    arguments = [str(path), str(count), str(per_address), *addresses]
    process = subprocess.Popen(
        [sys.executable, "-c", TAKER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def test_the_kernel_gives_back_what_a_dead_process_had(tmp_path: Path) -> None:
    path = tmp_path / "data" / "seats"
    other = taker(path, 3, 3, "10.0.0.1", "10.0.0.1")
    seats = Seats(path, 3, 3)
    seats.take("10.0.0.2")
    with pytest.raises(Refuse, match=r"too many associations$"):
        seats.take("10.0.0.2")
    other.kill()
    other.wait()
    seats.take("10.0.0.2")


def test_an_address_is_counted_over_all_processes(tmp_path: Path) -> None:
    path = tmp_path / "seats"
    other = taker(path, 5, 2, "10.0.0.1")
    seats = Seats(path, 5, 2)
    mine = seats.take("10.0.0.1")
    with pytest.raises(Refuse, match="of this peer"):
        seats.take("10.0.0.1")
    seats.take("10.0.0.11")
    seats.give_back(mine)
    seats.take("10.0.0.1")
    other.kill()
    other.wait()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=30),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_takers_get_places_as_if_they_were_counted(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, bool]],
    count: int,
    per_address: int,
) -> None:
    """Against a list of who sits: takers (True) and leavers."""
    seats = Seats(tmp_path_factory.mktemp("seats") / "seats", count, per_address)
    sitting: dict[int, str] = {}
    for address, is_taker in steps:
        if not is_taker:
            for seat in [seat for seat, name in sitting.items() if name == address][:1]:
                seats.give_back(seat)
                del sitting[seat]
        elif len(sitting) < count and list(sitting.values()).count(address) < per_address:
            seat = seats.take(address)
            assert seat not in sitting
            sitting[seat] = address
        else:
            with pytest.raises(Refuse):
                seats.take(address)
