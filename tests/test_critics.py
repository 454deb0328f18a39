"""Networks trained beside the student: the discriminator, and the score of its own images."""

import pytest
import torch
from accelerate import Accelerator
from interruption import assert_resumed_equals_uninterrupted
from torch import nn
from toy_models import Enlarger, ToyModel

from distillkit import ModelInput
from distillkit.diffusion.model import Condition
from distillkit.objectives.adversarial import Adversarial
from distillkit.objectives.critic import Critic, CriticSample
from distillkit.objectives.distribution_matching import FakeScore
from distillkit.objectives.dual_teacher import StudentOutput
from distillkit.recipe.load import load_recipe
from distillkit.training.critics import CriticTrainer, find_failures


def draw_images(seed, side=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, side, side, generator=generator) * 2 - 1


def make_sample(image, gt=None, weight=1.0):
    gt = image if gt is None else gt
    return CriticSample(image, image, gt, ModelInput(image[..., ::2, ::2]), weight)


def make_adversarial(max_shift=0):
    return Adversarial(weight=0.1, channels=4, learning_rate=1e-2, max_shift=max_shift, seed=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_discriminator_has_the_hinge_loss():
    critic = make_adversarial()
    real, fake = draw_images(0), draw_images(1)
    losses = critic.losses(make_sample(fake, real, weight=0.5), generator())
    real_logits, fake_logits = critic.network(real), critic.network(fake)
    torch.testing.assert_close(losses["real"], 0.5 * (1 - real_logits).clamp(min=0).mean())
    torch.testing.assert_close(losses["fake"], 0.5 * (1 + fake_logits).clamp(min=0).mean())


def test_the_students_term_has_no_gradient_for_the_discriminator():
    critic = make_adversarial(max_shift=3)
    image = draw_images(0).requires_grad_()
    term = critic.term(image, generator())
    term.backward()
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())
    # A crop of 13 of 16 pixels, at the offset that was drawn.
    assert (image.grad.abs().sum(dim=(0, 1)) > 0).sum() == 13**2


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    make_adversarial()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_discriminator_learns_to_tell_and_says_that_it_wins():
    trainer = CriticTrainer(make_adversarial())
    fake, real = draw_images(0) * 0.05, draw_images(1)
    for _ in range(60):
        trainer.remember(make_sample(fake, real))
        values = trainer.update(Accelerator(cpu=True), lambda *_: generator())
    assert values["accuracy"] == 1
    assert values["detail"] < 0.1
    logged = {f"adversarial/critic/{name}": float(value) for name, value in values.items()}
    wins, collapse = find_failures(logged)
    assert "tells all patches apart" in wins.text
    assert "less detail" in collapse.text


def test_nothing_is_reported_while_both_are_even():
    values = {"adversarial/critic/accuracy": 0.6, "adversarial/critic/detail": 0.9, "loss": 1.0}
    assert list(find_failures(values)) == []


def test_a_step_without_samples_changes_no_critic():
    trainer = CriticTrainer(make_adversarial())
    before = {k: v.clone() for k, v in trainer.critic.state_dict().items()}
    trainer.remember(make_sample(draw_images(0), weight=0.0))
    trainer.update(Accelerator(cpu=True), lambda *_: generator())
    for name, value in trainer.critic.state_dict().items():
        assert torch.equal(value, before[name])


class Mean(Critic):
    """A critic that learns the mean of the images that it sees."""

    learning_rate = 1e-2

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(()))

    def losses(self, sample, generator):
        return {"square": (self.mean - sample.image.mean()).square()}


def test_the_split_of_a_batch_does_not_matter_to_a_critic():
    images = [draw_images(seed) for seed in range(4)]
    results = []
    for batches in ([torch.cat(images)], images):
        trainer = CriticTrainer(Mean())
        for _ in range(3):
            for batch in batches:
                trainer.remember(make_sample(batch))
            trainer.update(Accelerator(cpu=True), lambda *_: generator())
        results.append(trainer.critic.mean.detach())
    torch.testing.assert_close(*results)


def make_fake_score(teacher, student, **options):
    settings = {"rank": 4, "learning_rate": 1e-2, "updates": 1, "seed": 0}
    return FakeScore(teacher, student, **(settings | options))


def test_the_fake_score_starts_as_the_teachers_and_then_pushes_nowhere():
    teacher = ToyModel(seed=2).requires_grad_(False)
    fake_score = make_fake_score(teacher, Enlarger())
    image = draw_images(1).requires_grad_()
    output = StudentOutput(Condition(), image, image)
    term = fake_score.term(output, ModelInput(image.detach()[..., ::2, ::2]), generator())
    (push,) = torch.autograd.grad(term, image)
    assert term == 0
    assert not push.any()


def test_the_push_leads_from_the_fake_score_to_the_teachers():
    teacher = ToyModel(seed=2).requires_grad_(False)
    fake_score = make_fake_score(teacher, Enlarger())
    for name, parameter in fake_score.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    image = draw_images(1).requires_grad_()
    inputs = ModelInput(image.detach()[..., ::2, ::2])
    term = fake_score.term(StudentOutput(Condition(), image, image), inputs, generator())
    (push,) = torch.autograd.grad(term, image)

    draws = generator()
    t = teacher.process.sample_timesteps(2, draws)
    noise = torch.randn(image.shape, generator=draws)
    condition = teacher.condition(inputs)
    z_t = teacher.process.add_noise(image.detach(), noise, t, condition.y)
    with torch.no_grad():
        real = teacher.predict(z_t, t, condition).sample
        fake = fake_score._fake_model[0].predict(z_t, t, condition).sample
    size = (image.detach() - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(push, (fake - real) / size / image.numel())


def test_the_teacher_is_not_trained_with_its_copy():
    teacher = ToyModel(seed=2).requires_grad_(False)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    trainer = CriticTrainer(make_fake_score(teacher, Enlarger(), updates=3))
    losses = []
    for _ in range(20):
        trainer.remember(make_sample(draw_images(1)))
        values = trainer.update(Accelerator(cpu=True), lambda *_: generator())
        losses.append(float(values["denoise"]))
    assert losses[-1] < 0.7 * losses[0]
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


CRITICS = {
    "adversarial": ["stage1.adversarial={weight=0.1, channels=4, max_shift=1}"],
    "adversarial on the line": [
        "student={use='toy/enlarger'}",
        "stage1.teachers.fidelity.term='output'",
        "stage1.teachers.realness.term='output'",
        "stage2.target='line'",
        "stage2.line={perceptual_weight=0, adversarial={weight=0.1, channels=4, max_shift=1}}",
    ],
    "fake score": [
        "student={use='toy/enlarger'}",
        "stage1.teachers.fidelity.term='output'",
        "stage1.teachers.realness.term='distribution_matching'",
        "stage1.teachers.realness.fake_score={rank=2, updates=2}",
    ],
}


@pytest.mark.parametrize("name", CRITICS)
def test_interrupted_and_resumed_equals_uninterrupted(recipe, tmp_path, monkeypatch, name):
    """Bit for bit: the critics and their optimizers are in the checkpoints."""
    resolved = load_recipe(recipe, CRITICS[name])
    assert_resumed_equals_uninterrupted(resolved, tmp_path, monkeypatch, 3, 9)
    assert "critic" in (tmp_path / "whole/metrics.jsonl").read_text()
