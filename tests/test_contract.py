"""The contract checks pass what keeps the contract, and name what breaks it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit import (
    Condition,
    DiffusionModel,
    ModelInput,
    Options,
    PixelUnshuffle,
    RectifiedFlow,
    ResidualShifting,
    WeightFile,
)
from distillkit.contract.model_checks import check_size_multiple
from distillkit.errors import PluginError
from distillkit.plugins.descriptors import (
    DatasetSpec,
    DegradationSpec,
    MaskSpec,
    MetricSpec,
    Spec,
    StudentSpec,
    TeacherSpec,
)
from distillkit.plugins.manager import Kind, Plugin, Plugins, load_plugins
from distillkit.testing import CheckResult, check_plugin, contract

pytest_plugins = ["pytester"]


class Toy(DiffusionModel):
    """2x, in pixel-unshuffle latents: residual shifting with a ``y``, or rectified flow without."""

    def __init__(self, shifting: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = 2
        self.size_multiple = 2
        self.codec = PixelUnshuffle(2)
        if shifting:
            self.prediction_type = "sample"
            self.process = ResidualShifting(torch.linspace(0.1, 0.95, 6), kappa=1.5)
        else:
            self.prediction_type = "v_prediction"
            self.process = RectifiedFlow()
        self.network = nn.Conv2d(24, 12, 3, padding=1)

    def condition(self, inputs: ModelInput) -> Condition:
        large = F.interpolate(inputs.lq, scale_factor=2, mode="bicubic")
        latent = self.codec.encode(large)
        y = None
        if isinstance(self.process, ResidualShifting):
            y = latent
        return Condition(y, {"lq": latent})

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return z_t + self.network(torch.cat([z_t, condition.extra["lq"]], dim=1))

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        y = condition.extra["lq"]
        noise = torch.randn(y.shape, generator=generator)
        return self(y + noise, torch.zeros(len(y)), condition)


class Halve:
    scale = 2

    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        small = F.avg_pool2d(gt, 2)
        noise = torch.randn(small.shape, generator=generator)
        return round_to_8_bits(small + 0.1 * noise)


def round_to_8_bits(image: Tensor) -> Tensor:
    return (image.clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1


class Distance:
    name = "mse"
    protocol = "RGB"
    higher_is_better = False
    differentiable = True
    perceptual = False

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        return (restored - gt).square().mean(dim=(1, 2, 3))


class Needs(Options):
    root: Path


class NeedsWeights(Options):
    weights: WeightFile = WeightFile(path=Path("/no/such.pt"))


class Size(Options):
    shifting: str


def importable(build: Callable[[Options], Any]) -> str:
    """Keep ``build`` where a descriptor can name it, and return that name."""
    globals()["the_build_in_use"] = build
    return f"{__name__}:the_build_in_use"


SPECS: dict[str, type[Spec]] = {
    "teachers": TeacherSpec,
    "students": StudentSpec,
    "degradations": DegradationSpec,
    "metrics": MetricSpec,
    "datasets": DatasetSpec,
    "masks": MaskSpec,
}


def check(kind: Kind, build: Callable[[], Any], **fields: Any) -> list[CheckResult]:
    """Check what ``build`` builds, as if a plugin offered it."""
    if kind == "teachers":
        fields["capabilities"] = frozenset({"score", "output"})
    fields["build"] = importable(lambda options: build())
    spec = SPECS[kind](name="it", plugin="toy", summary="", **fields)
    return check_plugin("toy", plugins=Plugins([Plugin("toy", "toy 1", specs=[spec])]))


def failures(results: list[CheckResult]) -> dict[str, str]:
    return {r.statement: r.detail for r in results if r.outcome == "failed"}


@pytest.mark.parametrize("shifting", [True, False])
@pytest.mark.parametrize("kind", ["teachers", "students"])
def test_a_good_model_passes_every_check(kind: Kind, shifting: bool) -> None:
    results = check(kind, lambda: Toy(shifting))
    assert len(results) >= 9
    assert {str(r) for r in results if r.outcome != "passed"} == set()


@pytest.mark.parametrize(("kind", "build"), [("degradations", Halve), ("metrics", Distance)])
def test_a_good_degradation_and_a_good_metric_pass_every_check(
    kind: Kind, build: Callable[[], Any]
) -> None:
    results = check(kind, build)
    assert len(results) >= 4
    assert {str(r) for r in results if r.outcome != "passed"} == set()


class CutStudent(Toy):
    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return super().generate(condition, generator).detach()


class Forgetful(Toy):
    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return super().generate(condition, None)


class WrongSize(Toy):
    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return super().generate(condition, generator)[:, :, 1:]


class Unclamped(Toy):
    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        return super().restore(inputs, generator) * 3


class InPlace(Toy):
    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        inputs.lq.mul_(0.5)
        return super().restore(inputs, generator)


class Drifting(Toy):
    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            self.network.weight += 1e-3
        return super().restore(inputs, generator)


class CutScore(Toy):
    @torch.no_grad()
    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(z_t, t, condition).detach()

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Any:
        return super().predict(z_t.detach(), t, condition)


class CutForward(Toy):
    """Its predictions have gradient all the same, because they contain ``z_t``."""

    @torch.no_grad()
    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(z_t, t, condition)


class PartlyCut(Toy):
    """Only what goes around the network has gradient."""

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return z_t + super().forward(z_t.detach(), t, condition)


class Inconsistent(Toy):
    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Any:
        good = super().predict(z_t, t, condition)
        return good._replace(epsilon=good.epsilon * 1.5)


class Picky(Toy):
    def condition(self, inputs: ModelInput) -> Condition:
        if inputs.lq.shape[2] % 8:
            raise ValueError("sides must be multiples of 8")
        return super().condition(inputs)


def backwards(model: Toy) -> Toy:
    timestep_at = model.process.timestep_at
    model.process.timestep_at = lambda log_snr: timestep_at(-log_snr)  # type: ignore[method-assign]
    return model


def lossy(model: Toy) -> Toy:
    encode = model.codec.encode
    model.codec.encode = lambda image: encode(image).detach()  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    ("kind", "build", "statement", "detail"),
    [
        ("teachers", lambda: nn.Identity(), "Be a DiffusionModel", "build returned a Identity"),
        ("students", CutStudent, "Generate with gradient", "generate cuts the gradient"),
        ("students", Forgetful, "Generate with draws", "draws from somewhere else"),
        ("students", WrongSize, "Generate a finite latent", "has shape"),
        ("teachers", Unclamped, "Restore images", "expected [-1, 1]"),
        ("teachers", InPlace, "Restore with draws", "differs between two calls"),
        ("teachers", Drifting, "Keep weights", "restore changes network.weight"),
        ("teachers", CutScore, "Pass the gradient", "predict cuts the gradient"),
        ("teachers", CutForward, "Pass the gradient", "forward cuts the gradient"),
        ("teachers", PartlyCut, "Pass the gradient", "where finite differences are"),
        ("teachers", Inconsistent, "Predict a sample", "misses z_t"),
        ("teachers", Picky, "Restore images", "ValueError: sides must be multiples of 8"),
        ("teachers", lambda: backwards(Toy()), "Have a process whose timestep_at", "is off by"),
        ("teachers", lambda: lossy(Toy()), "Encode images", "cuts the gradient"),
    ],
)
def test_a_failed_check_of_a_model_is_named(
    kind: Kind, build: Callable[[], Any], statement: str, detail: str
) -> None:
    found = failures(check(kind, build))
    assert any(s.startswith(statement) and detail in d for s, d in found.items()), found


def bright() -> Any:
    return lambda image: image.max(axis=2)


def test_a_good_mask_passes_every_check() -> None:
    assert [r.outcome for r in check("masks", bright)] == ["passed"] * 3


def whole_image() -> Any:
    return lambda image: image


def darkening() -> Any:
    def find(image: np.ndarray) -> np.ndarray:
        image *= 0.5
        return image[..., 0]

    return find


def drawn() -> Any:
    return lambda image: np.random.rand(*image.shape[:2])


class SharedDraw(Halve):
    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        small = F.avg_pool2d(gt, 2)
        noise = torch.randn(small.shape[1:], generator=generator)
        return round_to_8_bits(small + 0.1 * noise)


class Mixing(Halve):
    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        return super().__call__(gt - gt.mean(), generator)


class Unrounded(Halve):
    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        return F.avg_pool2d(gt, 2)


class NumpyNoise(Halve):
    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.from_numpy(np.random.randn(1)).float()
        return round_to_8_bits(F.avg_pool2d(gt, 2) + noise)


class Mean(Distance):
    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        return super().__call__(restored, gt).mean()


class UpsideDown(Distance):
    higher_is_better = True


class Cut(Distance):
    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        return super().__call__(restored.detach(), gt)


@pytest.mark.parametrize(
    ("kind", "build", "statement", "detail"),
    [
        ("degradations", SharedDraw, "Draw for each image", "share one draw"),
        ("degradations", Mixing, "Draw for each image", "in the company of another"),
        ("degradations", Unrounded, "Shrink images", "not rounded to 8 bits"),
        ("degradations", NumpyNoise, "Depend on nothing but", "draws from somewhere else"),
        ("metrics", Mean, "Give one finite number", "has shape ()"),
        ("metrics", UpsideDown, "Rate the reference itself", "no worse than the reference"),
        ("metrics", Cut, "Pass gradient", "RuntimeError"),
        ("masks", lambda: "faces", "Give a mask", "build returned a str, which is not callable"),
        ("masks", whole_image, "Give a mask", "has the shape (96, 130, 3), expected (96, 130)"),
        ("masks", darkening, "Give a mask", "the image is changed in place"),
        ("masks", drawn, "Depend on nothing but", "draws from somewhere else"),
    ],
)
def test_a_failed_check_of_images_is_named(
    kind: Kind, build: Callable[[], Any], statement: str, detail: str
) -> None:
    found = failures(check(kind, build))
    assert any(s.startswith(statement) and detail in d for s, d in found.items()), found


def test_a_dataset_must_be_readable() -> None:
    pixels = np.zeros((4, 5, 3), dtype=np.uint8)
    good = datasets.Dataset.from_dict(
        {"image": [pixels]}, features=datasets.Features({"image": datasets.Image()})
    )
    assert failures(check("datasets", lambda: good)) == {}
    (detail,) = failures(check("datasets", lambda: good.rename_column("image", "photo"))).values()
    assert "image" in detail


def test_what_cannot_be_built_here_is_skipped_loudly() -> None:
    (no_default,) = check("students", Toy, options=f"{__name__}:Needs")
    assert str(no_default) == "SKIPPED  Build: its options have no usable defaults: root: missing"
    (no_weights,) = check("students", Toy, options=f"{__name__}:NeedsWeights")
    assert str(no_weights) == "SKIPPED  Build: needs weights that are not here: /no/such.pt"


def test_a_build_that_raises_fails() -> None:
    def build() -> None:
        raise RuntimeError("no luck\nat all")

    assert [str(r) for r in check("students", build)] == [
        "FAILED   Build: RuntimeError: no luck at all"
    ]


def test_options_may_replace_the_defaults() -> None:
    build = importable(lambda options: Toy(options.shifting == "yes"))
    options = f"{__name__}:Size"
    spec = StudentSpec(name="it", plugin="toy", summary="", options=options, build=build)
    plugins = Plugins([Plugin("toy", "toy 1", specs=[spec])])
    results = check_plugin("toy/it", {"toy/it": {"shifting": "yes"}}, plugins)
    assert {r.outcome for r in results} == {"passed"}


def test_a_report_shows_a_broken_plugin_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = load_plugins([EntryPoint("bad", "no_such_module_here", "distillkit")])
    monkeypatch.setattr(contract, "load_plugins", lambda: plugins)
    examined = contract.examine_plugin("bad")
    text = str(examined)
    assert examined.count_failed() == 1
    assert text.startswith("bad (no_such_module_here)\n  FAILED   loads: ModuleNotFoundError")
    assert "Traceback (most recent call last)" in text
    with pytest.raises(PluginError, match='no plugin "bat" is installed; did you mean "bad"'):
        contract.examine_plugin("bat")


def test_a_report_counts_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    build = importable(lambda options: Unrounded())
    spec = DegradationSpec(name="halve", plugin="toy", summary="", build=build)
    plugin = Plugin(
        "toy",
        "toy 1",
        specs=[spec],
        problems=("has a hook x, which does not exist",),
    )
    monkeypatch.setattr(contract, "load_plugins", lambda: Plugins([plugin]))
    examined = contract.examine_plugin("toy")
    text = str(examined)
    lines = text.splitlines()
    assert lines[:4] == [
        "toy (toy 1)",
        "  FAILED   has a hook x, which does not exist",
        "  degradation toy/halve",
        "    passed   Build",
    ]
    assert "not rounded to 8 bits" in lines[4]
    assert lines[-1] == "1 passed, 2 failed, 0 skipped"
    assert examined.count_failed() == 2


def test_contract_tests_are_two_lines_of_pytest(pytester: pytest.Pytester) -> None:
    module = """
        from distillkit import DegradationSpec, hookimpl
        class Halve:
            scale = 2
            def __init__(self, options): pass
            def __call__(self, gt, generator): return gt[:, :, ::2, ::2]{}
        @hookimpl
        def distillkit_degradations():
            return [DegradationSpec(name="halve", summary="", build=f"{{__name__}}:Halve")]
    """
    for name, rounding in (("good", ".mul(127.5).add(127.5).round() / 127.5 - 1"), ("bad", "")):
        pytester.makepyfile(**{f"fake_{name}": module.format(rounding)})
        folder = pytester.mkdir(f"{name}-1.0.dist-info")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[distillkit]\n{name} = fake_{name}\n")
    lines = (
        'from distillkit.testing import contract_tests\n\ntest_contract = contract_tests("{}")\n'
    )
    pytester.makepyfile(test_good=lines.format("good"), test_bad=lines.format("bad"))
    pytester.syspathinsert()
    result = pytester.runpytest_subprocess("-v", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*test_good.py::test_contract[[]degradation-good/halve] PASSED*"])
    result.stdout.fnmatch_lines(["*FAILED   Shrink images*not rounded to 8 bits"])
    result.assert_outcomes(passed=1, failed=1)


def test_a_check_that_does_not_apply_is_skipped_with_its_reason() -> None:
    reason = {"metric_order": "it judges an image by itself"}
    results = check("metrics", UpsideDown, exempt=reason)
    assert [str(r) for r in results if r.outcome == "skipped"] == [
        "SKIPPED  Rate the reference itself above a noisy copy of it: it judges an image by itself"
    ]
    assert failures(results) == {}


def test_an_unknown_check_to_be_exempt_from_is_named() -> None:
    found = failures(check("metrics", Distance, exempt={"metric_ordr": "why not"}))
    (detail,) = found.values()
    assert detail.startswith('there is no check "metric_ordr"; did you mean "metric_order"?')


class Halving(nn.Module):
    """Restores on a grid of four pixels."""

    scale, nfe = 1, 1

    def __init__(self, size_multiple: int) -> None:
        super().__init__()
        self.size_multiple = size_multiple

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        return F.interpolate(F.avg_pool2d(inputs.lq, 4), scale_factor=4, mode="nearest")


def test_a_size_multiple_below_the_total_stride_fails():
    check_size_multiple(Halving(4))
    for multiple in (1, 2):
        with pytest.raises(PluginError, match="if it is cut by 4: the network's total stride"):
            check_size_multiple(Halving(multiple))


def test_a_network_that_sees_the_whole_image_has_any_size_multiple():
    class Global(Halving):
        def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
            return inputs.lq - inputs.lq.mean(dim=(2, 3), keepdim=True)

    check_size_multiple(Global(1))
