import jax
import pytest

from phoenix_server.search.kernels.constraints import check_fit
from phoenix_server.search.sharded import ShardedLayout


@pytest.mark.parametrize("sizes", [{"block_rows": 64}, {"block_rows": 24}, {"tile_rows": 96}])
def test_sizes_that_the_kernels_cannot_take_are_refused(sizes: dict[str, int]) -> None:
    fitting = {"width": 16, "tile_rows": 192, "block_rows": 8}
    check_fit(**fitting)
    with pytest.raises(ValueError, match=r"kernels take 8|multiple of 64"):
        check_fit(**(fitting | sizes))


def test_a_layout_that_the_kernels_cannot_search_is_refused() -> None:
    with pytest.raises(ValueError, match="tile_rows: 96 is not a multiple of 64"):
        ShardedLayout(devices=(jax.devices()[0],), rows=5, width=16, tile_rows=96, scan="kernel")


def test_a_width_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="width: the kernels take 16, "):
        ShardedLayout(devices=(jax.devices()[0],), rows=5, width=13, scan="kernel")
