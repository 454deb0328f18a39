"""Restoring videos frame by frame, through PyAV; its sound is copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.errors import DataError
from distillkit.files.atomic import atomic_file
from distillkit.inference.files import VIDEOS, Tradeoffs

if TYPE_CHECKING:
    import av

    from distillkit.inference.restorer import Restorer

_OPTIONS = {
    "libx264": {"crf": "16"},
    "libvpx-vp9": {"crf": "20", "b:v": "0", "cpu-used": "4", "row-mt": "1"},
}
_MATRICES = {
    1: 1,
    5: 5,
    6: 5,
    7: 7,
    9: 9,
}  # of H.273, those that swscale computes; 6 has the numbers of 5
_LOST = 0.2
"""Seconds, beside two frames, that a file may lack of the length its header states."""


def restore_video(
    restorer: Restorer,
    source: Path,
    targets: Sequence[Path],
    tradeoffs: Tradeoffs,
    *,
    seed: int = 0,
) -> None:
    """One video a tradeoff: the frames restored in 8 bits and upright, times as in the source, sound as it is.

    Every frame has the same draws, so that their pattern stands still. Colors keep the source's matrix, primaries and transfer.
    Subtitles and data are left out. Memory does not grow with length; a target appears when it is complete.

    Raises:
        DataError: not a video, damaged or shorter than its header says; sound that a target's format cannot hold; a target that
            cannot be written. DistillkitError: what the restorer raises.
    """
    from tqdm import tqdm

    with ExitStack() as stack:
        first = _first_frame(source)
        clip = stack.enter_context(_opened(source))
        partials = [stack.enter_context(atomic_file(target)) for target in targets]
        writers = [
            stack.enter_context(_Writer.open(partial, target, clip, first, restorer.scale))
            for partial, target in zip(partials, targets, strict=True)
        ]
        bar = stack.enter_context(
            tqdm(
                total=_frame_count(clip), unit="frame", desc=source.name, leave=False, disable=None
            )
        )
        for piece in _pieces(clip, source):
            if not hasattr(piece, "to_ndarray"):
                for writer in writers:
                    writer.copy(piece)
                continue
            results = restorer(_upright(piece), list(tradeoffs), seed=seed)
            for writer, result in zip(writers, results, strict=True):
                writer.write(result, piece.pts)
            bar.update()
        for writer in writers:
            writer.finish()


def _first_frame(source: Path) -> av.VideoFrame:
    """A frame to learn size, turn and colors from, before anything is written."""
    with _opened(source) as clip, _named(source, "cannot be read as a video"):
        for frame in clip.decode(video=0):
            return frame
    raise DataError(f"{source} - holds no picture that can be decoded")


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    import av

    with _named(source, "cannot be read as a video"):
        clip = av.open(str(source))
    with clip:
        if not clip.streams.video:
            raise DataError(f"{source} - holds no pictures")
        clip.streams.video[0].thread_type = "AUTO"
        yield clip


def _pieces(clip: Any, source: Path) -> Iterator[Any]:
    """Decoded frames and packets of sound, as they come in the file."""
    video, end, start = clip.streams.video[0], 0.0, (clip.start_time or 0) / 1e6
    packets = clip.demux()
    while True:
        with _named(source, f"damaged {end:.1f} s from its start"):
            packet = next(packets, None)
            if packet is None:
                break
            if packet.is_corrupt:
                raise DataError(f"{source} - damaged {end:.1f} s from its start")
            if packet.pts is not None:
                end = max(
                    end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start
                )
            frames = packet.decode() if packet.stream_index == video.index else []
        yield from frames
        if packet.stream.type == "audio" and packet.dts is not None:
            yield packet
    if clip.duration and end < clip.duration / 1e6 - _LOST - 2 / (video.average_rate or 25):
        raise DataError(
            f"{source} - ends after {end:.1f} of the {clip.duration / 1e6:.1f} s that its header states"
        )


class _Writer:
    """One video that is being made."""

    def __init__(
        self, target: Path, container: Any, clip: Any, first: av.VideoFrame, scale: int
    ) -> None:
        self.target, self.container = target, container
        codec, source = VIDEOS[target.suffix.lower()][1], clip.streams.video[0]
        height, width = (side * scale for side in _upright(first).shape[:2])
        rate = source.average_rate or source.guessed_rate or Fraction(25)
        self.matrix = _matrix(first)
        self.stream = container.add_stream(codec, rate=rate, options=_OPTIONS[codec])
        self.stream.width, self.stream.height = width, height
        self.stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        coder = self.stream.codec_context
        coder.time_base = source.time_base
        shape = source.sample_aspect_ratio or Fraction(1)
        coder.sample_aspect_ratio = 1 / shape if _quarters(first) % 2 else shape
        coder.colorspace, coder.color_range = self.matrix, 1
        coder.color_primaries, coder.color_trc = int(first.color_primaries), int(first.color_trc)
        self.step = max(1, round(1 / (rate * source.time_base)))
        self.last: int | None = None
        self.sound = {s.index: container.add_stream_from_template(s) for s in clip.streams.audio}

    @classmethod
    @contextmanager
    def open(
        cls, partial: Path, target: Path, clip: Any, first: av.VideoFrame, scale: int
    ) -> Iterator[_Writer]:
        import av

        with _named(target, "cannot be written"):
            partial.parent.mkdir(parents=True, exist_ok=True)
            container = av.open(str(partial), "w", format=VIDEOS[target.suffix.lower()][0])
        try:
            if (
                strange := {s.codec.canonical_name for s in clip.streams.audio}
                - container.supported_codecs
            ):
                raise DataError(
                    f"{target} - cannot hold sound in {', '.join(strange)}, which is copied as it is; name a .mkv file"
                )
            with _named(target, "cannot be written"):
                writer = cls(target, container, clip, first, scale)
            yield writer
        finally:
            with suppress(Exception):  # after an error, of which this would be a consequence
                container.close()

    def write(self, image: np.ndarray, pts: int | None) -> None:
        import av

        if image.shape[:2] != (self.stream.height, self.stream.width):
            raise DataError(
                f"its frames change in size, to {image.shape[1]} x {image.shape[0]} of the result"
            )
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(
            format=self.stream.pix_fmt, dst_colorspace=self.matrix, dst_color_range=1
        )
        self.last = frame.pts = (
            pts if pts is not None else 0 if self.last is None else self.last + self.step
        )
        frame.time_base = self.stream.codec_context.time_base
        with _named(self.target, "cannot be written"):
            self.container.mux(self.stream.encode(frame))

    def copy(self, packet: Any) -> None:
        index = packet.stream.index
        packet.stream = self.sound[index]
        with _named(self.target, "cannot be written"):
            self.container.mux(packet)

    def finish(self) -> None:
        with _named(self.target, "cannot be written"):
            self.container.mux(self.stream.encode(None))
            self.container.close()


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """(h, w, 3) uint8, turned as the file says it is to be shown."""
    rgb = frame.reformat(format="rgb24", src_colorspace=_matrix(frame)).to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, _quarters(frame)))


def _quarters(frame: av.VideoFrame) -> int:
    """Quarter turns to the left until a frame is upright."""
    return round(frame.rotation / 90)


def _matrix(frame: av.VideoFrame) -> int:
    """Of YUV, by its number in H.273; where the file does not say, what players assume by its height."""
    return _MATRICES.get(int(frame.colorspace), 1 if frame.height >= 720 else 5)


def _frame_count(clip: Any) -> int | None:
    video = clip.streams.video[0]
    if video.frames or not (clip.duration and video.average_rate):
        return video.frames or None
    return round(clip.duration / 1e6 * video.average_rate)


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """PyAV's errors as ours."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as e:
        raise DataError(f"{path} - {what}: {getattr(e, 'strerror', None) or e}") from e
