"""Files that a recipe lacks on this machine are named, and fetched from a loopback Hub."""

import json
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

import datasets
import huggingface_hub.constants
import pytest

from distillkit import DistillkitError, Options, WeightFile
from distillkit.data.hub import is_cached, size_and_license
from distillkit.data.sources import HubDataset
from distillkit.errors import DataError, PluginError, WeightsError
from distillkit.evaluation.protocol import available_metrics
from distillkit.recipe.build import build_metric
from distillkit.recipe.load import load_recipe
from distillkit.runs.preflight import check_required_files, fetch_all, fetch_metrics


class Hub(BaseHTTPRequestHandler):
    """A Hub that knows one dataset, and a file by its address."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/w.bin":
            return self.answer(200, b"weights")
        if path.startswith("/api/datasets/owner/Photos"):
            siblings = [
                {"rfilename": "a.parquet", "size": 2_000_000_000},
                {"rfilename": "b.parquet", "size": 500_000_000},
            ]
            known = {
                "id": "owner/Photos",
                "sha": "0" * 40,
                "siblings": siblings,
                "cardData": {"license": "cc0-1.0"},
                "tags": [],
            }
            return self.answer(200, json.dumps(known).encode())
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer(self, code, body, headers=MappingProxyType({})):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # Nobody listens at that port.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        yield url
        server.shutdown()


class Needing(Options):
    files: tuple[WeightFile, ...]

    def weight_files(self):
        return self.files


def needing(resolved, **files):
    """Make components of a recipe need weight files, by their keys (``__`` for a dot)."""
    components = dict(resolved.components)
    for argument, needed in files.items():
        key = argument.replace("__", ".")
        components[key] = replace(components[key], config=Needing(files=needed))
    return replace(resolved, components=components)


def test_a_recipe_that_lacks_nothing_is_accepted(recipe):
    check_required_files(load_recipe(recipe))


def test_all_that_is_missing_is_named_at_once(recipe, tmp_path):
    sources = [
        '{hub="owner/Photos"}',
        '{imagefolder="gone"}',
        '{parquet="gone/*.parquet"}',
        '{use="toy/photos", folder="nowhere"}',
    ]
    resolved = needing(
        load_recipe(recipe, [f"data.train=[{', '.join(sources)}]"]),
        student=[
            WeightFile(
                path=tmp_path / "a.pth",
                url="https://example.org/a.pth",
                size=18_000_000,
                license="MIT",
            )
        ],
        teachers__fidelity=[
            WeightFile(path=tmp_path / "b.pth", source="a shelf", license="CC-BY-4.0"),
            WeightFile(
                path=tmp_path / "a.pth",
                url="https://example.org/a.pth",
                size=18_000_000,
                license="MIT",
            ),
        ],
        evaluation__metrics__0=[WeightFile(path=tmp_path / "metric.pth")],
    )
    with pytest.raises(DistillkitError) as refused:
        check_required_files(resolved)
    here = f"--set  data.train.{{}} - no such {{}}: {recipe.parent.cwd()}/{{}}".format
    assert str(refused.value).splitlines() == [
        "not on this machine, and needed:",
        f"  {tmp_path}/a.pth  18 MB, license MIT",
        f"  {tmp_path}/b.pth  size unknown, license CC-BY-4.0; to be put there by hand, "
        "from a shelf",
        "  --set  data.train.0.hub - dataset owner/Photos of the Hub",
        "  " + here("1.imagefolder", "folder", "gone"),
        "  " + here("2.parquet", "file", "gone/*.parquet"),
        "  " + here("3.folder", "file or folder", "nowhere"),
        f"fetch what can be fetched with: distillkit fetch {recipe} and the same --set options",
    ]


def test_one_failure_does_not_keep_the_rest_from_being_fetched(recipe, tmp_path, hub):
    missing = WeightFile(path=tmp_path / "new" / "gone.bin", url=f"{hub}/gone.bin")
    by_hand = WeightFile(path=tmp_path / "hand.pth", source="a shelf", license="MIT")
    there = WeightFile(path=tmp_path / "new" / "w.bin", url=f"{hub}/w.bin")
    resolved = load_recipe(recipe, ['data.train=[{hub="nobody/nothing"}, {imagefolder="gone"}]'])
    resolved = needing(resolved, student=[missing, by_hand, there], evaluation__metrics__0=[there])
    lines = []
    assert not fetch_all(resolved, lines.append)
    assert (tmp_path / "new" / "w.bin").read_bytes() == b"weights"
    assert [line.partition(":")[0] for line in lines] == [
        "not here",
        "by hand",
        "here",
        "not here",
        "by hand",
    ]
    assert "gone.bin - the server answered 404" in lines[0] and "from a shelf" in lines[1]
    assert (
        "nobody/nothing - no such dataset on the Hub" in lines[3] and "no such folder" in lines[4]
    )
    assert (
        fetch_all(needing(load_recipe(recipe), student=[there]), lines.append)
        and lines[-1] == f"here: {there.path}"
    )


def test_the_hub_that_cannot_be_reached_and_the_one_that_does_not_know(hub, monkeypatch):
    assert size_and_license(HubDataset("owner/Photos")) == (2_500_000_000, "cc0-1.0")
    with pytest.raises(DataError, match="no such dataset on the Hub, or a private one"):
        size_and_license(HubDataset("owner/Paintings"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        DataError,
        match='the Hub cannot be reached .* "hf download --repo-type dataset owner/Photos"',
    ):
        size_and_license(HubDataset("owner/Photos"))


def test_a_dataset_in_the_cache_counts_as_here(recipe, cache):
    resolved = load_recipe(recipe, ['data.train=[{hub="owner/MyPhotos"}]'])
    folder = cache / "owner___my_photos" / "default" / "0.0.0"
    (folder / "abc.incomplete").mkdir(parents=True)
    (folder / "abc.incomplete" / "dataset_info.json").write_text("{}")
    assert not is_cached(HubDataset("owner/MyPhotos"))
    (folder / "abc").mkdir()
    (folder / "abc" / "dataset_info.json").write_text("{}")
    assert is_cached(HubDataset("owner/MyPhotos")) and not is_cached(HubDataset("owner/my"))
    check_required_files(resolved)


def test_the_weights_of_a_metric_are_fetched_for_comparisons(tmp_path):
    lines = []
    trunk = tmp_path / "trunk.pth"
    settings = {"lpips-alex": {"trunk": str(trunk)}}
    assert not fetch_metrics(["lpips-alex"], settings, lines.append)
    assert lines[0].startswith(f"by hand: {trunk}")
    trunk.write_bytes(b"weights")
    assert fetch_metrics(["lpips-alex"], settings, lines.append)
    assert lines[1] == f"here: {trunk}"
    with pytest.raises(PluginError, match="lpips-alx"):
        fetch_metrics(["lpips-alx"], {}, lines.append)


def summary_of_absent(metric, **options):
    """What a cell of a table says of a metric that cannot be built with these options."""
    _, absent = available_metrics({metric: partial(build_metric, metric, options, "cpu")})
    return absent[metric].summary


def test_absent_weights_name_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    command = "distillkit fetch --metric lpips-alex"
    assert summary_of_absent("lpips-alex") == f"weights absent: {command}"


@pytest.mark.parametrize(
    ("metric", "option"), [("niqe", "parameters"), ("dists", "weights"), ("lpips-vgg", "trunk")]
)
def test_absent_weights_that_nobody_fetches_name_their_place_and_their_option(
    tmp_path, metric, option
):
    path = tmp_path / "none.pth"
    cell = summary_of_absent(metric, **{option: str(path)})
    assert cell.startswith(f"weights absent: put it at {path} ({metric}.{option}) from ")


@pytest.mark.parametrize(("metric", "option"), [("niqe", "parameters"), ("dists", "weights")])
def test_weights_that_no_option_names_are_asked_for_by_the_option(metric, option):
    cell = summary_of_absent(metric)
    assert cell.startswith(f"weights absent: set {metric}.{option} to a file from ")


def test_weights_that_are_here_but_damaged_are_not_called_absent(tmp_path):
    path = tmp_path / "damaged.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(WeightsError, match="damaged.npz - not a file of NIQE"):
        build_metric("niqe", {"parameters": str(path)}, "cpu")
    assert summary_of_absent("niqe", parameters=str(path)) == "failed"
