"""The mini models: shapes, sizes, repeatability, spaces, and that what is shipped does what the card says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillkit import DiffusionModel, ModelInput, StudentSpec, WeightsError
from distillkit.testing import contract_tests
from distillkit_mini.courses import COURSES, DARK
from distillkit_mini.evaluate import METRICS, evaluation_crops, measure
from distillkit_mini.models import EXPOSURE, GAMMA, FaithfulDct, Realistic, brighten
from distillkit_mini.options import SHIPPED, RealisticOptions
from distillkit_mini.plugin import distillkit_students, distillkit_teachers

TEACHERS = {spec.name: spec for spec in distillkit_teachers()}
LOW_LIGHT = "the degradation and the metric of low light are distillkit-lowlight's"
test_contract = contract_tests("mini")


def build(name: str, **options: object) -> DiffusionModel:
    return TEACHERS[name].create(TEACHERS[name].config(**options)).eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_like(z: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(z.shape, generator=seeded(seed))


@pytest.fixture(scope="module", params=sorted(TEACHERS))
def model(request: pytest.FixtureRequest) -> DiffusionModel:
    return build(request.param)


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    lq, gt = evaluation_crops()
    return lq[::5], gt[::5]


@pytest.fixture(scope="module")
def own_pairs(model: DiffusionModel, pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Pairs of what the model was trained to undo."""
    if model.scale == 4:
        return pairs
    pytest.importorskip("distillkit_lowlight", reason=LOW_LIGHT)
    lq, gt = evaluation_crops("lle")
    return lq[::5], gt[::5]


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (1, 2)])
def test_any_size_is_restored_at_four_times_the_latents_size(
    model: DiffusionModel, size: tuple[int, int]
) -> None:
    lq = (
        torch.rand(2, 3, *(model.size_multiple * side for side in size), generator=seeded()) * 2 - 1
    )
    condition = model.condition(ModelInput(lq))
    assert condition.y is not None and condition.y.shape == (2, 48, *size)
    with torch.no_grad():
        assert model.generate(condition, seeded()).shape == (2, 48, *size)
        restored = model.restore(ModelInput(lq), seeded())
    assert restored.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert restored.min() >= -1 and restored.max() <= 1


@torch.no_grad()
def test_a_generator_decides_everything(
    model: DiffusionModel, own_pairs: tuple[Tensor, Tensor]
) -> None:
    lq = own_pairs[0][:2]
    assert torch.equal(
        model.restore(ModelInput(lq), seeded(1)), model.restore(ModelInput(lq), seeded(1))
    )
    assert torch.equal(
        model.restore(ModelInput(lq), seeded(1)), model.restore(ModelInput(lq), seeded(2))
    ) == (model.nfe == 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["realistic", "realistic-lle"])
def test_tiles_agree_with_the_whole_away_from_their_borders(name: str) -> None:
    model = build(name)
    side = model.size_multiple
    lq = torch.rand(1, 3, 96 * side, 96 * side, generator=seeded()) * 2 - 1
    whole, tile = (
        model.restore(ModelInput(lq)),
        model.restore(ModelInput(lq[..., : 80 * side, : 80 * side])),
    )
    torch.testing.assert_close(
        tile[..., : 4 * 40, : 4 * 40], whole[..., : 4 * 40, : 4 * 40], atol=1e-5, rtol=0
    )


def test_brightening_undoes_the_middle_of_what_darkens() -> None:
    light = torch.linspace(0, 1, 9).expand(1, 3, 1, 9)
    dark = EXPOSURE * light**GAMMA
    torch.testing.assert_close(brighten(dark * 2 - 1), light * 2 - 1)
    for value, (low, high) in ((EXPOSURE, DARK["exposure"]), (GAMMA, DARK["gamma"])):
        assert low < value < high


@torch.no_grad()
def test_passes_is_the_number_of_network_passes() -> None:
    for name, options, passes in (
        ("faithful", {"steps": 2}, 2),
        ("faithful", {}, 4),
        ("realistic", {}, 1),
        ("faithful-lle", {}, 1),
        ("realistic-lle", {}, 1),
    ):
        model, calls = build(name, **options), []
        model.network.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model.restore(ModelInput(torch.zeros(1, 3, 8, 8)), seeded())
        assert len(calls) == model.nfe == passes


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
def test_denoises_at_every_noise_level(
    model: DiffusionModel, own_pairs: tuple[Tensor, Tensor], ratio: float
) -> None:
    """At equal SNR, ``clean`` is nearer to the truth than the best linear guess from ``z_t`` without the network."""
    lq, gt = own_pairs
    z_0, condition = model.codec.encode(gt), model.condition(ModelInput(lq))
    t = model.process.timestep_at(torch.full((len(gt),), 2 * torch.tensor(ratio).log().item()))
    z_t = model.process.add_noise(z_0, noise_like(z_0), t, condition.y)
    c = model.process.coefficients(t)
    shrunk = (z_t - c.shift * condition.y) * c.signal / (c.signal**2 + c.noise**2)
    guess = model.predict(z_t, t, condition)
    assert (guess.sample - z_0).square().mean() < (shrunk - z_0).square().mean()
    assert (guess.epsilon - noise_like(z_0)).square().mean() < 1


@torch.no_grad()
def test_the_dct_teacher_is_the_faithful_one_in_another_space(pairs: tuple[Tensor, Tensor]) -> None:
    faithful, dct = build("faithful"), build("faithful-dct")
    assert isinstance(dct, FaithfulDct) and dct.codec.space != faithful.codec.space
    lq, gt = pairs[0][:3], pairs[1][:3]
    z_0, condition = faithful.codec.encode(gt), faithful.condition(ModelInput(lq))
    t = torch.tensor([0.1, 0.5, 0.95])
    z_t = faithful.process.add_noise(z_0, noise_like(z_0), t, condition.y)

    rotated = dct.condition(ModelInput(lq))
    torch.testing.assert_close(rotated.y, dct.codec.rotate(condition.y))
    assert (rotated.y - condition.y).abs().max() > 0.1
    ours, theirs = (
        dct.predict(dct.codec.rotate(z_t), t, rotated),
        faithful.predict(z_t, t, condition),
    )
    torch.testing.assert_close(dct.codec.unrotate(ours.sample), theirs.sample, atol=1e-4, rtol=0)
    torch.testing.assert_close(dct.codec.unrotate(ours.epsilon), theirs.epsilon, atol=1e-3, rtol=0)


def test_the_rotation_is_orthonormal_and_separates_frequencies() -> None:
    codec = FaithfulDct().codec
    image = torch.rand(1, 3, 8, 12, generator=seeded()) * 2 - 1
    torch.testing.assert_close(codec.decode(codec.encode(image)), image)
    assert codec.encode(image).square().sum() == pytest.approx(
        4 * image.square().sum().item(), rel=1e-5
    )
    flat = codec.encode(torch.full((1, 3, 4, 4), 0.5)).view(3, 16)
    torch.testing.assert_close(flat[:, 0], torch.full((3,), 2 * 0.5 * 4))
    assert flat[:, 1:].abs().max() < 1e-6
    wave = torch.cos(torch.pi * (2 * torch.arange(4.0) + 1) * 2 / 8).expand(
        1, 3, 4, 4
    )  # horizontal frequency 2
    assert codec.encode(wave).view(3, 16).abs().argmax(1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("spec", distillkit_students(), ids=lambda spec: spec.name)
def test_the_student_starts_as_the_realistic_teacher_and_shares_nothing_with_it(
    spec: StudentSpec, pairs: tuple[Tensor, Tensor]
) -> None:
    teacher, student = build(spec.name.replace("student", "realistic")), spec.create(spec.config())
    assert isinstance(student, Realistic)
    assert (student.codec.space, student.scale) == (teacher.codec.space, teacher.scale)
    assert not {p.data_ptr() for p in teacher.parameters()} & {
        p.data_ptr() for p in student.parameters()
    }
    latent = student.generate(student.condition(ModelInput(pairs[0])))
    assert torch.equal(latent, teacher.generate(teacher.condition(ModelInput(pairs[0]))))
    latent.sum().backward()
    assert all(p.grad is not None for name, p in student.network.named_parameters())
    assert student.network.get_submodule(student.head).out_channels == 48


def test_weights_are_shipped_and_refused_by_another_network(tmp_path: Path) -> None:
    files = [file for spec in TEACHERS.values() for file in spec.config().weight_files()]
    assert all(file.find() for file in files)
    assert sum({file.path: file.path.stat().st_size for file in files}.values()) < 8e6
    network = load_file(RealisticOptions().weights.path)
    save_file(
        {name.replace("middle", "center"): value for name, value in network.items()},
        tmp_path / "other.safetensors",
    )
    with pytest.raises(WeightsError, match="another architecture"):
        build("faithful", weights=tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no such weight file"):
        build("realistic", weights=tmp_path / "none.safetensors")


@pytest.mark.parametrize("card", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_a_card_is_that_of_its_weights(card: Path) -> None:
    weights = card.with_suffix(".safetensors").read_bytes()
    assert json.loads(card.read_text())["sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("task", sorted(COURSES))
def test_the_teachers_are_what_their_names_say(task: str) -> None:
    if task == "lle":
        pytest.importorskip("distillkit_lowlight", reason=LOW_LIGHT)
    metrics = [name for name in METRICS[task] if name != "ST-LPIPS-VGG"]
    measured = measure(*map(build, COURSES[task].names), task, metrics)
    mean = {
        method: {metric: v.mean().item() for metric, v in values.items()}
        for method, values in measured.items()
    }
    guess = COURSES[task].task.guess_name
    for name in metrics[:-1]:
        assert (
            mean["faithful"][name] > mean["realistic"][name]
            and mean["faithful"][name] > mean[guess][name]
        )
    distance = metrics[-1]
    assert mean["realistic"][distance] < mean["faithful"][distance] < mean[guess][distance]
