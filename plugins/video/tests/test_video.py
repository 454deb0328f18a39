"""``distillkit restore-video``: frames, times, sound, colors, damaged and interrupted videos."""

import os
import signal
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from toy_models import ToyModel

from distillkit import Restorer
from distillkit.cli import main as cli
from distillkit.errors import DataError
from distillkit.inference.student import Student

pytest.importorskip("av", reason="PyAV is not installed: pip install 'distillkit[video]'")

import av

from distillkit_video.video import _to_upright_array, restore_video

MODEL = ("--model", "toy/faithful")


SAMPLE_RATE = 48000
SAMPLES_PER_FRAME = SAMPLE_RATE // 25


# The clips of the tests differ in each of these.
def make(  # noqa: PLR0913
    path,
    frames=12,
    size=(32, 24),
    sound="aac",
    times=None,
    options=None,
    matrix=None,
    picture=None,
    sound_first=False,
):
    """Write a clip of 25 frames a second, or with frames at given hundredths of a second."""
    with av.open(str(path), "w", options=options or {}) as clip:
        tone = clip.add_stream(sound, rate=SAMPLE_RATE) if sound_first else None
        video = add_pictures(clip, "libvpx-vp9" if path.suffix == ".webm" else "libx264", size)
        if sound and tone is None:
            tone = clip.add_stream(sound, rate=SAMPLE_RATE)
        if times:
            video.codec_context.time_base = Fraction(1, 100)
        if matrix:
            video.codec_context.colorspace = matrix
            video.codec_context.color_primaries = matrix
            video.codec_context.color_trc = matrix
        for i in range(frames):
            pixels = moving_ramp(size, i) if picture is None else picture
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format=video.pix_fmt, dst_colorspace=matrix)
            frame.pts = times[i] if times else i
            frame.time_base = Fraction(1, 100) if times else Fraction(1, 25)
            clip.mux(video.encode(frame))
            if tone:
                clip.mux(tone.encode(samples_of_frame(i, sound)))
        for stream in filter(None, (video, tone)):
            clip.mux(stream.encode(None))
    return path


def add_pictures(clip, codec, size):
    video = clip.add_stream(codec, rate=25, options={"crf": "4"})
    video.width, video.height = size
    video.pix_fmt = "yuv444p" if size[0] % 2 else "yuv420p"
    return video


def moving_ramp(size, i):
    y, x = np.mgrid[: size[1], : size[0]]
    return np.stack([x * 6, y * 8, 0 * x + i * 20], 2).astype(np.uint8)


def samples_of_frame(i, codec):
    """A tone as long as the i-th frame."""
    start = i * SAMPLES_PER_FRAME
    wave = np.sin(np.arange(start, start + SAMPLES_PER_FRAME) / 20).astype(np.float32)[None]
    if codec == "aac":
        samples = av.AudioFrame.from_ndarray(wave, "flt", "mono")
    else:
        samples = av.AudioFrame.from_ndarray((wave * 9999).astype(np.int16), "s16", "mono")
    samples.sample_rate = SAMPLE_RATE
    samples.pts = start
    return samples


def frames_of(path, matrix=5):
    with av.open(str(path)) as clip:
        return [
            (f.time, f.reformat(format="rgb24", src_colorspace=matrix).to_ndarray())
            for f in clip.decode(video=0)
        ]


def sound_of(path):
    with av.open(str(path)) as clip:
        return [bytes(p) for p in clip.demux(audio=0) if p.size]


class Doubling:
    """Stands in for a restorer: repeats pixels, and darkens them at tradeoffs other than 0."""

    def __init__(self, scale=2, act_at=None, act=None):
        self.scale = scale
        self.calls = 0
        self.act_at = act_at
        self.act = act

    def __call__(self, image, tradeoffs, *, seed):
        self.calls += 1
        if self.calls == self.act_at:
            self.act()
        large = image.repeat(self.scale, 0).repeat(self.scale, 1)
        return [large // 2 if t else large for t in tradeoffs]


@pytest.fixture
def restore(monkeypatch, capfd, toys, tmp_path):
    """``restore(...)`` -> exit code and standard error of ``distillkit restore-video``."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        command = ["distillkit", "restore-video", *map(str, arguments), *MODEL]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, capfd.readouterr().err

    return call


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_frames_times_and_sound(tmp_path, suffix):
    source = make(tmp_path / "a.mp4", sound=None if suffix == ".webm" else "aac")
    target = tmp_path / f"b{suffix}"
    restore_video(Doubling(), source, [target], [None])
    before, after = frames_of(source), frames_of(target)
    assert len(before) == len(after) == 12 and names(tmp_path) == ["a.mp4", target.name]
    # Matroska moves sound that starts before 0, and pictures with it.
    shift = after[0][0] - before[0][0]
    for (t, small), (u, large) in zip(before, after, strict=True):
        assert abs(u - shift - t) < 2e-3 and large.shape == (48, 64, 3)
        assert np.abs(large.astype(int) - small.repeat(2, 0).repeat(2, 1)).mean() < 6
    if suffix != ".webm":
        assert sound_of(source) == sound_of(target) != []


def test_a_clip_of_changing_rate_keeps_its_times(tmp_path):
    times = [0, 4, 8, 30, 31, 90]
    source = make(tmp_path / "a.mkv", 6, times=times, sound=None)
    restore_video(Doubling(), source, [tmp_path / "b.mkv"], [None])
    assert [round(t * 100) for t, _ in frames_of(tmp_path / "b.mkv")] == times


@pytest.mark.parametrize("sound_first", [False, True])
def test_several_tradeoffs_share_one_reading(tmp_path, sound_first):
    restorer = Doubling()
    targets = [tmp_path / "b0.mp4", tmp_path / "b1.mp4"]
    source = make(tmp_path / "a.mp4", sound_first=sound_first)
    restore_video(restorer, source, targets, [0.0, 1.0])
    light, dark = (np.mean([frame for _, frame in frames_of(t)]) for t in targets)
    assert restorer.calls == 12
    assert abs(light / 2 - dark) < 4
    assert sound_of(source) == sound_of(targets[0]) == sound_of(targets[1]) != []


def test_the_noise_of_a_model_that_draws_stands_still(tmp_path):
    class Noisy(ToyModel):
        def generate(self, condition, generator=None):
            noise = torch.randn(condition.y.shape, generator=generator)
            return super().generate(condition, generator) + 0.3 * noise

    results = []

    class Recording(Restorer):
        def __call__(self, *arguments, **options):
            results.append(super().__call__(*arguments, **options)[0])
            return results[-1:]

    student = Student(Noisy().requires_grad_(False), None)
    still = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    source = make(tmp_path / "a.mp4", 3, (16, 16), None, picture=still)
    for seed in (1, 2):
        restore_video(Recording(student), source, [tmp_path / f"{seed}.mp4"], [None], seed=seed)
    first, second = results[:3], results[3:]
    assert np.abs(np.diff(np.stack(first).astype(int), axis=0)).mean() < 2
    assert np.abs(first[0].astype(int) - second[0]).mean() > 10


@pytest.mark.parametrize(("matrix", "expected"), [(1, 1), (None, 5)])
def test_colors_are_kept_and_named_also_when_small_becomes_large(tmp_path, matrix, expected):
    flat = np.full((24, 32, 3), (220, 40, 60), np.uint8)
    source = make(tmp_path / "a.mp4", 2, matrix=matrix, picture=flat)
    restore_video(Doubling(40), source, [tmp_path / "b.mp4"], [None])
    with av.open(str(tmp_path / "b.mp4")) as clip:
        frame = next(clip.decode(video=0))
        assert frame.height == 960
        assert int(frame.colorspace) == expected
        assert int(frame.color_range) == 1
    _, restored = frames_of(tmp_path / "b.mp4", expected)[0]
    assert np.abs(restored.astype(int) - flat[0, 0]).max() <= 4


def test_odd_sides(tmp_path):
    restore_video(Doubling(1), make(tmp_path / "a.mp4", 2, (33, 21)), [tmp_path / "b.mp4"], [None])
    assert frames_of(tmp_path / "b.mp4")[0][1].shape == (21, 33, 3)


@pytest.mark.parametrize(
    ("rotation", "corner"), [(0, (0, 0)), (-90, (0, -1)), (90, (-1, 0)), (180, (-1, -1))]
)
def test_frames_are_turned_as_they_are_shown(rotation, corner):
    class Frame:
        colorspace, height = 1, 2

        def reformat(self, **_):
            return self

        def to_ndarray(self):
            pixels = np.zeros((2, 4, 3), np.uint8)
            pixels[0, 0] = 255
            return pixels

    frame = Frame()
    frame.rotation = rotation
    upright = _to_upright_array(frame)
    assert upright.shape == ((4, 2, 3) if rotation % 180 else (2, 4, 3))
    assert upright[corner].all()


def test_on_the_command_line(restore, tmp_path):
    make(tmp_path / "a.mp4")
    assert restore("a.mp4", "-o", "b.mp4")[0] == 0
    _, restored = frames_of(tmp_path / "b.mp4")[0]
    assert restored.shape == (48, 64, 3)
    before = (tmp_path / "b.mp4").read_bytes()
    code, message = restore("a.mp4", "-o", "b.mp4")
    assert code == 2 and "pass --overwrite" in message
    assert (tmp_path / "b.mp4").read_bytes() == before
    assert restore("a.mp4", "-o", "out")[0] == 0 and names(tmp_path / "out") == ["a.mp4"]


def test_a_folder_is_searched_for_videos(restore, tmp_path):
    (tmp_path / "in/below").mkdir(parents=True)
    make(tmp_path / "in/below/a.mkv", 2)
    (tmp_path / "in/photo.png").write_bytes(b"")
    assert restore("in", "-o", "out")[0] == 0
    assert names(tmp_path / "out") == ["below"] and names(tmp_path / "out/below") == ["a.mp4"]


def test_the_command_for_images_names_this_one(toys, tmp_path, monkeypatch, capfd):
    (tmp_path / "a.mp4").write_bytes(b"")
    for output in ("b.png", "b.mp4", "out"):
        command = ["distillkit", "restore", str(tmp_path / "a.mp4"), "-o", output, *MODEL]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        message = capfd.readouterr().err
        assert stopped.value.code == 2
        assert "a.mp4 - is a video; `distillkit restore-video` restores it" in message
        assert "pip install 'distillkit[video]'" in message
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("a.png", "-o", "b.mp4"), "a.png - is an image; `distillkit restore` restores it"),
        (("c.mp4", "-o", "b.mp4"), "no such"),
        (("a.txt", "-o", "a.txt"), "name an output folder, or a file that ends in .m4v, .mkv"),
    ],
)
def test_refused_before_any_work(restore, tmp_path, arguments, what):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(b"")
    code, message = restore(*arguments)
    assert code == 2 and what in message
    assert names(tmp_path) == ["a.mp4", "a.png", "a.txt"]


def test_without_pyav_the_command_says_what_to_install(restore, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "distillkit_video.video")
    code, message = restore("a.mp4", "-o", "b.mp4")
    assert code == 2 and "pip install 'distillkit[video]'" in message


@pytest.mark.parametrize("kind", ["end", "start", "matroska"])
@pytest.mark.parametrize("part", [0, 0.01, 0.3, 0.6, 0.8])
def test_truncated_files_are_named_and_leave_nothing(restore, tmp_path, kind, part):
    options = {"movflags": "faststart"} if kind == "start" else None
    whole = make(tmp_path / ("a.mkv" if kind == "matroska" else "a.mp4"), 60, options=options)
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * part)])
    code, message = restore(whole, "-o", "out/b.mp4")
    assert code == 2 and f"{whole} - " in message and "Traceback" not in message
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


def test_damage_in_the_middle_never_crashes(tmp_path):
    content = make(tmp_path / "a.mp4", 30).read_bytes()
    for i in range(12):
        damaged = bytearray(content)
        for place in np.random.default_rng(i).integers(0, len(content), 40):
            damaged[place] ^= 0xFF
        (tmp_path / "b.mp4").write_bytes(damaged)
        try:
            restore_video(Doubling(), tmp_path / "b.mp4", [tmp_path / "c.mp4"], [None])
            (tmp_path / "c.mp4").unlink()
        except DataError as e:
            assert str(tmp_path) in str(e)
        assert names(tmp_path) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("steady", [0.0, 0.5])
def test_a_video_whose_frames_change_in_size_is_named(tmp_path, steady):
    with av.open(str(tmp_path / "a.mkv"), "w", format="ivf") as clip:
        stream = add_pictures(clip, "libvpx", (32, 24))
        for i, size in enumerate([(32, 24)] * 5 + [(48, 32)] * 2):
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.width, encoder.height = size
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(moving_ramp(size, i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream = stream
                clip.mux(packet)
    message = r"a\.mkv - its frames change in size 0\.2 s from its start, from 32 x 24 to 48 x 32"
    with pytest.raises(DataError, match=message):
        restore_video(Doubling(), tmp_path / "a.mkv", [tmp_path / "b.mp4"], [0.0], steady=steady)
    assert names(tmp_path) == ["a.mkv"]


def test_what_holds_no_pictures_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as clip:
        tone = clip.add_stream("aac", rate=48000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.float32), "flt", "mono")
        samples.sample_rate = 48000
        clip.mux(tone.encode(samples))
        clip.mux(tone.encode(None))
    with pytest.raises(DataError, match=r"a\.mkv - has no video stream"):
        restore_video(Doubling(), tmp_path / "a.mkv", [tmp_path / "b.mkv"], [None])


def test_sound_that_the_target_cannot_hold_is_refused(tmp_path):
    source = make(tmp_path / "a.mkv", 2, sound="pcm_s16le")
    with pytest.raises(DataError, match=r"b\.webm - cannot hold sound in pcm_s16le"):
        restore_video(Doubling(), source, [tmp_path / "b.webm"], [None])
    restore_video(Doubling(), source, [tmp_path / "b.mkv"], [None])
    assert sound_of(source) == sound_of(tmp_path / "b.mkv")
    assert names(tmp_path) == ["a.mkv", "b.mkv"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_nothing_is_left(restore, tmp_path, monkeypatch, request, number):
    # A shell starts its background commands with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    make(tmp_path / "a.mp4")
    stand_in = Doubling(act_at=5, act=lambda: os.kill(os.getpid(), number))
    monkeypatch.setattr(Restorer, "__call__", lambda self, *a, **o: stand_in(*a, **o))
    code, _ = restore("a.mp4", "-o", "b.mp4")
    assert code == 130 and stand_in.calls == 5 and names(tmp_path) == ["a.mp4"]


def test_what_cannot_be_written_is_named(restore, tmp_path):
    make(tmp_path / "a.mp4")
    (tmp_path / "out").mkdir()
    (tmp_path / "file").write_text("in the way")
    code, message = restore("a.mp4", "-o", "file/b.mp4")
    assert code == 2 and "file - cannot be written: Not a directory" in message
