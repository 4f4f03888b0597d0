"""Pictures of maps: what is hot is coloured, what is cold stays the image."""

import numpy as np
import pytest
from PIL import Image

from coatnet.explanation.attention import AttentionParts
from coatnet.explanation.explain import HeatMap
from coatnet.explanation.overlay import (
    GAP,
    QUERY,
    TILE,
    attention_tiles,
    bias_tiles,
    enlarged,
    heat_layer,
    overlay,
    strengths,
    write_png,
)


def heat_map(values):
    return HeatMap("grad_cam", "S2", np.asarray(values, np.float32))


def test_a_layer_is_transparent_where_the_map_is_cold():
    layer = heat_layer(heat_map([[0, 0], [0, 4]]), (64, 48))
    assert layer.shape == (64, 48, 4)
    assert layer.dtype == np.uint8
    assert layer[0, 0, 3] == 0
    assert layer[-1, -1, 3] == 255
    assert layer[-1, -1, :3].min() > 100  # the bright end of the scale


def test_what_speaks_against_is_blue_and_what_speaks_for_red():
    layer = heat_layer(heat_map([[-1, 0], [0, 1]]), (32, 32)).astype(int)
    assert layer[0, 0, 2] > layer[0, 0, 0] + 50
    assert layer[-1, -1, 0] > layer[-1, -1, 2] + 50
    assert layer[0, 0, 3] == layer[-1, -1, 3] == 255


def test_an_overlay_keeps_the_cold_part_of_the_image_in_grey():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    found = overlay(image, heat_map(np.pad(np.ones((4, 4)), ((0, 0), (0, 12)))))
    assert found.shape == image.shape
    grey = image[:, 300:].mean(-1)
    np.testing.assert_allclose(found[:, 300:], np.repeat(grey[..., None], 3, -1), atol=0.51)
    assert (found[:, :50].max(-1).astype(int) - found[:, :50].min(-1)).min() > 20


def test_one_outlier_does_not_leave_the_rest_pale():
    values = np.ones((100, 100), np.float32)
    values[0, 0] = 1000
    assert strengths(values).min() == 1
    assert strengths(np.zeros((3, 3), np.float32)).max() == 0
    single = np.zeros((100, 100), np.float32)
    single[3, 4] = 7  # beyond the percentile, yet all there is
    assert strengths(single)[3, 4] == 1


def test_small_images_are_enlarged_by_whole_pixels():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    large = enlarged(image)
    assert large.shape == (256, 384, 3)
    np.testing.assert_array_equal(large[::8, ::8], image)
    assert enlarged(large) is not None
    assert enlarged(large).shape == large.shape


def test_tiles_show_three_rows_a_column_for_each_head_and_the_query(tmp_path):
    static = np.zeros((2, 4, 4), np.float32)
    static[0, 0, 0], static[1, 3, 3] = 1, -1
    whole = np.full((2, 4, 4), 1 / 16, np.float32)
    tiles = attention_tiles(AttentionParts((1, 2), static, -static, whole))
    side = TILE + GAP
    assert tiles.shape == (3 * side - GAP, 2 * side - GAP, 4)
    cell = TILE // 4
    for row in range(3):
        for head in range(2):
            place = tiles[row * side + cell + cell // 2, head * side + 2 * cell + cell // 2]
            assert tuple(place) == (*QUERY, 255)
    red, blue = tiles[2, 2].astype(int), tiles[side + 2, 2].astype(int)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert tiles[TILE + 1, 5, 3] == 0  # seen through, on any ground
    write_png(tmp_path / "new" / "tiles.png", tiles)
    with Image.open(tmp_path / "new" / "tiles.png") as read:
        np.testing.assert_array_equal(np.asarray(read), tiles)


@pytest.mark.parametrize("size", [7, 27])
def test_bias_maps_stand_side_by_side_with_the_query_in_the_middle(size):
    tiles = bias_tiles(np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32))
    side = (tiles.shape[1] + GAP) // 3 - GAP
    assert tiles.shape[0] == side >= 0.7 * TILE
    marked = np.argwhere((tiles == (*QUERY, 255)).all(-1))
    np.testing.assert_allclose(marked[:, 0].mean(), side / 2, atol=1)
    np.testing.assert_allclose(np.sort(marked[:, 1])[len(marked) // 2], side + GAP + side / 2, atol=side / 6 + 1)
