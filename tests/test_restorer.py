"""The restorer: every kind of image, tiles without seams, bounded memory, shared passes, colors."""

import io
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from toy_models import ToyModel

from distillkit import DistillkitError, Restorer
from distillkit.adapters import add_adapter
from distillkit.errors import DataError, PluginError
from distillkit.inference.interpolation import plan_interpolation
from distillkit.inference.student import Student
from distillkit.objectives.adapter_scaling import AdapterScaling
from distillkit.objectives.ctsr import CtsrEq8
from distillkit.objectives.oftsr import Oftsr

RNG = np.random.default_rng(0)


class Counting(ToyModel):
    """Counts what is asked of it, and draws a little noise."""

    conditions = passes_made = 0
    strength = 0.05

    def condition(self, inputs):
        self.conditions += 1
        return super().condition(inputs)

    def generate(self, condition, generator=None):
        self.passes_made += 1
        return super().generate(condition, generator) + self.strength * torch.randn(
            condition.y.shape, generator=generator
        )


def student_of(model, variant=AdapterScaling):
    if variant is Oftsr:
        made = Oftsr(model)
    else:
        adapter = add_adapter(model.network, "lora", rank=2)
        made = variant(model, adapter)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in made.tensors().values():
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=g))
    model.requires_grad_(False).eval()
    return Student(model, made)


@pytest.fixture
def restorer():
    return Restorer(student_of(ToyModel()))


def textured(height, width, channels=3):
    """Fine texture, gradients and hard edges, uint8."""
    y, x = np.mgrid[:height, :width]
    waves = (
        np.sin(x[..., None] / (3 + np.arange(channels)) + y[..., None] / 7) * 40
        + (x + y)[..., None] % 90
    )
    waves[height // 3 : height // 2, width // 4 :] += 80
    return (waves + RNG.normal(0, 6, (height, width, channels)) + 60).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("mode", "out"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "LA"),
        ("RGB", "RGB"),
        ("RGBA", "RGBA"),
        ("P", "RGB"),
        ("CMYK", "RGB"),
        ("I;16", "I;16"),
    ],
)
def test_pil_images_keep_their_mode(restorer, mode, out):
    picture = (
        Image.fromarray(textured(9, 13)[..., 0].astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(textured(9, 13))
    )
    restored = restorer(picture if mode == "I;16" else picture.convert(mode))
    assert restored.mode == out and restored.size == (26, 18)


def test_opacity_is_enlarged_and_leaves_the_colors_alone(restorer):
    array = np.concatenate(
        [textured(12, 10), np.tile(np.linspace(1, 255, 10, dtype=np.uint8), (12, 1))[..., None]],
        axis=2,
    )
    restored, opaque = restorer(array), restorer(array[..., :3])
    assert np.array_equal(restored[..., :3], opaque)
    expected = Image.fromarray(array[..., 3]).resize((20, 24), Image.Resampling.BICUBIC)
    assert np.array_equal(restored[..., 3], np.asarray(expected))
    assert np.array_equal(np.asarray(restorer(Image.fromarray(array))), restored)


def test_sixteen_bits_agree_with_eight_and_are_finer(restorer):
    array = textured(16, 16)
    by_8, by_16 = restorer(array), restorer(array.astype(np.uint16) * 257)
    assert by_16.dtype == np.uint16 and len(np.unique(by_16)) > len(np.unique(by_8))
    assert np.abs(by_16 / 257 - by_8).max() <= 0.5 + 1e-3


def test_orientation_is_applied(restorer):
    picture = Image.fromarray(textured(8, 14))
    exif = picture.getexif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    turned = restorer(file.getvalue())
    assert turned.size == (16, 28)
    assert np.array_equal(np.asarray(turned), restorer(np.rot90(np.asarray(picture), -1).copy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tensors_keep_shape_and_type(restorer, dtype, channels):
    values = torch.from_numpy(textured(6, 7, channels)).permute(2, 0, 1)
    image = values if dtype == torch.uint8 else (values / 255).to(dtype)
    restored = restorer(image)
    assert (
        restored.dtype == dtype
        and restored.shape == (channels, 12, 14)
        and restored.is_contiguous()
    )


def test_a_batch_is_its_images_one_by_one(restorer):
    batch = torch.rand(3, 3, 8, 9)
    together = restorer(batch, 0.4)
    assert together.shape == (3, 3, 16, 18) and all(
        torch.equal(together[i], restorer(batch[i], 0.4)) for i in range(3)
    )
    pictures = [Image.fromarray(textured(5, 6)), Image.fromarray(textured(7, 4)).convert("L")]
    restored = restorer(pictures, [0.0, 1.0])
    assert [[p.size for p in column] for column in restored] == [[(12, 10), (8, 14)]] * 2
    assert np.array_equal(np.asarray(restored[1][0]), np.asarray(restorer(pictures[0], 1.0)))
    assert restorer([]) == [] and restorer([], [0.0, 1.0]) == [[], []]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (torch.full((3, 8, 8), float("nan")), "not finite"),
        (np.full((8, 8, 3), np.inf), "not finite"),
        (torch.zeros(3, 0, 8), "no pixels: 8 x 0"),
        (torch.rand(3, 8, 8) * 255, "float images are in"),
        (torch.rand(2, 8, 8), "expected a tensor"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "expected a tensor"),
        (np.zeros((8, 8, 3), np.int32), "expected an array"),
        (np.zeros((2, 8, 8, 3), np.uint8), "expected an array"),
        (Image.new("F", (4, 4)), "32-bit"),
        (None, "got a NoneType"),
        (b"", "not an image of a known format"),
    ],
)
def test_what_is_no_image_is_refused_in_words(restorer, bad, what):
    with pytest.raises(DataError, match=what):
        restorer(bad)


@pytest.mark.parametrize("tradeoff", [float("nan"), [0.0, float("inf")], "much"])
def test_a_tradeoff_is_a_finite_number(restorer, tradeoff):
    with pytest.raises(DistillkitError, match="from 0 to 1, not (nan|inf|much)$"):
        restorer(textured(4, 4), tradeoff)


def test_the_text_of_a_number_is_that_number_and_no_list(restorer):
    image = textured(4, 4)
    assert np.array_equal(restorer(image, "1"), restorer(image, 1.0))


@pytest.mark.parametrize(("variant", "nfe"), [(AdapterScaling, 3), (CtsrEq8, 1), (Oftsr, 1)])
def test_tradeoffs_share_what_they_can_and_change_nothing(variant, nfe):
    """The condition is made once, and so is z_0 of the variants that take two passes."""
    model = Counting()
    restorer = Restorer(student_of(model, variant))
    image, tradeoffs = textured(16, 20), [0.0, 0.3, 1.0]
    separately = [restorer(image, t, seed=7) for t in tradeoffs]
    model.conditions = model.passes_made = 0
    together = restorer(image, tradeoffs, seed=7)
    assert all(np.array_equal(a, b) for a, b in zip(together, separately, strict=True))
    assert (model.conditions, model.passes_made) == (1, nfe)
    assert not np.array_equal(together[0], together[2])


@pytest.mark.parametrize(("variant", "nfe"), [(AdapterScaling, 3), (Oftsr, 1)])
def test_nodes_spare_passes_and_are_exact_themselves(variant, nfe):
    model = Counting()
    student, image, tradeoffs = (
        student_of(model, variant),
        textured(60, 20),
        [0.0, 0.2, 0.5, 0.7, 0.9, 1.0],
    )
    exact = Restorer(student, tile=32)(image, tradeoffs, seed=7)
    model.passes_made = 0
    restorer = Restorer(student, tile=32, interpolation_nodes=3)
    few = restorer(image, tradeoffs, seed=7)
    assert model.passes_made == 2 * nfe
    assert all(np.array_equal(exact[i], few[i]) for i in (0, 2, 5))
    floats = [x.astype(np.float32) / 255 for x in (exact[0], exact[2], exact[5])]
    parabola = 0.48 * floats[0] + 0.64 * floats[1] - 0.12 * floats[2]
    assert np.abs(parabola * 255 - few[1]).max() <= 0.5 + 0.7
    assert np.array_equal(restorer(image, 0.2, seed=7), exact[1])
    assert np.array_equal(restorer(image, tradeoffs[1:4], seed=7)[0], exact[1])


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_nodes_reproduce_polynomials(nodes):
    wanted = [0.0, 0.1, 0.35, 0.5, 0.8, 1.0]
    at, weights = plan_interpolation(wanted, nodes)
    assert len(at) == nodes and at[0] == 0 and at[-1] == 1
    for degree in range(nodes):
        values = np.asarray(weights) @ np.asarray(at) ** degree
        assert np.allclose(values, np.asarray(wanted) ** degree, atol=1e-12)


def test_nodes_that_make_no_sense_are_refused_and_without_a_knob_there_are_none(toys):
    with pytest.raises(DistillkitError, match="interpolation nodes are 2 to 5, not 1"):
        Restorer(student_of(ToyModel()), interpolation_nodes=1)
    plain = Restorer.from_model("toy/restorer", interpolation_nodes=2)
    assert len(plain(textured(4, 4), [None, 0.0, 0.0])) == 3
    with pytest.raises(DistillkitError, match="has a fixed tradeoff, 0"):
        plain(textured(4, 4), [0.0, 0.1, 0.2])


def test_a_bar_counts_the_rows_of_an_image_in_tiles(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    monkeypatch.setattr("distillkit.console.BAR_DELAY", 0.0)
    student = student_of(ToyModel())
    Restorer(student, tile=32, progress=True)(textured(30, 30))
    Restorer(student, tile=32)(textured(60, 20))
    assert capsys.readouterr().err == ""
    Restorer(student, tile=32, progress=True)(textured(60, 20))
    assert "/60 [" in capsys.readouterr().err


def test_each_tile_is_reported_and_a_report_may_end_the_call():
    reports = []
    restorer = Restorer(student_of(ToyModel()), tile=32, on_tile=lambda *r: reports.append(r))
    restorer(textured(60, 20))
    restorer(textured(60, 60), [0.0, 0.5])
    small, large = reports[0][1], reports[-1][1]
    counted = [(i + 1, tiles) for tiles in (small, large) for i in range(tiles)]
    assert 1 < small < large and reports == counted

    def stop(done, tiles):
        raise KeyboardInterrupt

    restorer.on_tile = stop
    with pytest.raises(KeyboardInterrupt):
        restorer(textured(60, 20))


def test_all_tiles_of_one_tradeoff_are_made_by_the_same_merged_weights():
    model, seen = ToyModel(), []
    student = student_of(model)
    model.network.first.base_layer.register_forward_hook(
        lambda layer, *_: seen.append(layer.weight)
    )
    Restorer(student, tile=32, overlap=8)(textured(80, 80), 0.5)
    assert len(seen) > 4 and all(weight is seen[0] for weight in seen)
    assert seen[0] is not model.network.first.base_layer.weight


def test_merged_at_a_tradeoff_images_are_the_same_and_nothing_else_is_restored(restorer):
    image = textured(8, 8)
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    alone = restorer(image, 0.5)
    with restorer.merged_at(0.5):
        assert np.array_equal(restorer(image, 0.5), alone)
        assert np.array_equal(restorer(image, np.full((8, 8), 0.5)), alone)
        for other in (0.25, ramp, [0.5, 1.0]):
            with pytest.raises(DistillkitError, match="merged at 0.5: they"):
                restorer(image, other)
    assert np.array_equal(restorer(image, 0.5), alone)
    for several in (ramp, [0.0, 0.5]):
        with restorer.merged_at(several):
            restorer(image, 0.25)
    with pytest.raises(DistillkitError, match="tradeoff"):
        restorer.merged_at(2.0)


@pytest.mark.parametrize("tradeoff", [0.5, np.linspace(0, 1, 1600).reshape(40, 40)])
def test_bfloat16_stays_within_a_gray_level_on_average(restorer, monkeypatch, tradeoff):
    # torch imitates it on other CPUs.
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    image = textured(40, 40)
    exact = restorer(image, tradeoff).astype(int)
    computed_in = set()
    restorer.student.model.network.first.base_layer.register_forward_hook(
        lambda layer, inputs, output: computed_in.add(output.dtype)
    )
    restorer.compute_in_bfloat16()
    rounded = restorer(image, tradeoff)
    assert computed_in == {torch.bfloat16}
    assert rounded.dtype == np.uint8
    difference = np.abs(rounded - exact)
    assert 0 < difference.mean() < 1
    assert difference.max() <= 8


def test_bfloat16_is_refused_where_it_would_be_imitated(restorer, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    image = textured(8, 8)
    exact = restorer(image)
    with pytest.raises(DistillkitError, match="^precision bf16 - cpu does not compute in bfloat16"):
        restorer.compute_in_bfloat16()
    assert np.array_equal(restorer(image), exact)


@pytest.mark.parametrize("size", [(150, 97), (64, 300), (33, 33)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_tiles_leave_no_seam(size, kind):
    """The toy sees two pixels far: blended over eight, only the rims of the tiles may differ."""
    student = student_of(ToyModel())
    image = textured(*size) if kind == np.uint8 else textured(*size).astype(np.float32) / 255
    whole = Restorer(student, tile=1000)(image, 0.5).astype(np.float64)
    tiled = Restorer(student, tile=32, overlap=8)(image, 0.5).astype(np.float64)
    unit = 255 if kind == np.uint8 else 1
    assert np.abs(whole - tiled).max() / unit < 0.02 and np.abs(whole - tiled).mean() / unit < 5e-4


def test_draws_depend_on_where_a_tile_is_not_on_what_was_done_before():
    restorer = Restorer(student_of(Counting()), tile=16, overlap=4)
    flat = np.full((40, 40, 3), 128, np.uint8)
    first = restorer(flat, seed=3)
    assert np.array_equal(first, restorer(flat, seed=3)) and not np.array_equal(
        first, restorer(flat, seed=4)
    )
    assert not np.array_equal(first[:16, :16], first[24:40, 24:40])


def test_memory_is_bounded_by_a_row_of_tiles():
    """Of NumPy's memory; a tensor is never larger than a row of tiles."""
    sizes = []

    class Watched(ToyModel):
        def condition(self, inputs):
            sizes.append(inputs.lq.numel())
            return super().condition(inputs)

    restorer = Restorer(student_of(Watched()), tile=32, overlap=4)

    def peak(height):
        image = np.zeros((height, 40, 3), np.uint8)
        tracemalloc.start()
        restorer(image)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top - 4 * image.nbytes  # less the result

    peak(64)
    assert peak(1600) < peak(200) + 200_000 and max(sizes) <= 3 * 32 * 32


class Greedy(ToyModel):
    """Has memory for so many input pixels."""

    limit = 40**2
    error: BaseException = torch.OutOfMemoryError("CUDA out of memory")

    def condition(self, inputs):
        if inputs.lq.shape[2] * inputs.lq.shape[3] > self.limit:
            raise self.error
        return super().condition(inputs)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_tile_and_says_so(error):
    model = Greedy()
    model.error = error
    restorer = Restorer(student_of(model), tile=128)
    image = textured(100, 90)
    with pytest.warns(RuntimeWarning, match="continuing with tiles of"):
        restored = restorer(image)
    assert restorer.tile**2 <= model.limit and restored.shape == (200, 180, 3)
    assert np.array_equal(restored, restorer(image))


def test_too_little_memory_for_any_tile_is_an_error():
    model = Greedy()
    model.limit = 4
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(DistillkitError, match="smaller tiles would not help"),
    ):
        Restorer(student_of(model), tile=128)(textured(100, 90))


def test_a_model_that_fails_is_named_and_the_size_with_it():
    class Broken(ToyModel):
        def condition(self, inputs):
            raise ValueError("no such layer")

    with pytest.raises(
        PluginError, match="Broken failed on an input of 9 x 8 pixels: ValueError: no such layer"
    ):
        Restorer(student_of(Broken()))(textured(8, 9))


def test_a_result_that_is_not_finite_is_an_error():
    model = ToyModel()
    student = student_of(model)
    with torch.no_grad():
        model.network.last.bias.fill_(float("nan"))
    with pytest.raises(DistillkitError, match="not finite"):
        Restorer(student)(textured(8, 8))


def test_registered_models_restore_too(toys):
    array = textured(8, 8)
    by_teacher = Restorer.from_model("toy/faithful", {"seed": 3})(array)
    assert by_teacher.shape == (16, 16, 3) and not np.array_equal(
        by_teacher, Restorer.from_model("toy/faithful", {"seed": 4})(array)
    )
    assert (
        Restorer.from_model("toy/restorer")(array).shape == (16, 16, 3)
        and Restorer.from_model("toy/student").scale == 2
    )
    with pytest.raises(DistillkitError, match="has a fixed tradeoff, 0"):
        Restorer.from_model("toy/faithful")(array, 0.5)
    with pytest.raises(PluginError, match='did you mean "toy/faithful"'):
        Restorer.from_model("toy/faithfull")
    with pytest.raises(PluginError, match="sed - unknown key; did you mean"):
        Restorer.from_model("toy/faithful", {"sed": 3})


def test_a_device_or_a_repository_that_is_not_there_is_said(toys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DistillkitError, match="device abacus cannot be used"):
        Restorer.from_model("toy/faithful", device="abacus")
    with pytest.raises(DistillkitError, match="nowhere - no such folder; give a run.s folder"):
        Restorer.from_pretrained("nowhere")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no route")),
    )
    with pytest.raises(
        DistillkitError,
        match="me/student - no such folder, .* not on the Hub: no route",
    ):
        Restorer.from_pretrained("me/student")


@pytest.mark.parametrize("how", ["adain", "wavelet"])
def test_colors_are_fixed_on_the_whole_image_also_when_it_is_tiled(how):
    student, image = student_of(ToyModel()), textured(90, 70)
    whole, tiled = (
        Restorer(student, tile=t, overlap=8, color_fix=how)(image).astype(int) for t in (500, 32)
    )
    assert np.abs(whole - tiled).mean() < 0.2
    plain = Restorer(student, tile=500)(image)
    assert (
        np.abs(whole.mean((0, 1)) - image.mean((0, 1))).max()
        < np.abs(plain.mean((0, 1)) - image.mean((0, 1))).max()
    )
