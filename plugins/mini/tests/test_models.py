"""The mini models: sizes, repeatability, spaces, and shipped weights that do what they should."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillkit import DiffusionModel, ModelInput, StudentSpec, WeightsError
from distillkit.testing import contract_tests
from distillkit_mini.evaluate import METRICS, evaluation_crops, measure
from distillkit_mini.models import EXPOSURE, GAMMA, FaithfulDct, Realistic, brighten
from distillkit_mini.options import SHIPPED, RealisticOptions
from distillkit_mini.plugin import distillkit_students, distillkit_teachers
from distillkit_mini.training_setups import DARK, TRAINING_SETUPS

TEACHERS = {spec.name: spec for spec in distillkit_teachers()}
LOW_LIGHT = "the degradation and the metric of low light are distillkit-lowlight's"
test_contract = contract_tests("mini")


def build(name: str, **options: object) -> DiffusionModel:
    return TEACHERS[name].create(TEACHERS[name].config(**options)).eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_inputs(batch: int, height: int, width: int) -> ModelInput:
    return ModelInput(torch.rand(batch, 3, height, width, generator=seeded()) * 2 - 1)


def noise_like(z: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(z.shape, generator=seeded(seed))


@pytest.fixture(scope="module", params=sorted(TEACHERS))
def model(request: pytest.FixtureRequest) -> DiffusionModel:
    return build(request.param)


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    lq, gt = evaluation_crops()
    return lq[::28], gt[::28]


@pytest.fixture(scope="module")
def own_pairs(model: DiffusionModel, pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Pairs of what the model was trained to undo."""
    if model.scale == 4:
        return pairs
    pytest.importorskip("distillkit_lowlight", reason=LOW_LIGHT)
    lq, gt = evaluation_crops("lle")
    return lq[::28], gt[::28]


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (1, 2)])
def test_any_size_is_restored_at_four_times_the_latents_size(
    model: DiffusionModel, size: tuple[int, int]
) -> None:
    height, width = size
    unit = 4 // model.scale
    inputs = draw_inputs(2, height * unit, width * unit)
    condition = model.condition(inputs)
    assert condition.y is not None
    assert condition.y.shape == (2, 48, height, width)
    with torch.no_grad():
        assert model.generate(condition, seeded()).shape == (2, 48, height, width)
        restored = model.restore(inputs, seeded())
    assert restored.shape == (2, 3, 4 * height, 4 * width)
    assert restored.min() >= -1
    assert restored.max() <= 1


@torch.no_grad()
def test_a_generator_decides_everything(
    model: DiffusionModel, own_pairs: tuple[Tensor, Tensor]
) -> None:
    inputs = ModelInput(own_pairs[0][:2])
    one = model.restore(inputs, seeded(1))
    assert torch.equal(one, model.restore(inputs, seeded(1)))
    # Only the four-step teachers draw.
    assert torch.equal(one, model.restore(inputs, seeded(2))) == (model.nfe == 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["realistic", "realistic-lle"])
def test_tiles_agree_with_the_full_image_away_from_their_borders(name: str) -> None:
    model = build(name)
    unit = 4 // model.scale
    inputs = draw_inputs(1, 96 * unit, 96 * unit)
    tile = ModelInput(inputs.lq[..., : 80 * unit, : 80 * unit])
    inner = (..., slice(4 * 40), slice(4 * 40))
    expected = model.restore(inputs)[inner]
    torch.testing.assert_close(model.restore(tile)[inner], expected, atol=1e-5, rtol=0)


def test_brightening_undoes_the_middle_of_what_darkens() -> None:
    light = torch.linspace(0, 1, 9).expand(1, 3, 1, 9)
    dark = EXPOSURE * light**GAMMA
    torch.testing.assert_close(brighten(dark * 2 - 1), light * 2 - 1)
    assert DARK["exposure"][0] < EXPOSURE < DARK["exposure"][1]
    assert DARK["gamma"][0] < GAMMA < DARK["gamma"][1]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "nfe"),
    [
        ("faithful", {"steps": 2}, 2),
        ("faithful", {}, 4),
        ("realistic", {}, 1),
        ("faithful-lle", {}, 1),
        ("realistic-lle", {}, 1),
    ],
)
def test_nfe_is_the_number_of_network_evaluations(
    name: str, options: dict[str, int], nfe: int
) -> None:
    model = build(name, **options)
    calls: list[int] = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    model.restore(ModelInput(torch.zeros(1, 3, 8, 8)), seeded())
    assert len(calls) == model.nfe == nfe


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
def test_denoises_at_every_noise_level(
    model: DiffusionModel, own_pairs: tuple[Tensor, Tensor], ratio: float
) -> None:
    """It is nearer to the truth than the best linear guess from ``z_t`` without the network."""
    lq, gt = own_pairs
    z_0 = model.codec.encode(gt)
    condition = model.condition(ModelInput(lq))
    log_snr = torch.full((len(gt),), 2 * math.log(ratio))
    t = model.process.timestep_at(log_snr)
    noise = noise_like(z_0)
    z_t = model.process.add_noise(z_0, noise, t, condition.y)
    c = model.process.coefficients(t)
    linear_guess = (z_t - c.shift * condition.y) * c.signal / (c.signal**2 + c.noise**2)
    prediction = model.predict(z_t, t, condition)
    error = (prediction.sample - z_0).square().mean()
    assert error < (linear_guess - z_0).square().mean()
    assert (prediction.epsilon - noise).square().mean() < 1


@torch.no_grad()
def test_the_dct_teacher_is_the_faithful_one_in_another_space(pairs: tuple[Tensor, Tensor]) -> None:
    faithful, dct = build("faithful"), build("faithful-dct")
    assert isinstance(dct, FaithfulDct)
    assert dct.codec.space != faithful.codec.space
    inputs, gt = ModelInput(pairs[0][:3]), pairs[1][:3]
    z_0 = faithful.codec.encode(gt)
    condition = faithful.condition(inputs)
    t = torch.tensor([0.1, 0.5, 0.95])
    z_t = faithful.process.add_noise(z_0, noise_like(z_0), t, condition.y)

    rotated = dct.condition(inputs)
    torch.testing.assert_close(rotated.y, dct.codec.rotate(condition.y))
    assert (rotated.y - condition.y).abs().max() > 0.1
    expected = faithful.predict(z_t, t, condition)
    prediction = dct.predict(dct.codec.rotate(z_t), t, rotated)
    sample = dct.codec.unrotate(prediction.sample)
    epsilon = dct.codec.unrotate(prediction.epsilon)
    torch.testing.assert_close(sample, expected.sample, atol=1e-4, rtol=0)
    torch.testing.assert_close(epsilon, expected.epsilon, atol=1e-3, rtol=0)


def test_the_rotation_is_orthonormal() -> None:
    codec = FaithfulDct().codec
    image = torch.rand(1, 3, 8, 12, generator=seeded()) * 2 - 1
    latent = codec.encode(image)
    torch.testing.assert_close(codec.decode(latent), image)
    # Latents are twice the pixels.
    expected = 4 * image.square().sum().item()
    assert latent.square().sum().item() == pytest.approx(expected, rel=1e-5)


def test_the_rotation_separates_frequencies() -> None:
    codec = FaithfulDct().codec
    flat = codec.encode(torch.full((1, 3, 4, 4), 0.5)).view(3, 16)
    torch.testing.assert_close(flat[:, 0], torch.full((3,), 2 * 0.5 * 4))
    assert flat[:, 1:].abs().max() < 1e-6
    horizontal_frequency = 2
    wave = torch.cos(torch.pi * (2 * torch.arange(4.0) + 1) * horizontal_frequency / 8)
    latent = codec.encode(wave.expand(1, 3, 4, 4)).view(3, 16)
    assert latent.abs().argmax(1).tolist() == [horizontal_frequency] * 3


@pytest.mark.parametrize("spec", distillkit_students(), ids=lambda spec: spec.name)
def test_the_student_starts_as_the_realistic_teacher_and_shares_nothing_with_it(
    spec: StudentSpec, pairs: tuple[Tensor, Tensor]
) -> None:
    teacher = build(spec.name.replace("student", "realistic"))
    student = spec.create(spec.config())
    assert isinstance(student, Realistic)
    assert student.codec.space == teacher.codec.space
    assert student.scale == teacher.scale
    assert not storages(student) & storages(teacher)
    inputs = ModelInput(pairs[0])
    latent = student.generate(student.condition(inputs))
    assert torch.equal(latent, teacher.generate(teacher.condition(inputs)))
    latent.sum().backward()
    assert all(parameter.grad is not None for parameter in student.network.parameters())
    assert student.network.get_submodule(student.head).out_channels == 48


def storages(model: DiffusionModel) -> set[int]:
    return {parameter.data_ptr() for parameter in model.parameters()}


def test_weights_are_shipped() -> None:
    paths = set()
    for spec in TEACHERS.values():
        for file in spec.config().weight_files():
            assert file.find()
            paths.add(file.path)
    assert sum(path.stat().st_size for path in paths) < 8e6


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights = load_file(RealisticOptions().weights.path)
    renamed = {name.replace("middle", "center"): value for name, value in weights.items()}
    save_file(renamed, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="another architecture"):
        build("faithful", weights=tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no such weight file"):
        build("realistic", weights=tmp_path / "none.safetensors")


@pytest.mark.parametrize("card", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_a_card_is_that_of_its_weights(card: Path) -> None:
    weights = card.with_suffix(".safetensors").read_bytes()
    assert json.loads(card.read_text())["sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("task", sorted(TRAINING_SETUPS))
def test_the_teachers_are_what_their_names_say(task: str) -> None:
    if task == "lle":
        pytest.importorskip("distillkit_lowlight", reason=LOW_LIGHT)
    metrics = {name: use for name, use in METRICS[task].items() if name != "ST-LPIPS-VGG"}
    faithful, realistic = (build(name) for name in TRAINING_SETUPS[task].names)
    lq, gt = evaluation_crops(task)
    measured = measure(faithful, realistic, (lq[::5], gt[::5]), metrics)
    guess = TRAINING_SETUPS[task].task.guess_name

    def mean(method: str, metric: str) -> float:
        return measured[method][metric].mean().item()

    *fidelities, distance = metrics
    for metric in fidelities:
        assert mean("faithful", metric) > mean("realistic", metric)
        assert mean("faithful", metric) > mean(guess, metric)
    assert mean("realistic", distance) < mean("faithful", distance) < mean(guess, distance)
