"""OSEDiff and its base model at toy size: predictions, gradients and prompts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from distillkit import DistillkitError, ModelInput, Restorer
from distillkit.inference.color import fix_colors
from distillkit.inference.student import Student
from distillkit_superres import distillkit_students, distillkit_teachers
from distillkit_superres.osediff import text
from distillkit_superres.osediff.architecture import make_text
from distillkit_superres.osediff.build import build_osediff, build_sd21_base
from distillkit_superres.osediff.model import enlarge
from distillkit_superres.osediff.options import (
    OSEDiffOptions,
    SD21BaseOptions,
)
from distillkit_superres.osediff.sizes import ARCHITECTURES
from distillkit_superres.osediff.text import (
    PromptEncoder,
    PromptPerImage,
    find_tagger,
    read_tokenizer,
)
from distillkit_superres.osediff.tiling import denoise_tiled

TEACHERS = {spec.name: spec for spec in distillkit_teachers()}


@pytest.fixture(scope="module")
def model():
    return build_osediff(OSEDiffOptions(size="tiny")).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base():
    return build_sd21_base(SD21BaseOptions(size="tiny")).eval().requires_grad_(False)


@pytest.fixture
def lq():
    return torch.rand(2, 3, 18, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_restores_at_four_times_the_size(model, lq):
    restored = model.restore(ModelInput(lq))
    assert restored.shape == (2, 3, 72, 64)
    assert restored.isfinite().all()
    assert restored.abs().max() <= 1
    second = model.restore(ModelInput(lq[1:]))
    torch.testing.assert_close(second, restored[1:], atol=1e-4, rtol=0)


def test_generate_carries_the_gradient_of_the_network_and_of_nothing_else(lq):
    model = build_osediff(OSEDiffOptions(size="tiny"))
    model.generate(model.condition(ModelInput(lq))).square().mean().backward()
    with_gradient = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"network"}
    assert model.network.conv_in.weight.grad.abs().max() > 0


def test_input_is_encoded_once_and_only_for_a_restoration(model, lq, monkeypatch):
    calls = []
    forward = model.lq_encoder.forward

    def counted(image):
        calls.append(image.shape)
        return forward(image)

    monkeypatch.setattr(model.lq_encoder, "forward", counted)
    condition = model.condition(ModelInput(lq))
    model.predict(torch.randn(2, 4, 9, 8), torch.tensor([3, 700]), condition)
    assert calls == []
    model.generate(condition)
    model.generate(condition)
    assert calls == [(2, 3, 72, 64)]


def test_inputs_and_truth_have_encoders_of_their_own(model, base, lq):
    image = enlarge(lq, 4)
    assert model.codec.space == base.codec.space
    torch.testing.assert_close(model.codec.encode(image), base.codec.encode(image))
    tuned = model.condition(ModelInput(lq)).extra["latent"]()
    assert (tuned - model.codec.encode(image)).abs().max() > 1e-3


def test_one_step_is_the_clean_prediction_at_the_last_time(model, lq):
    condition = model.condition(ModelInput(lq))
    z = condition.extra["latent"]()
    prediction = model.predict(z, torch.full((2,), 999), condition)
    torch.testing.assert_close(model.generate(condition), prediction.sample)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_one_step_ignores_mixed_precision(model, lq, precision):
    """It divides by 0.068, and every rounding with it."""
    expected = model.generate(model.condition(ModelInput(lq)))
    with torch.autocast("cpu", precision):
        condition = model.condition(ModelInput(lq))
        assert model.generate(condition).equal(expected)
        scored = model.predict(torch.randn(2, 4, 9, 8), torch.tensor([3, 700]), condition)
    assert scored.epsilon.dtype == precision, "scores are computed in mixed precision"


def test_large_latents_are_denoised_in_tiles(lq):
    model = build_osediff(OSEDiffOptions(size="tiny")).eval().requires_grad_(False)
    condition = model.condition(ModelInput(lq))
    at_once = model.generate(condition)
    model.tile = 8
    model.tile_overlap = 4
    assert (model.generate(condition) - at_once).abs().max() > 0


def test_weights_of_overlapping_tiles_sum_to_1():
    latent = torch.arange(2 * 4 * 9 * 8.0).view(2, 4, 9, 8)
    tripled = denoise_tiled(lambda z: 3 * z, latent, tile=4, overlap=2)
    torch.testing.assert_close(tripled, 3 * latent)


def test_seed_makes_the_toy_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = [build_osediff(OSEDiffOptions(size="tiny", seed=seed)) for seed in (0, 0, 1)]
    assert torch.rand(3).equal(expected)
    a, b, c = (m.state_dict() for m in models)
    assert all(a[k].equal(b[k]) for k in a)
    assert not a["network.conv_in.weight"].equal(c["network.conv_in.weight"])
    assert models[0].codec.space == models[1].codec.space != models[2].codec.space


def test_enlarging_is_bicubic_as_pil_does_it():
    image = np.random.default_rng(0).integers(80, 176, (12, 10, 3), dtype=np.uint8)
    by_pil = np.asarray(Image.fromarray(image).resize((40, 48), Image.Resampling.BICUBIC))
    lq = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    enlarged = (enlarge(lq, 4)[0] + 1) * 127.5
    difference = enlarged.permute(1, 2, 0).numpy() - by_pil.astype(np.float32)
    # PIL rounds (and clips, which does not come up here) between rows and columns.
    assert np.abs(difference).max() <= 1


def test_guidance_leads_away_from_the_negative_prompt(base, lq):
    guided = build_sd21_base(SD21BaseOptions(size="tiny", guidance=7.5))
    guided.eval().requires_grad_(False)
    z = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([20, 979])
    condition = guided.condition(ModelInput(lq))
    plain = base(z, t, condition)
    # Both prompts are empty so far.
    torch.testing.assert_close(guided(z, t, condition), plain, atol=1e-5, rtol=0)
    other = torch.randn(guided.negative.shape, generator=torch.Generator().manual_seed(2))
    guided.negative = other
    negative = base.network(z, t, other.expand(2, -1, -1)).sample
    expected = negative + 7.5 * (plain - negative)
    # Guidance enlarges rounding 15 times.
    torch.testing.assert_close(guided(z, t, condition), expected, atol=1e-4, rtol=0)


def test_base_model_is_a_score_only(base, lq):
    assert TEACHERS["osediff"].capabilities == {"score", "output"}
    assert TEACHERS["sd21-base"].capabilities == {"score"}
    condition = base.condition(ModelInput(lq))
    prediction = base.predict(torch.randn(2, 4, 9, 8), torch.tensor([5, 900]), condition)
    assert prediction.sample.shape == prediction.epsilon.shape == (2, 4, 9, 8)
    with pytest.raises(DistillkitError, match="restores nothing"):
        base.restore(ModelInput(lq))


@pytest.mark.parametrize("fix", ["adain", "wavelet"])
def test_a_restorer_gives_results_the_colors_of_their_inputs(fix):
    y, x = torch.meshgrid(torch.linspace(0.2, 0.7, 24), torch.linspace(0.1, 0.5, 16), indexing="ij")
    image = torch.stack([x, y, x * y])
    model = build_osediff(OSEDiffOptions(size="tiny")).requires_grad_(False)
    restored = model.restore(ModelInput(image[None] * 2 - 1)) * 0.5 + 0.5
    fixed = restored[0].permute(1, 2, 0).numpy().copy()
    fix_colors(fixed, image.permute(1, 2, 0).numpy(), fix)
    wanted = torch.from_numpy(fixed).permute(2, 0, 1)
    restorer = Restorer(Student(model, None), color_fix=fix)
    assert (restorer(image) - wanted).abs().max() < 2 / 255
    assert (restored[0] - wanted).abs().max() > 5 / 255


def test_descriptors_build_what_they_say(lq):
    for spec in (TEACHERS["osediff"], TEACHERS["sd21-base"], *distillkit_students()):
        config = spec.config(size="tiny")
        assert config.weight_files() == ()
        model = spec.create(config)
        assert (model.scale, model.size_multiple, model.prediction_type) == (4, 2, "epsilon")
        assert model.network.get_submodule(model.head).out_channels == 4


# prompts


def toy_tokenizer(folder, encoder):
    config = encoder.network.config
    letters = ["!", *"dogcat,", "do"]
    ends = [letter + "</w>" for letter in letters]
    tokens = dict.fromkeys(letters + ends)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    vocabulary |= {"<|startoftext|>": config.bos_token_id, "<|endoftext|>": config.eos_token_id}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nd o\n")
    return read_tokenizer(folder)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return PromptEncoder(make_text(ARCHITECTURES["tiny"].text).eval())


def test_empty_prompt_needs_no_tokenizer_and_has_its_tokens(encoder, tmp_path):
    without = encoder(["", ""])
    assert without.shape == (2, 8, 16)
    encoder.tokenizer = toy_tokenizer(tmp_path, encoder)
    ids = encoder.tokenizer([""], padding="max_length", max_length=8, return_tensors="pt").input_ids
    assert ids.tolist() == [[62, 63, 0, 0, 0, 0, 0, 0]]
    torch.testing.assert_close(encoder.network(input_ids=ids).last_hidden_state[0], without[0])


def test_prompt_without_tokenizer_is_refused(encoder):
    with pytest.raises(DistillkitError, match="'dog' needs a tokenizer"):
        encoder(["", "dog"])


def test_texts_are_padded_with_token_0_and_cut(encoder, tmp_path):
    encoder.tokenizer = toy_tokenizer(tmp_path, encoder)
    ids = encoder._token_ids(["cat", "", "dogcatdogcat"])
    assert ids.shape == (3, 8)
    assert ids[0, 4:].tolist() == [63, 0, 0, 0]
    assert ids[1].tolist() == [62, 63, 0, 0, 0, 0, 0, 0]
    assert ids[2, -1] == 63
    assert not encoder(["cat"]).equal(encoder(["dog"]))


def test_tags_make_a_prompt_of_each_image(encoder, tmp_path, lq):
    encoder.tokenizer = toy_tokenizer(tmp_path, encoder)
    seen = []

    def tagger(image):
        seen.append(image)
        return ["cat", "dog"]

    tags = PromptPerImage(encoder, tagger=tagger)
    torch.testing.assert_close(tags(lq, [None, None]), encoder(["cat", "dog"]))
    assert seen[0] is lq
    tags_and_prompt = PromptPerImage(encoder, "a", tagger)
    torch.testing.assert_close(tags_and_prompt(lq, [None, None]), encoder(["cat, a", "dog, a"]))


def write_do(image):
    """A tagger."""
    return ["do", "do"]


def test_captions_come_before_tags_and_the_prompt(encoder, tmp_path, lq):
    encoder.tokenizer = toy_tokenizer(tmp_path, encoder)

    def assert_embeds(prompt, captions, texts):
        torch.testing.assert_close(prompt(lq, captions), encoder(texts))

    captions = ["cat", None]
    assert_embeds(PromptPerImage(encoder, "a", captions=True), captions, ["cat, a", "a"])
    tagged = PromptPerImage(encoder, "a", write_do, captions=True)
    assert_embeds(tagged, captions, ["cat, a", "do, a"])
    without_captions = PromptPerImage(encoder, "a", write_do)
    assert_embeds(without_captions, captions, ["do, a", "do, a"])
    assert_embeds(PromptPerImage(encoder, captions=True), ["cat", ""], ["cat", ""])


def test_the_model_takes_the_captions_of_its_input(encoder, tmp_path, lq):
    encoder.tokenizer = toy_tokenizer(tmp_path, encoder)
    model = build_osediff(OSEDiffOptions(size="tiny"))
    model.prompt = PromptPerImage(encoder, "a", captions=True)
    condition = model.condition(ModelInput(lq, captions=["cat", None]))
    torch.testing.assert_close(condition.extra["prompt"], encoder(["cat, a", "a"]))
    condition = model.condition(ModelInput(lq))
    torch.testing.assert_close(condition.extra["prompt"], encoder(["a", "a"]))


def test_taggers_are_found_by_entry_point(monkeypatch):
    ram = SimpleNamespace(name="ram", load=lambda: make_tagger)

    def make_tagger():
        return "the tagger"

    def entry_points(group):
        return [ram] if group == "distillkit_superres.taggers" else []

    monkeypatch.setattr(text, "entry_points", entry_points)
    assert find_tagger("ram") == "the tagger"
    with pytest.raises(DistillkitError, match=r"tagger 'dape' .*offered: ram"):
        find_tagger("dape")


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (OSEDiffOptions, {"size": "tiny", "prompt": "dog"}, "prompts must be empty"),
        (OSEDiffOptions, {"size": "tiny", "tagger": "ram"}, "prompts must be empty"),
        (OSEDiffOptions, {"size": "tiny", "captions": True}, "captions off"),
        (SD21BaseOptions, {"guidance": 7.5}, "give different texts"),
        (SD21BaseOptions, {"size": "tiny", "negative_prompt": "blur"}, "prompts must be empty"),
        (OSEDiffOptions, {"size": "tiny", "color_fix": "adain"}, "color_fix"),
    ],
)
def test_options_that_make_no_sense_are_refused(config, options, message):
    with pytest.raises(ValidationError, match=message):
        config(**options)
