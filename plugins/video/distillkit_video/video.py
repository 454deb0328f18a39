"""Restore videos frame by frame; their sound is copied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distillkit import (
    DataError,
    DistillkitError,
    FaithfulMap,
    Restorer,
    atomic_file,
    progress_bar,
)
from distillkit_video.formats import CODEC_OPTIONS, FORMATS
from distillkit_video.keyframes import FAITHFUL, Keyframes
from distillkit_video.steady import Steadier

try:
    import av
except ImportError as e:
    raise DistillkitError(
        "videos need PyAV, which is not installed: pip install 'distillkit[video]'"
    ) from e

BT709 = 1
BT601 = 5
_COMPUTED_MATRICES = {1: BT709, 5: BT601, 6: BT601, 7: 7, 9: 9}
"""The YUV matrices of H.273 that swscale computes; 6 has the numbers of 5."""
_LIMITED_RANGE = 1
_ALPHA_FORMAT = re.compile(r"yuva|rgba|bgra|argb|abgr|gbrap|ya\d")
"""Matches the beginning of FFmpeg's names of pixel formats with opacity."""
_TIME_SLACK = 1e-3
"""Seconds. Matroska rounds times to this precision."""
_TOLERATED_LOSS = 0.2
"""Seconds, beside two frames, by which a file may be shorter than its header states."""


def restore_video(
    restorer: Restorer,
    source: Path,
    targets: Sequence[Path],
    tradeoffs: Sequence[Any],
    *,
    seed: int = 0,
    steady: float = 0.0,
) -> list[str]:
    """Restore a video once for each tradeoff.

    Frames are 8 bits and upright; times and sound are the source's. Every frame has the same
    draws, so that their pattern stands still. Colors keep the source's matrix, primaries and
    transfer. Subtitles and data are left out. Memory does not grow with the length, and a target
    appears only when it is complete.

    Args:
        restorer: What to restore with.
        source: The video.
        targets: One for each tradeoff, with a suffix of :data:`FORMATS`; folders are made.
        tradeoffs: As a restorer takes them: 0 is most realistic, 1 most faithful, None the
            student's own; :class:`~distillkit_video.keyframes.Keyframes`; or, alone, a map for all
            frames or a :class:`~distillkit.FaithfulMap`, which makes one of each.
        seed: Seed of a student that draws noise.
        steady: Share of the invented detail that static pixels keep from the frame before
            (:class:`~distillkit_video.steady.Steadier`).

    Returns:
        Lines for the user: what the results lack of the video, keyframes after its end, a
        FaithfulMap that found nothing.

    Raises:
        DataError: The source is no video, damaged, or shorter than its header says; its sound does
            not fit into a target's format; or a target cannot be written.
        DistillkitError: What the restorer raises.
    """
    first_frame = _read_first_frame(source)
    with ExitStack() as stack:
        clip = stack.enter_context(_open_clip(source))
        writers = []
        for target in targets:
            partial = stack.enter_context(atomic_file(target))
            writers.append(
                stack.enter_context(
                    _open_writer(partial, target, clip, first_frame, restorer.scale)
                )
            )
        bar = stack.enter_context(
            progress_bar(total=_count_frames(clip), unit="frame", desc=source.name, leave=False)
        )
        frame_restorer = _FrameRestorer(restorer, tradeoffs, seed, steady)
        clock = _Clock(clip)
        for item in _read_frames_and_sound(clip, source):
            if isinstance(item, av.VideoFrame):
                results = frame_restorer.restore(_to_upright_array(item), clock.advance(item))
                for writer, result in zip(writers, results, strict=True):
                    writer.write_frame(result, item.pts)
                bar.update()
            else:
                # Copying a packet gives it the stream, and with it the index, of the target.
                index = item.stream.index
                for writer in writers:
                    writer.copy_sound(item, index)
        for writer in writers:
            writer.finish()
        notes = [*_find_lost(clip), *_find_unused(tradeoffs, clock.end), *frame_restorer.notes()]
        return [f"{source} - {note}" for note in notes]


def read_frames(source: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video (height, width, 3), uint8, upright.

    Raises:
        DataError: As :func:`restore_video` of the source.
    """
    with _open_clip(source) as clip:
        for item in _read_frames_and_sound(clip, source):
            if isinstance(item, av.VideoFrame):
                yield _to_upright_array(item)


class _FrameRestorer:
    """Restores the frames of one video, in their order, once for each tradeoff."""

    def __init__(
        self, restorer: Restorer, tradeoffs: Sequence[Any], seed: int, steady: float
    ) -> None:
        self._restorer = restorer
        self._tradeoffs = tradeoffs
        self._seed = seed
        self._steadier = Steadier(steady) if steady else None
        self._found_something = False

    def restore(self, frame: np.ndarray, seconds: float) -> list[np.ndarray]:
        """Restore a frame (h, w, 3), uint8, at its time."""
        tradeoffs = [self._tradeoff_of(t, frame, seconds) for t in self._tradeoffs]
        if self._steadier is None:
            return self._restore(frame, tradeoffs)
        if isinstance(tradeoffs[0], Image.Image):
            # A map stands in no list of tradeoffs, so the faithful result is one more call.
            results = self._restore(frame, tradeoffs)
            (faithful,) = self._restore(frame, [FAITHFUL])
        else:
            *results, faithful = self._restore(frame, [*tradeoffs, FAITHFUL])
        return self._steadier.steady(frame, results, faithful)

    def notes(self) -> list[str]:
        """Return a note for each FaithfulMap that found nothing in any frame."""
        if self._found_something:
            return []
        return [t.nothing_found_note for t in self._tradeoffs if isinstance(t, FaithfulMap)]

    def _tradeoff_of(self, tradeoff: Any, frame: np.ndarray, seconds: float) -> Any:
        if isinstance(tradeoff, Keyframes):
            return tradeoff.at(seconds)
        if isinstance(tradeoff, FaithfulMap):
            tradeoff_map = tradeoff(frame)
            self._found_something |= tradeoff.found_something(tradeoff_map)
            return tradeoff_map
        return tradeoff

    def _restore(self, frame: np.ndarray, tradeoffs: list[Any]) -> list[np.ndarray]:
        return list(self._restorer(frame, tradeoffs, seed=self._seed))


class _Clock:
    """Computes the times of a video's frames, in seconds from the first one."""

    def __init__(self, clip: Any) -> None:
        self._step = float(1 / (clip.streams.video[0].average_rate or 25))
        self._start: float | None = None
        self.end = 0.0
        """The end of the latest frame."""

    def advance(self, frame: av.VideoFrame) -> float:
        """Take the next frame and return its time; without one, it follows the frame before."""
        if self._start is None:
            self._start = frame.time or 0.0
        seconds = self.end if frame.time is None else frame.time - self._start
        self.end = seconds + self._step
        return seconds


def _find_unused(tradeoffs: Sequence[Any], end: float) -> list[str]:
    """Name the keyframes that a video is too short for."""
    times = [time for t in tradeoffs if isinstance(t, Keyframes) for time in t.times]
    late = [time for time in times if time > end + _TIME_SLACK]
    return [f"ends at {end:.2f} s, before the keyframe at {time:g} s" for time in late]


def _find_lost(clip: Any) -> list[str]:
    """List what the results lack of a video: opacity, further streams, subtitles."""
    lost = []
    video = clip.streams.video[0]
    # VP8 and VP9 keep opacity in a stream of their own, which only a tag tells of.
    is_tagged = any(name.lower() == "alpha_mode" for name in video.metadata)
    if is_tagged or _ALPHA_FORMAT.match(video.pix_fmt or ""):
        lost.append("its opacity is dropped")
    if len(clip.streams.video) > 1:
        lost.append(f"{len(clip.streams.video)} streams of pictures; the first is restored")
    if clip.streams.subtitles:
        lost.append("its subtitles are left out")
    return lost


def _read_first_frame(source: Path) -> av.VideoFrame:
    """Read a frame to learn size, rotation and colors from, before anything is written."""
    with _open_clip(source) as clip, _errors_of(source, "cannot be read as a video"):
        for frame in clip.decode(video=0):
            return frame
    raise DataError(f"{source} - no frame of its video stream can be decoded")


@contextmanager
def _open_clip(source: Path) -> Iterator[Any]:
    with _errors_of(source, "cannot be read as a video"):
        clip = av.open(str(source))
    with clip:
        if not clip.streams.video:
            raise DataError(f"{source} - has no video stream")
        clip.streams.video[0].thread_type = "AUTO"
        yield clip


def _read_frames_and_sound(clip: Any, source: Path) -> Iterator[Any]:
    """Yield decoded frames, and packets of sound as they are, in the order of the file.

    Raises:
        DataError: The file is damaged, ends before its header says, or its frames change in size.
    """
    end = 0.0
    size: tuple[int, int] | None = None
    for packet, frames, end in _read_packets(clip, source):
        for frame in frames:
            size = size or _upright_size(frame)
            if _upright_size(frame) != size:
                # Few files lack the time of a frame; its packet's is near.
                seconds = end if frame.time is None else frame.time - _start(clip)
                raise _size_error(source, size, _upright_size(frame), seconds)
            yield frame
        # The last packet of a stream only flushes its decoder: it has no time.
        if packet.stream.type == "audio" and packet.dts is not None:
            yield packet
    _refuse_shortened(clip, source, end)


def _read_packets(clip: Any, source: Path) -> Iterator[tuple[Any, Sequence[av.VideoFrame], float]]:
    """Yield each packet, the frames that it completes, and the seconds that were read with it.

    Raises:
        DataError: The file is damaged.
    """
    video = clip.streams.video[0]
    start = _start(clip)
    end = 0.0
    packets = clip.demux()
    while True:
        with _errors_of(source, f"damaged {end:.1f} s from its start"):
            packet = next(packets, None)
            if packet is None:
                return
            if packet.is_corrupt:
                raise DataError(f"{source} - damaged {end:.1f} s from its start")
            if packet.pts is not None:
                packet_end = packet.pts + (packet.duration or 0)
                end = max(end, float(packet_end * packet.time_base) - start)
            # Not packet.stream_index, which is 0 for the last packet of every stream.
            frames = packet.decode() if packet.stream.index == video.index else []
        yield packet, frames, end


def _start(clip: Any) -> float:
    """Return the time of a video's start, in seconds."""
    return float((clip.start_time or 0) / 1e6)


def _size_error(
    source: Path, before: tuple[int, int], after: tuple[int, int], seconds: float
) -> DataError:
    return DataError(
        f"{source} - its frames change in size {seconds:.1f} s from its start, from "
        "{} x {} to {} x {}; cut it there".format(*before, *after)
    )


def _refuse_shortened(clip: Any, source: Path, end: float) -> None:
    if not clip.duration:
        return
    stated = clip.duration / 1e6
    two_frames = 2 / (clip.streams.video[0].average_rate or 25)
    if end < stated - _TOLERATED_LOSS - two_frames:
        raise DataError(
            f"{source} - ends after {end:.1f} of the {stated:.1f} s that its header states"
        )


@contextmanager
def _open_writer(
    partial: Path, target: Path, clip: Any, first_frame: av.VideoFrame, scale: int
) -> Iterator[_VideoWriter]:
    """Begin a video in the file ``partial``, which errors call ``target``."""
    container_format = FORMATS[target.suffix.lower()].container
    with _errors_of(target, "cannot be written"):
        partial.parent.mkdir(parents=True, exist_ok=True)
        container = av.open(str(partial), "w", format=container_format)
    try:
        _refuse_unsupported_sound(target, container, clip)
        with _errors_of(target, "cannot be written"):
            writer = _VideoWriter(target, container, clip, first_frame, scale)
        yield writer
    finally:
        # After an error, closing would raise another one that only follows from it.
        with suppress(Exception):
            container.close()


def _refuse_unsupported_sound(target: Path, container: Any, clip: Any) -> None:
    codecs = {stream.codec.canonical_name for stream in clip.streams.audio}
    unsupported = codecs - container.supported_codecs
    if unsupported:
        raise DataError(
            f"{target} - cannot hold sound in {', '.join(unsupported)}, "
            "which is copied as it is; name a .mkv file"
        )


class _VideoWriter:
    """One restored video."""

    def __init__(
        self, target: Path, container: Any, clip: Any, first_frame: av.VideoFrame, scale: int
    ) -> None:
        source = clip.streams.video[0]
        rate = source.average_rate or source.guessed_rate or Fraction(25)
        self.target = target
        self.container = container
        self.matrix = _find_matrix(first_frame)
        self.stream = self._add_stream(rate, first_frame, scale)
        self._describe(source, first_frame)
        self.time_step = max(1, round(1 / (rate * source.time_base)))
        self.last_time: int | None = None
        self.sound = {
            stream.index: container.add_stream_from_template(stream)
            for stream in clip.streams.audio
        }

    def write_frame(self, image: np.ndarray, time: int | None) -> None:
        """Encode a restored frame (height, width, 3), uint8, at a time of the source."""
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(
            format=self.stream.pix_fmt, dst_colorspace=self.matrix, dst_color_range=_LIMITED_RANGE
        )
        frame.pts = self._next_time() if time is None else time
        frame.time_base = self.stream.codec_context.time_base
        self.last_time = frame.pts
        self._encode(frame)

    def copy_sound(self, packet: Any, index: int) -> None:
        """Write a packet of the source's stream ``index``."""
        packet.stream = self.sound[index]
        with _errors_of(self.target, "cannot be written"):
            self.container.mux(packet)

    def finish(self) -> None:
        """Write what the encoder still holds, and the end of the file."""
        self._encode(None)
        with _errors_of(self.target, "cannot be written"):
            self.container.close()

    def _encode(self, frame: av.VideoFrame | None) -> None:
        with _errors_of(self.target, "cannot be written"):
            self.container.mux(self.stream.encode(frame))

    def _add_stream(self, rate: Fraction, first_frame: av.VideoFrame, scale: int) -> Any:
        codec = FORMATS[self.target.suffix.lower()].codec
        stream = self.container.add_stream(codec, rate=rate, options=CODEC_OPTIONS[codec])
        width, height = _upright_size(first_frame)
        stream.height = height * scale
        stream.width = width * scale
        stream.pix_fmt = "yuv420p"
        if stream.height % 2 or stream.width % 2:
            # Halved color planes need even sides.
            stream.pix_fmt = "yuv444p"
        return stream

    def _describe(self, source: Any, first_frame: av.VideoFrame) -> None:
        """Take over times, the shape of pixels, and the description of colors."""
        encoder = self.stream.codec_context
        encoder.time_base = source.time_base
        pixel_shape = source.sample_aspect_ratio or Fraction(1)
        if _quarter_turns(first_frame) % 2:
            pixel_shape = 1 / pixel_shape
        encoder.sample_aspect_ratio = pixel_shape
        encoder.colorspace = self.matrix
        encoder.color_range = _LIMITED_RANGE
        encoder.color_primaries = int(first_frame.color_primaries)
        encoder.color_trc = int(first_frame.color_trc)

    def _next_time(self) -> int:
        if self.last_time is None:
            return 0
        return self.last_time + self.time_step


def _to_upright_array(frame: av.VideoFrame) -> np.ndarray:
    """Decode to (height, width, 3), uint8, rotated as the file says that it is shown."""
    rgb = frame.reformat(format="rgb24", src_colorspace=_find_matrix(frame)).to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, _quarter_turns(frame)))


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Return the width and height of a frame as it is shown."""
    if _quarter_turns(frame) % 2:
        return frame.height, frame.width
    return frame.width, frame.height


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Count the quarter turns to the left after which a frame is upright."""
    return round(frame.rotation / 90)


def _find_matrix(frame: av.VideoFrame) -> int:
    """Find the matrix of a frame's YUV, by its number in H.273.

    Where the file does not say it, it is what players assume for that height.
    """
    assumed = BT709 if frame.height >= 720 else BT601
    return _COMPUTED_MATRICES.get(int(frame.colorspace), assumed)


def _count_frames(clip: Any) -> int | None:
    video = clip.streams.video[0]
    if video.frames:
        return video.frames
    if clip.duration and video.average_rate:
        return round(clip.duration / 1e6 * video.average_rate)
    return None


@contextmanager
def _errors_of(path: Path, failure: str) -> Iterator[None]:
    """Raise DataError in the place of PyAV's errors, naming the file."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise DataError(f"{path} - {failure}: {reason}") from e
