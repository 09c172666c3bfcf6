"""A table a part at a time."""

from pyro_corex.estimator.blocks import blocks


def test_blocks_cover_all_once_and_are_small():
    for count, each in ((1, 1), (1000, 1000), (7, 1 << 16), (3, 1 << 20), (5, 0)):
        found = list(blocks(count, each))
        assert [i for own in found for i in range(count)[own]] == list(range(count))
        assert all(
            own.stop - own.start == 1 or (own.stop - own.start) * each <= 1 << 17 for own in found
        )
    assert not list(blocks(0, 3))
