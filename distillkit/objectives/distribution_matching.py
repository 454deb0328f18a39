"""Distribution matching: a separately trained score of the student's own images.

The first term of eq. 2 and 3 evaluates the student's *denoiser*, which is not the score of the
images that the student generates. Here a copy eps_phi of the teacher's denoiser, with an adapter,
is trained to denoise the student's latents z_s (the fake score), and z_s is pushed along

``w (z0_phi(z_t^s) - z0_T(z_t^s))``,  ``w = 1 / mean |z_s - z0_T(z_t^s)|``

which is 0 where both distributions agree (Wang et al. 2023, VSD; Yin et al. 2024, DMD and DMD2,
whose normalization w is). Several updates of the fake score for each one of the student keep it
near the student's present distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit.adapters import add_adapter
from distillkit.adapters.shared_storage import share_storage
from distillkit.diffusion.bridge import Bridge
from distillkit.diffusion.model import (
    Condition,
    DiffusionModel,
    ModelInput,
    RestorationModel,
    with_own_network,
)
from distillkit.objectives.critic import Critic, CriticSample
from distillkit.objectives.dual_teacher import StudentOutput
from distillkit.objectives.reconstruction import Losses


class FakeScore(Critic):
    """The fake score of one teacher, and the term that both give the student.

    Args:
        teacher: Frozen.
        student: The model whose latents are denoised.
        rank: The rank of the LoRA on the copy of the teacher's denoiser.
        learning_rate: The learning rate of the fake score.
        updates: Optimizer steps for each one of the student.
        seed: The seed of the LoRA.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        student: RestorationModel,
        *,
        rank: int,
        learning_rate: float,
        updates: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.updates = updates
        # in lists, so that they are no submodules: they are not trained here
        self._models = [(teacher, student)]
        self._fake_model = [with_own_network(teacher)]
        self.network = self._fake_model[0].network
        add_adapter(self.network, "lora", rank=rank, seed=seed)
        share_storage(self.network, teacher.network)

    def term(self, output: StudentOutput, inputs: ModelInput, generator: torch.Generator) -> Tensor:
        """Compute a scalar of value ``mean |w gap|^2`` whose gradient pushes z_s along the gap.

        Args:
            output: The output of the student.
            inputs: The teacher's.
            generator: A CPU generator for timesteps and noise.
        """
        teacher, student = self._models[0]
        with torch.no_grad():
            condition = teacher.condition(inputs)
        z_s = Bridge(student, teacher, condition).to_teacher(output.latent, output.image)
        with torch.no_grad():
            z_t, t = self._noised(z_s, condition, generator)
            real = teacher.predict(z_t, t, condition).sample
            fake = self._fake_model[0].predict(z_t, t, condition).sample
            size = (z_s - real).abs().mean(dim=(1, 2, 3), keepdim=True)
            gap = (fake - real) / size.clamp(min=1e-6)
        # DMD gives a gradient and no loss: the value is for the log alone, the gradient is the gap.
        push = (gap * z_s).mean()
        return gap.square().mean() + push - push.detach()

    def losses(self, sample: CriticSample, generator: torch.Generator) -> Losses:
        """Compute ``min(SNR, 1) |z0_phi(z_t^s) - z_s|^2``, a mean."""
        teacher, student = self._models[0]
        with torch.no_grad():
            condition = teacher.condition(sample.inputs)
            z_s = Bridge(student, teacher, condition).to_teacher(sample.latent, sample.image)
            z_t, t = self._noised(z_s, condition, generator)
        denoised = self._fake_model[0].predict(z_t, t, condition).sample
        # min(SNR, 1), as "clipped" weights eq. 2: nearly clean latents would count too much.
        weight = teacher.process.coefficients(t).ratio.clamp(max=1).square()
        return {"denoise": (weight * (denoised - z_s).square()).mean()}

    def _noised(
        self, z_s: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Noise the student's latent at random timesteps; return it and the timesteps."""
        process = self._models[0][0].process
        t = process.sample_timesteps(len(z_s), generator).to(z_s.device)
        noise = torch.randn(z_s.shape, generator=generator).to(z_s)
        return process.add_noise(z_s, noise, t, condition.y), t
