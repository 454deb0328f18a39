"""Videos that hold still: keyframes of the tradeoff, steadied detail, measured flicker."""

import json
import sys
import types
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from toy_fixtures import install_plugins

from distillkit import FaithfulMap, MaskSpec, hookimpl
from distillkit.errors import DataError, DistillkitError

pytest.importorskip("av", reason="PyAV is not installed: pip install 'distillkit[video]'")

import av

from distillkit_video.flicker import measure_flicker
from distillkit_video.keyframes import Keyframes
from distillkit_video.plugin import choose
from distillkit_video.steady import TOLERANCE, Steadier
from distillkit_video.video import read_frames, restore_video

SHAPE = (24, 32, 3)


def record(path, frames):
    """Write a clip of 10 frames a second without loss."""
    with av.open(str(path), "w") as clip:
        video = clip.add_stream("ffv1", rate=10)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "bgr0"
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            clip.mux(video.encode(frame))
        clip.mux(video.encode(None))
    return path


def still(count):
    return [np.full(SHAPE, 100, np.uint8)] * count


def enlarged(image):
    return image.repeat(2, 0).repeat(2, 1)


class Listening:
    """Stands in for a restorer: notes the tradeoffs, and adds noise that they take away."""

    scale = 2

    def __init__(self):
        self.asked = []
        self.rng = np.random.default_rng(0)

    def __call__(self, image, tradeoffs, *, seed):
        self.asked.append(tradeoffs)
        noise = self.rng.integers(-40, 41, enlarged(image).shape)
        shares = [noise_share(tradeoff) for tradeoff in tradeoffs]
        return [(enlarged(image) + share * noise).astype(np.uint8) for share in shares]


def noise_share(tradeoff):
    if isinstance(tradeoff, Image.Image):
        return 1 - enlarged(np.asarray(tradeoff)[..., None]) / 255
    return 1 - (tradeoff or 0)


@pytest.fixture
def finder(monkeypatch):
    """A plugin that finds what is white, beside the toys."""

    @hookimpl
    def distillkit_masks():
        return [MaskSpec(name="white", summary="", build="finder_plugin:white")]

    module = types.ModuleType("finder_plugin")
    module.distillkit_masks = distillkit_masks
    module.white = lambda options: lambda image: (image > 0.99).all(axis=2)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return install_plugins(
        monkeypatch, toy="toy_plugin", video="distillkit_video.plugin", finder=module.__name__
    )


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("0:0.2,10s:0.8", (0, 10)),
        ("0.5s:0.2, 1m:0.8", (0.5, 60)),
        ("7:0.2,1m30.5s:0.8", (7, 90.5)),
    ],
)
def test_keyframes_are_read(text, times):
    assert Keyframes.parse(text) == Keyframes(times, (0.2, 0.8))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0:0.2,0.8", 'keyframe 2, "0.8": expected TIME:TRADEOFF'),
        ("0:0.2,ten:0.8", 'keyframe 2, "ten:0.8": expected TIME:TRADEOFF, as 10s:0.8'),
        ("0:0.2,:0.8", 'keyframe 2, ":0.8": expected TIME:TRADEOFF'),
        ("0:0.2,", 'keyframe 2, "": expected TIME:TRADEOFF'),
        ("-1s:0.2", 'keyframe 1, "-1s:0.2": expected TIME:TRADEOFF'),
        ("0:0.2,10s:1.8", 'keyframe 2, "10s:1.8": expected a tradeoff from 0 to 1'),
        ("0:nan", 'keyframe 1, "0:nan": expected a tradeoff from 0 to 1'),
        ("0:0.2,10s:", 'keyframe 2, "10s:": expected a tradeoff from 0 to 1'),
        ("0:0,9s:1,9s:0", 'keyframe 3, "9s:0": is not later than the keyframe before it'),
    ],
)
def test_a_wrong_keyframe_is_named(text, what):
    with pytest.raises(DistillkitError) as error:
        Keyframes.parse(text)
    assert str(error.value).startswith(f"--tradeoff {text} - {what}")


def test_the_tradeoff_follows_its_keyframes(tmp_path):
    restorer = Listening()
    source = record(tmp_path / "a.mkv", still(8))
    keyframes = Keyframes((0.1, 0.5), (0.2, 1.0))
    assert restore_video(restorer, source, [tmp_path / "b.mkv"], [keyframes]) == []
    asked = [tradeoff for (tradeoff,) in restorer.asked]
    assert asked == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_a_keyframe_behind_the_end_is_told(tmp_path):
    source = record(tmp_path / "a.mkv", still(8))
    keyframes = Keyframes((0, 0.8, 0.9), (0, 0, 0))
    notes = restore_video(Listening(), source, [tmp_path / "b.mkv"], [keyframes])
    assert notes == [f"{source} - ends at 0.80 s, before the keyframe at 0.9 s"]


def test_invented_detail_of_static_pixels_is_averaged():
    rng = np.random.default_rng(0)
    steadier = Steadier(0.8)
    source = np.full(SHAPE, 100, np.uint8)
    faithful = enlarged(source)
    raw = [faithful + rng.integers(-60, 61, faithful.shape) for _ in range(60)]
    steadied = [steadier.steady(source, [x.astype(np.uint8)], faithful)[0] for x in raw]

    def flicker(frames):
        return np.diff(np.stack(frames[30:]).astype(float), axis=0).std()

    # Of independent residuals: (1 - a) sqrt(1 + (1 - a) / (1 + a)) of sqrt(2).
    assert flicker(steadied) / flicker(raw) == pytest.approx(0.149, rel=0.05)


def test_what_moves_or_is_faithful_is_left_alone():
    rng = np.random.default_rng(0)
    steadier = Steadier(0.8)
    for level in (100, 140, 90):
        source = np.full(SHAPE, 100, np.uint8)
        source[:, 16:] = level
        faithful = rng.integers(0, 256, enlarged(source).shape).astype(np.uint8)
        result = rng.integers(0, 256, faithful.shape).astype(np.uint8)
        shown, of_faithful = steadier.steady(source, [result, faithful], faithful)
        assert np.array_equal(of_faithful, faithful)
        # The neighborhoods of columns 19 and on lie in the part that changes.
        assert np.array_equal(shown[:, 38:], result[:, 38:])
    assert np.abs(shown[:, :20].astype(int) - result[:, :20]).mean() > 5


def test_a_slow_drift_is_no_standstill():
    steadier = Steadier(0.95)
    for level in range(60):
        source = np.full(SHAPE, 100 + level, np.uint8)
        faithful = enlarged(source) - 80
        (shown,) = steadier.steady(source, [faithful + np.uint8(level)], faithful)
    lag = 59 - (shown - faithful.astype(int))
    # Were all of it static, the detail would be 0.95 / 0.05 = 19 frames behind.
    assert 0 < lag.max() <= 2 * TOLERANCE


def test_steadied_videos_flicker_less(tmp_path, distillkit, toys):
    source = record(tmp_path / "a.mkv", still(8))
    targets = [tmp_path / "plain.mp4", tmp_path / "steady.mp4"]
    restore_video(Listening(), source, targets[:1], [0.0])
    restorer = Listening()
    restore_video(restorer, source, targets[1:], [0.0], steady=0.8)
    assert restorer.asked == [[0.0, 1.0]] * 8
    outcome = distillkit("flicker", source, *targets, "--json")
    measured = json.loads(outcome.out)
    assert measured["static"] == 1
    before, plain, steady = measured["flicker"].values()
    assert before == 0 and steady < 0.6 * plain
    table = distillkit("flicker", source, *targets).out
    assert "100.0% of the pixels stand still" in table
    assert f"{plain:.2f}  {targets[0]}\n" in table


def test_a_map_is_steadied_by_a_faithful_result_of_its_own(tmp_path):
    source = record(tmp_path / "a.mkv", still(8))
    half = Image.fromarray(np.repeat([[0, 255]], [SHAPE[1] // 2] * 2, 1).astype(np.uint8))
    tradeoff_map = half.resize((SHAPE[1], SHAPE[0]), Image.Resampling.NEAREST)
    restorer = Listening()
    restore_video(restorer, source, [tmp_path / "plain.mkv"], [tradeoff_map])
    assert restorer.asked == [[tradeoff_map]] * 8
    restorer = Listening()
    restore_video(restorer, source, [tmp_path / "steady.mkv"], [tradeoff_map], steady=0.8)
    assert restorer.asked == [[tradeoff_map], [1.0]] * 8
    targets = [tmp_path / "plain.mkv", tmp_path / "steady.mkv"]
    _, plain, steady = measure_flicker(source, targets).levels.values()
    assert steady < 0.6 * plain
    (frame, *_) = read_frames(tmp_path / "steady.mkv")
    faithful, realistic = frame[:, SHAPE[1] :], frame[:, : SHAPE[1]]
    assert np.abs(faithful.astype(int) - 100).max() <= 4
    assert np.abs(realistic.astype(int) - 100).mean() > 10


def test_what_is_found_in_a_frame_is_faithful_there(tmp_path, finder):
    frames = [frame.copy() for frame in still(3)]
    frames[1][8:16, 8:20] = 255
    source = record(tmp_path / "a.mkv", frames)
    restorer = Listening()
    faithful = FaithfulMap(["white"], elsewhere=0.2)
    assert restore_video(restorer, source, [tmp_path / "b.mkv"], [faithful]) == []
    maps = [np.asarray(tradeoff_map) for (tradeoff_map,) in restorer.asked]
    assert [(m.min(), m.max()) for m in maps] == [(51, 51), (51, 255), (51, 51)]
    assert (maps[1][8:16, 8:20] == 255).all()


def test_a_video_with_nothing_to_find_is_told(tmp_path, finder):
    source = record(tmp_path / "a.mkv", still(3))
    notes = restore_video(Listening(), source, [tmp_path / "b.mkv"], [FaithfulMap(["white"])])
    assert notes == [
        f"{source} - nothing to keep faithful is found; all of it is restored at tradeoff 0"
    ]


def test_faithful_masks_go_with_one_tradeoff_and_with_steadiness(finder):
    choice = choose("0.2", faithful="white", steady=0.8)
    (make_map,) = choice.tradeoffs
    (example,) = choice.restorer_tradeoffs
    assert make_map.elsewhere == 0.2
    assert example.tolist() == [[0.2, 1.0]]
    assert choice.options == {"steady": 0.8}


def test_flicker_is_that_of_pixels_that_stand_still(tmp_path):
    rng = np.random.default_rng(0)
    frames, results = [], []
    for i in range(4):
        source = np.full(SHAPE, 100 + i % 2, np.uint8)
        source[:, 16:] = rng.integers(0, 256, SHAPE)[:, 16:]
        result = enlarged(source)
        result[:, :32] = 200 + 10 * (i % 2)
        frames.append(source)
        results.append(result)
    record(tmp_path / "a.mkv", frames)
    record(tmp_path / "b.mkv", results)
    measured = measure_flicker(tmp_path / "a.mkv", [tmp_path / "b.mkv"])
    # Columns 0 to 12, whose neighborhoods hold nothing that moves.
    assert measured.static == 13 / 32
    assert list(measured.levels.values()) == [1, 10]


def test_where_all_moves_there_is_no_flicker_to_measure(tmp_path, distillkit, toys):
    rng = np.random.default_rng(0)
    clip = record(tmp_path / "a.mkv", list(rng.integers(0, 256, (3, *SHAPE)).astype(np.uint8)))
    assert json.loads(distillkit("flicker", clip, clip, "--json").out)["static"] == 0
    assert f"-  {clip}" in distillkit("flicker", clip, clip).out


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (still(3), "b.mkv - has fewer frames than another one of the videos"),
        (still(5), "a.mkv - has fewer frames than another one of the videos"),
        ([np.zeros((24, 48, 3), np.uint8)] * 4, "b.mkv - its 48 x 24 pixels are no multiple"),
        ([np.zeros((12, 16, 3), np.uint8)] * 4, "b.mkv - its 16 x 12 pixels are no multiple"),
    ],
)
def test_videos_that_do_not_fit_are_refused(tmp_path, result, what):
    record(tmp_path / "a.mkv", still(4))
    record(tmp_path / "b.mkv", result)
    with pytest.raises(DataError, match=what):
        measure_flicker(tmp_path / "a.mkv", [tmp_path / "b.mkv"])


def test_one_frame_has_no_flicker(tmp_path):
    clip = record(tmp_path / "a.mkv", still(1))
    with pytest.raises(DataError, match=r"a\.mkv - has one frame"):
        measure_flicker(clip, [clip])


@pytest.mark.parametrize(
    ("options", "code", "what"),
    [
        (("--tradeoff", "0:0,0.5s:0"), 0, ""),
        (("--tradeoff", "0:0,0.5s:0.4"), 2, "this model has a fixed tradeoff, 0"),
        (("--tradeoff", "0:0,0.5s:2"), 2, 'keyframe 2, "0.5s:2"'),
        (("--steady", "0.8"), 2, "this model has a fixed tradeoff, 0"),
        (("--steady", "1"), 2, "0.99"),
        (("--tradeoff", "0:0", "--tradeoff-map", "m.png"), 2, "give either"),
        (("--faithful", "white"), 2, "this model has a fixed tradeoff, 0: it cannot restore by a"),
        (("--faithful", "white", "--steady", "0.8"), 2, "it cannot restore by a map"),
        (("--faithful", "white", "--tradeoff", "0:0,1s:1"), 2, "one --tradeoff, and no keyframes"),
        (("--faithful", "white", "--tradeoff", "0,1"), 2, "--faithful takes one --tradeoff"),
        (("--faithful", "white", "--tradeoff-map", "m.png"), 2, "give either --faithful or"),
        (("--faithful", "xyz"), 2, 'no plugin offers "xyz" among its masks'),
    ],
)
def test_on_the_command_line(tmp_path, distillkit, finder, options, code, what):
    source = record(tmp_path / "a.mkv", still(6))
    target = tmp_path / "b.mkv"
    model = ("--model", "toy/faithful")
    outcome = distillkit("restore-video", source, "-o", target, *model, *options)
    assert (outcome.code, target.exists()) == (code, code == 0)
    assert what in outcome.err
