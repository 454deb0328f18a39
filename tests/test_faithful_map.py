"""Tradeoff maps that make themselves, by what plugins find in images."""

import sys
import types

import numpy as np
import pytest
from PIL import ExifTags, Image
from toy_fixtures import install_plugins

from distillkit import DistillkitError, FaithfulMap, MaskSpec, PluginError, hookimpl
from distillkit.inference import faithful_map
from distillkit.plugins.manager import Plugins

LEFT, WHITE = (20, 12), (24, 16)
"""The white rectangle in the photographs: its top left corner, and its width and height."""


def white(options):
    """Find what is white."""
    return lambda image: (image > 0.99).all(axis=2)


def likely_white(options):
    """Find what is white, and be half sure of it."""
    return lambda image: 0.5 * (image > 0.99).all(axis=2)


def slanted(options):
    return lambda image: image[:, :-1, 0]


def unfinished(options):
    return lambda image: np.full(image.shape[:2], np.nan)


def levels(options):
    return lambda image: 255 * image[..., 0]


def words(options):
    return lambda image: "a face"


def careless(options):
    return lambda image: 1 // 0


def unbuildable(options):
    raise OSError("no network")


FUNCTIONS = (white, likely_white, slanted, unfinished, levels, words, careless, unbuildable)


@pytest.fixture
def finder(monkeypatch):
    """A plugin with a mask for each of the functions, beside the toys."""

    @hookimpl
    def distillkit_masks():
        return [
            MaskSpec(name=build.__name__, summary="", build=f"finder_plugin:{build.__name__}")
            for build in FUNCTIONS
        ]

    module = types.ModuleType("finder_plugin")
    module.distillkit_masks = distillkit_masks
    for function in FUNCTIONS:
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return install_plugins(monkeypatch, toy="toy_plugin", finder=module.__name__)


def photo(*, is_empty=False):
    """Draw a gray photograph, of which a rectangle is white."""
    grain = np.random.default_rng(0).integers(60, 120, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(grain)
    if not is_empty:
        picture.paste("white", (*LEFT, LEFT[0] + WHITE[0], LEFT[1] + WHITE[1]))
    return picture


def pixels_of(name):
    return np.asarray(Image.open(name)).astype(int)


def inside(pixels):
    (left, top), (width, height) = LEFT, WHITE
    return pixels[top : top + height, left : left + width]


def test_a_map_is_faithful_where_something_is_found_and_falls_off_around_it(finder):
    tradeoffs = np.asarray(FaithfulMap(["white"], elsewhere=0.2)(photo()))
    assert tradeoffs.shape == (40, 60)
    assert (inside(tradeoffs) == 255).all()
    # The reach is one pixel at this size: one is faithful, one is between, the rest is 0.2.
    across = tradeoffs[LEFT[1] + 5, LEFT[0] - 4 : LEFT[0] + 1]
    assert across.tolist() == [51, 51, 51 + 68, 51 + 136, 255]


@pytest.mark.parametrize("elsewhere", [0.0, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", ["white", "likely_white"])
def test_a_map_tells_whether_anything_was_found(finder, name, elsewhere):
    faithful = FaithfulMap([name], elsewhere)
    assert faithful.found_something(faithful(photo()))
    assert not faithful.found_something(faithful(photo(is_empty=True)))


def test_the_map_is_that_of_the_image_as_a_viewer_shows_it(finder, tmp_path):
    upright = photo()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    faithful = FaithfulMap(["finder/white"])
    assert faithful(tmp_path / "turned.png").tobytes() == faithful(upright).tobytes()


def test_colors_that_nobody_sees_are_not_found(finder):
    picture = photo(is_empty=True).convert("RGBA")
    picture.paste((255, 255, 255, 0), (0, 0, 60, 20))
    assert FaithfulMap(["white"])(picture).getextrema() == (0, 0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_images_of_every_mode_have_a_map(finder, mode):
    picture = photo().convert("L") if mode == "I;16" else photo().convert(mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    assert (inside(np.asarray(FaithfulMap(["white"])(picture))) == 255).all()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("slanted", r"the mask has the shape \(40, 59\), expected \(40, 60\)"),
        ("unfinished", r"the mask lies in \[nan, nan\], expected \[0, 1\]"),
        ("levels", r"the mask lies in \[\d+, 255\], expected \[0, 1\]"),
        ("words", "the mask is a str, not an array of numbers"),
        ("careless", "ZeroDivisionError: "),
    ],
)
def test_what_is_no_mask_is_refused_and_the_plugin_named(finder, name, why):
    where = f'mask "finder/{name}" failed on an image of 60 x 40 pixels: '
    with pytest.raises(PluginError, match=where + why):
        FaithfulMap([name])(photo())


def test_a_mask_that_cannot_be_built_is_named(finder):
    with pytest.raises(PluginError, match='mask "finder/unbuildable" cannot be built: OSError: no'):
        FaithfulMap(["unbuildable"])


def test_an_unknown_name_lists_what_there_is(finder):
    with pytest.raises(PluginError, match=r'"xyz" among its masks; known: "finder/white", '):
        FaithfulMap(["xyz"])
    with pytest.raises(PluginError, match=r'"whits" among its masks; did you mean "white"\?'):
        FaithfulMap(["whits"])


def test_where_nothing_finds_anything_it_is_said_what_to_install(toys):
    with pytest.raises(
        PluginError, match=r"no installed plugin offers masks; install one .*\[masks"
    ):
        FaithfulMap(["text"])


def test_where_the_plugin_is_switched_off_that_is_said_instead(monkeypatch):
    monkeypatch.setattr(faithful_map, "load_plugins", lambda: Plugins([], ["masks"]))
    with pytest.raises(PluginError, match=r'masks; plugin "masks" is switched off, by [^;]*$'):
        FaithfulMap(["text"])


def test_nothing_to_keep_is_refused(finder):
    with pytest.raises(DistillkitError, match="most faithful already"):
        FaithfulMap(["white"], elsewhere=1)
    with pytest.raises(DistillkitError, match="name what is kept faithful"):
        FaithfulMap([])


@pytest.fixture
def finished(recipe, tmp_path, toys):
    from distillkit.recipe.load import load_recipe
    from distillkit.runs.run import run_recipe

    run_recipe(load_recipe(recipe), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def restore(distillkit, finished, finder, tmp_path, monkeypatch):
    """``restore(...)`` in a folder with ``a.png`` -> the outcome."""
    monkeypatch.chdir(tmp_path)
    photo().save("a.png")

    def call(*arguments):
        return distillkit("restore", *arguments, "--run", finished)

    return call


def test_the_saved_map_restores_the_same_picture(restore, tmp_path):
    options = ("--faithful", "white", "--tradeoff", "0.2")
    made = restore("a.png", "-o", "made.png", *options, "--save-map", "map.png")
    assert made.code == 0, made.err
    saved = np.asarray(Image.open("map.png"))
    assert saved.shape == (40, 60)
    assert (saved.min(), saved.max()) == (51, 255)
    again = restore("a.png", "-o", "again.png", "--tradeoff-map", "map.png")
    assert again.code == 0, again.err
    assert (tmp_path / "made.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert restore("a.png", "-o", "realistic.png", "--tradeoff", "0.2").code == 0
    by_map, realistic = (pixels_of(name) for name in ("made.png", "realistic.png"))
    # Between the tradeoffs that it restores at, the toy's map interpolates.
    assert np.abs(by_map - realistic)[:8].max() <= 1
    assert np.abs(by_map - realistic).max() > 5


def test_maps_of_a_folder_are_mirrored_and_made_again_with_missing_results(restore, tmp_path):
    (tmp_path / "in/below").mkdir(parents=True)
    photo().save("in/a.png")
    photo(is_empty=True).save("in/below/b.png")
    command = ("in", "-o", "out", "--save-map", "maps", "--faithful", "white")
    first = restore(*command)
    assert first.code == 0, first.err
    assert (
        "b.png - nothing to keep faithful is found; all of it is restored at tradeoff 0"
        in first.err
    )
    assert "a.png - nothing" not in first.err
    assert Image.open("maps/a.png").getextrema() == (0, 255)
    assert Image.open("maps/below/b.png").getextrema() == (0, 0)
    (tmp_path / "out/below/b.png").unlink()
    assert restore(*command).code == 2
    assert restore(*command, "--skip-existing").code == 0
    assert (tmp_path / "out/below/b.png").exists()
    (tmp_path / "out/a.png").unlink()
    (tmp_path / "out/below/b.png").unlink()
    kept = restore(*command)
    assert kept.code == 2
    assert "a.png and 1 more - exist" in kept.err
    assert restore(*command, "--overwrite").code == 0


def test_tiles_cut_the_map_as_they_cut_the_image(restore, tmp_path):
    assert restore("a.png", "-o", "whole.png", "--faithful", "white").code == 0
    assert restore("a.png", "-o", "tiles.png", "--faithful", "white", "--tile", "32").code == 0
    whole, tiles = (pixels_of(name) for name in ("whole.png", "tiles.png"))
    assert np.abs(whole - tiles).max() <= 1


REFUSED = (
    (["--save-map", "map.png"], "--save-map writes what --faithful finds; give --faithful"),
    (["--faithful", "white", "--tradeoff-map", "a.png"], "either --faithful or --tradeoff-map"),
    (["--faithful", "white", "--tradeoff", "0,1"], "--faithful takes one --tradeoff"),
    (["--faithful", " , "], "name what is kept faithful"),
    (["--faithful", "xyz"], 'no plugin offers "xyz" among its masks'),
    (["--faithful", "white", "--save-map", "out.png"], "out.png - the result would be written"),
    (["--faithful", "white", "--save-map", "a.png"], "a.png - is an input"),
    (["--faithful", "white", "--save-map", "map.gif"], "map.gif - cannot write .gif"),
)


def test_options_that_do_not_go_together_are_refused(restore, tmp_path):
    for options, why in REFUSED:
        refused = restore("a.png", "-o", "out.png", *options)
        assert refused.code == 2
        assert why in refused.err
        assert not (tmp_path / "out.png").exists()


def test_maps_of_an_earlier_call_are_no_images_to_restore(restore, tmp_path):
    (tmp_path / "in").mkdir()
    photo().save("in/a.png")
    command = ("in", "-o", "out", "--save-map", "in/maps", "--faithful", "white", "--overwrite")
    assert restore(*command).code == 0
    again = restore(*command)
    assert again.code == 2
    assert "in/maps/a.png - lies in in/maps, where the maps go" in again.err


def test_a_student_with_a_fixed_tradeoff_is_refused_before_an_image_is_read(
    distillkit, finder, tmp_path
):
    photo().save(tmp_path / "a.png")
    model = ("--model", "toy/faithful")
    command = ("restore", tmp_path / "a.png", "-o", tmp_path / "o.png", *model)
    refused = distillkit(*command, "--faithful", "white", "--save-map", tmp_path / "map.png")
    assert refused.code == 2
    assert "it cannot restore by a map" in refused.err
    assert not (tmp_path / "map.png").exists()
