"""Run the commands of known faults and print what they show now.

``python benchmarks/cases.py FOLDER [--run RUN]``

FOLDER holds one folder of inputs for each case. RUN is a finished run of the 4x quickstart; without
it a short one is made. Each command runs as a process of its own in a temporary folder, and the
given files are only read. Exit code 1 where a case is not as expected.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

RECIPE = "mini/paper_sr4x"
SHORT_RUN = ("stage1.steps=2", "stage2.steps=2", "evaluation.max_images=1", "evaluation.alphas=[]")
TIMEOUT = 300
"""Seconds after which a command has failed."""


class Place(NamedTuple):
    """Where a case works."""

    inputs: Path
    work: Path
    run: Path


class Seen(NamedTuple):
    """What a case showed."""

    text: str
    is_right: bool


class Case(NamedTuple):
    """A check of one folder of inputs."""

    expected: str
    check: Callable[[Place], Seen]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path, help="a finished run of mini/paper_sr4x")
    parser.add_argument("--only", help="the name of one case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = options.run or make_run(Path(temporary))
        results = []
        print("| case | expected | seen | ok |\n| --- | --- | --- | --- |")
        for folder in sorted(path for path in options.folder.iterdir() if path.is_dir()):
            if options.only in (None, folder.name):
                seen = check_case(folder.resolve(), Path(temporary), run.resolve())
                results.append(seen.is_right)
    print(f"\n{sum(results)} of {len(results)} as expected")
    return 0 if all(results) else 1


def make_run(folder: Path) -> Path:
    settings = with_set(*SHORT_RUN)
    recipe = RECIPE
    done = distillkit(folder, "run", recipe, "--out", "run", *settings)
    if done.returncode:
        raise SystemExit(f"the short run failed:\n{done.stderr}")
    return folder / "run"


def with_set(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def check_case(inputs: Path, temporary: Path, run: Path) -> Seen:
    """Check one folder and print its row."""
    case = CASES.get(inputs.name, Case("a check of it", no_check))
    work = temporary / inputs.name
    work.mkdir()
    try:
        seen = case.check(Place(inputs, work, run))
    # One case that fails unforeseen must not hide the others.
    except Exception:
        seen = Seen(traceback.format_exc(limit=1).splitlines()[-1], False)
    ok = "yes" if seen.is_right else "NO"
    text = " ".join(seen.text.split()).replace("|", "/")
    print(f"| {inputs.name} | {case.expected} | {text[:240]} | {ok} |", flush=True)
    return seen


def no_check(place: Place) -> Seen:
    return Seen("this program does not know the case", False)


def distillkit(
    folder: Path, *arguments: object, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distillkit", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def restore(place: Place, *arguments: object) -> subprocess.CompletedProcess[str]:
    return distillkit(place.work, "restore", *arguments, "--run", place.run)


def refused(done: subprocess.CompletedProcess[str], *phrases: str) -> Seen:
    """Judge a command that should refuse in a sentence with these phrases."""
    message = done.stderr.strip()
    says_it = all(phrase in message for phrase in phrases)
    is_right = done.returncode == 2 and says_it and "Traceback" not in message
    return Seen(f"rc {done.returncode}: {message[-200:]}", is_right)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def on_white(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert("RGBA")).astype(float)
    opacity = pixels[..., 3:] / 255
    return pixels[..., :3] * opacity + 255 * (1 - opacity)


def check_alpha_edges(place: Place) -> Seen:
    # What the student makes of plain white is no fault of edges.
    Image.new("RGB", (64, 64), "white").save(place.work / "plain.png")
    pictures = [*sorted(place.inputs.glob("*.png")), "plain.png"]
    done = restore(place, *pictures, "-o", "out", "--tradeoff", 0.5)
    black = on_white(place.work / "out" / "white_on_black0.png")
    white = on_white(place.work / "out" / "white_on_white0.png")
    difference = np.abs(black - white).max()
    darkest = min(black.min(), white.min())
    plain = on_white(place.work / "out" / "plain.png").min()
    text = f"rc {done.returncode}, darkest {darkest:.0f}, of plain white {plain:.0f}"
    text += f", difference {difference:.0f}"
    return Seen(text, done.returncode == 0 and difference <= 2 and darkest >= min(253, plain - 1))


def check_byte_order_mark(place: Place) -> Seen:
    done = distillkit(place.work, "recipe", "validate", place.inputs / "bom.toml")
    # Its folders of images are not there, which validating may say.
    is_read = "not valid TOML" not in done.stderr and "Traceback" not in done.stderr
    return Seen(f"rc {done.returncode}: {done.stdout} {done.stderr}", is_read)


def check_demo_behind_proxy(place: Place) -> Seen:
    dead = "http://127.0.0.1:9"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    env = os.environ | dict.fromkeys(names, dead) | {"no_proxy": "", "NO_PROXY": ""}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    log = place.work / "log"
    command = [sys.executable, "-m", "distillkit", "demo", str(place.run), "--port", port]
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=place.work, env=env, stdout=file, stderr=file)
    try:
        status = wait_for_page(f"http://127.0.0.1:{port}/", server)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    return Seen(f"GET / = {status} {log.read_text()[-100:]}", status == 200)


def wait_for_page(address: str, server: subprocess.Popen[bytes]) -> int:
    """Return the status of a page, or 0 if its server ends or does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(120):
        if server.poll() is not None:
            return 0
        try:
            return opener.open(address, timeout=10).status
        except OSError:
            time.sleep(1)
    return 0


def check_comparison_keeps_inputs(place: Place) -> Seen:
    shutil.copytree(place.inputs, place.work, dirs_exist_ok=True)
    before = hashes(place.work)
    arguments = ("--gt", "gt", "--method", "n=method", "--metrics", "psnr", "--out", "method")
    seen = refused(distillkit(place.work, "compare", *arguments))
    return Seen(seen.text, seen.is_right and hashes(place.work) == before)


def check_read_only_export(place: Place) -> Seen:
    folder = place.work / "ro"
    folder.mkdir(mode=0o555)
    command = [sys.executable, "-m", "distillkit", "export", str(place.run), "-o", "ro/ex"]
    if os.geteuid() == 0:
        # For root a folder is never read-only.
        drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
        command = [*drop, *command]
    done = subprocess.run(
        command, cwd=place.work, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    return refused(done, "cannot be written", "ermission denied")


def check_folder_of_formats(place: Place) -> Seen:
    inputs = place.work / "in"
    shutil.copytree(place.inputs, inputs)
    (inputs / "README").unlink(missing_ok=True)
    (inputs / "._a.jpg").write_bytes(b"\0\5\x16\7 AppleDouble")
    pictures = [path for path in inputs.iterdir() if path.name.startswith("other")]
    # One name in six formats would be one result.
    for path in pictures:
        path.rename(path.with_name(f"{path.suffix[1:]}{path.suffix}"))
    done = restore(place, "in", "-o", "out")
    made = len(list((place.work / "out").glob("*")))
    text = f"rc {done.returncode}, {made} of {len(pictures)} restored. {done.stderr}"
    return Seen(text, done.returncode == 0 and made == len(pictures))


def check_gray16(place: Place) -> Seen:
    texts = []
    is_right = True
    for suffix in (".png", ".webp", ".jpg", ".bmp"):
        done = restore(place, place.inputs / "g16.png", "-o", f"out{suffix}")
        if done.returncode:
            texts.append(f"{suffix} rc {done.returncode}")
            is_right = is_right and done.returncode == 2
            continue
        values = np.asarray(Image.open(place.work / f"out{suffix}")).astype(float)
        if suffix == ".png":
            reference = values / 257
        if values.ndim == 3:
            values = values[..., 0]
        if suffix == ".webp":
            is_right = is_right and np.abs(values - reference).max() <= 2
        texts.append(f"{suffix} mean {values.mean():.0f}")
    return Seen(", ".join(texts), is_right)


def check_color_profiles(place: Place) -> Seen:
    wanted = {"p3": ((219, 37, 34), (0, 174, 79)), "prophoto": ((255, 0, 60), (0, 200, 91))}
    paths = [place.inputs / f"{name}.png" for name in wanted]
    done = restore(place, *paths, "-o", "out")
    worst = 0.0
    for name, halves in wanted.items():
        shown = shown_colors(place.work / "out" / f"{name}.png")
        width = shown.shape[1]
        for first, color in zip((width // 8, 5 * width // 8), halves, strict=True):
            # The halves have grain, and blend where they meet.
            mean = shown[:, first : first + width // 4].mean((0, 1))
            worst = max(worst, float(np.abs(mean - np.array(color)).max()))
    return Seen(f"rc {done.returncode}, largest error of a channel {worst:.0f}", worst <= 4)


def shown_colors(path: Path) -> np.ndarray:
    """Show a picture as a viewer does, in sRGB."""
    picture = Image.open(path)
    profile = picture.info.get("icc_profile")
    if profile:
        stored = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, stored, srgb, outputMode="RGB") or picture
    return np.asarray(picture.convert("RGB")).astype(float)


def check_skip_existing(place: Place) -> Seen:
    folder = place.work / "in"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (24, 24), (60 * number, 90, 20)).save(folder / f"{number}.png")
    restore(place, "in/0.png", "in/1.png", "-o", "out")
    before = {path: path.stat().st_mtime_ns for path in (place.work / "out").iterdir()}
    done = restore(place, "in", "-o", "out", "--skip-existing")
    made = len(list((place.work / "out").iterdir()))
    untouched = all(path.stat().st_mtime_ns == at for path, at in before.items())
    text = f"rc {done.returncode}, {made} results, the first {len(before)} untouched: {untouched}"
    return Seen(text, done.returncode == 0 and made == 4 and len(before) == 2 and untouched)


def check_output_suffixes(place: Place) -> Seen:
    wrong = []
    for suffix in ("avif", "gif", "heic", "jfif", "jp2", "tga", "avi", "pdf"):
        target = place.work / f"out.{suffix}"
        done = restore(place, place.inputs / "in.jpg", "-o", target)
        is_written = done.returncode == 0 and target.is_file()
        is_refused = refused(done, "cannot write").is_right and not target.exists()
        if not is_written and not is_refused:
            wrong.append(f"{suffix}: rc {done.returncode} {done.stderr[-60:]}")
    return Seen("; ".join(wrong) or "each is written or refused", not wrong)


def check_tiny_images(place: Place) -> Seen:
    arguments = ("--gt", place.inputs / "gt", "--method", f"m={place.inputs / 'm'}")
    done = distillkit(place.work, "compare", *arguments, "--out", "out")
    message = f"{done.stdout} {done.stderr}"
    names_it = "8x8" in message.replace(" ", "") and "ssim-y" in message
    is_right = names_it and "Traceback" not in message
    return Seen(f"rc {done.returncode}: {message[-220:]}", is_right)


def check_two_processes(place: Place) -> Seen:
    recipe = RECIPE
    settings = (
        "--set",
        "stage1.steps=6",
        "--set",
        "stage2.steps=4",
        "--set",
        "evaluation.alphas=[]",
    )
    settings += ("--set", "training.logging_steps=1", "--set", "evaluation.max_images=1")
    command = [sys.executable, "-m", "distillkit", "run", str(recipe), "--out", "X", *settings]
    processes = []
    for number in range(2):
        with (place.work / f"log{number}").open("w") as log:
            processes.append(
                subprocess.Popen([*command, "--resume"], cwd=place.work, stdout=log, stderr=log)
            )
    codes = [process.wait(TIMEOUT) for process in processes]
    logs = [(place.work / f"log{number}").read_text() for number in range(2)]
    rows = (place.work / "X" / "metrics.jsonl").read_text().splitlines()
    says_it = any("another process" in log for log in logs)
    text = f"rc {codes}, {len(rows)} rows for 10 steps, the other process is named: {says_it}"
    return Seen(text, sorted(codes) == [0, 2] and len(rows) == 10 and says_it)


def check_animations(place: Place) -> Seen:
    frames = [Image.new("RGB", (24, 24), (60 * number, 90, 20)) for number in range(4)]
    frames[0].save(place.work / "anim.gif", save_all=True, append_images=frames[1:])
    to_video = restore(place, "anim.gif", "-o", "out.mkv")
    to_image = restore(place, "anim.gif", "-o", "out.png")
    refuses = (
        refused(to_video).is_right and "is no video, but out.mkv is not" not in to_video.stderr
    )
    counts = to_image.returncode == 0 and "4 frames" in to_image.stderr
    return Seen(f"{to_video.stderr} {to_image.stderr}", refuses and counts)


CASES = {
    "alpha_fringe": Case("discs equal, >= 253 or as plain white", check_alpha_edges),
    "bom_recipe": Case("read, or a byte order mark is named", check_byte_order_mark),
    "demo_behind_proxy": Case("GET / = 200", check_demo_behind_proxy),
    "eval_out_overwrites": Case("rc 2, all files unchanged", check_comparison_keeps_inputs),
    "export_readonly_traceback": Case("rc 2, cannot be written", check_read_only_export),
    "folder_skips_silently": Case("six restored, ._ files ignored", check_folder_of_formats),
    "grey16_to_webp": Case("within 2 of the PNG, or rc 2", check_gray16),
    "icc_dropped": Case("shown colors within 4", check_color_profiles),
    "no_skip_existing": Case("--skip-existing makes the missing only", check_skip_existing),
    "output_suffix_folder": Case("written, or rc 2 and nothing written", check_output_suffixes),
    "ssim_tiny_traceback": Case("one line names image, size and metric", check_tiny_images),
    "two_resumes_one_folder": Case("one rc 2 names the other; 10 rows", check_two_processes),
    "video_messages": Case("a right sentence; 4 frames named", check_animations),
}

if __name__ == "__main__":
    sys.exit(main())
