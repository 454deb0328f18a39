"""Reading Stable Diffusion's and OSEDiff's files: layouts, key styles, and what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from distillkit import ModelInput, WeightFile, WeightsError
from distillkit_superres.osediff.architecture import make_random_networks
from distillkit_superres.osediff.build import build_osediff, build_sd21_base, make_random_osediff
from distillkit_superres.osediff.checkpoints import read_float32, read_osediff
from distillkit_superres.osediff.options import OSEDiffOptions, SD21BaseOptions
from distillkit_superres.osediff.sizes import ARCHITECTURES

TINY = ARCHITECTURES["tiny"]
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(autouse=True)
def toy_full_size(monkeypatch):
    """What is read from files is of toy size here."""
    monkeypatch.setitem(ARCHITECTURES, "full", TINY)


@pytest.fixture
def networks():
    return make_random_networks(TINY, seed=3)


def old_style(key):
    for new, old in OLD.items():
        key = key.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
    return key


def published(state):
    """A text encoder's tensors under the names of files, whichever transformers uses."""
    return {"text_model." + k.removeprefix("text_model."): v for k, v in state.items()}


def write_base(folder, networks, *, old=False):
    unet, vae, text = (n.state_dict() for n in networks)
    text = published(text)
    if old:
        vae = {old_style(k): v for k, v in vae.items()}
        text["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    folders = {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "pytorch_model" if old else "model",
    }
    for (part, stem), state in zip(folders.items(), (unet, vae, text), strict=True):
        (folder / part).mkdir(parents=True)
        if old:
            torch.save(state, folder / part / f"{stem}.bin")
        else:
            save_file(state, folder / part / f"{stem}.safetensors")
    return folder


def write_osediff(path, networks, **changes):
    c = make_random_osediff(networks, seed=4)
    lists = {
        f"{k}_modules": []
        for k in ("vae_lora_encoder", "unet_lora_encoder", "unet_lora_decoder", "unet_lora_others")
    }
    content = {"rank_unet": 4, "rank_vae": 4, "state_dict_unet": c.unet, "state_dict_vae": c.vae}
    torch.save(lists | content | changes, path)
    return path


@pytest.fixture
def config(tmp_path, networks):
    return OSEDiffOptions(
        folder=write_base(tmp_path / "sd", networks),
        checkpoint=write_osediff(tmp_path / "osediff.pkl", networks),
    )


def test_old_and_new_key_styles_load_alike(config, tmp_path, networks):
    old = write_base(tmp_path / "old", networks, old=True)
    assert any(
        "mid_block.attentions.0.proj_attn" in k
        for k in read_float32(old / "vae/diffusion_pytorch_model.bin")
    )
    a, b = build_osediff(config), build_osediff(config.model_copy(update={"folder": old}))
    assert all(v.equal(b.state_dict()[k]) for k, v in a.state_dict().items())
    inputs = ModelInput(torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(a.restore(inputs), b.restore(inputs))
    base = build_sd21_base(SD21BaseOptions(folder=old))
    assert all(v.equal(base.network.state_dict()[k]) for k, v in networks.unet.state_dict().items())
    assert all(
        v.equal(base.codec.network.vae.state_dict()[k])
        for k, v in networks.vae.state_dict().items()
    )


def test_every_tensor_has_memory_and_merging_leaves_the_files_alone(config):
    files = [f.path for f in config.weight_files()]
    before = [f.read_bytes() for f in files]
    model = build_osediff(config)
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert [f.read_bytes() for f in files] == before


def test_adapters_are_merged_at_alpha_over_rank(config, networks):
    model, checkpoint = build_osediff(config), read_osediff(config.checkpoint.path)
    linear, conv = (
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.resnets.0.conv1",
    )
    adapters = {
        k: checkpoint.unet[f"{k}.default_others.weight"]
        for k in (f"{m}.lora_{f}" for m in (linear, conv) for f in "AB")
    }
    base, merged = networks.unet.state_dict(), model.network.state_dict()
    expected = (
        base[f"{linear}.weight"] + 2 * adapters[f"{linear}.lora_B"] @ adapters[f"{linear}.lora_A"]
    )
    torch.testing.assert_close(merged[f"{linear}.weight"], expected)
    x = torch.randn(1, 32, 5, 5)
    torch.testing.assert_close(
        torch.conv2d(x, merged[f"{conv}.weight"]),
        torch.conv2d(x, base[f"{conv}.weight"])
        + 2 * torch.conv2d(torch.conv2d(x, adapters[f"{conv}.lora_A"]), adapters[f"{conv}.lora_B"]),
        atol=1e-4,
        rtol=1e-4,
    )
    assert merged["conv_in.bias"].equal(checkpoint.unet["conv_in.base_layer.bias"])
    assert merged["time_embedding.linear_1.weight"].equal(base["time_embedding.linear_1.weight"])
    half = build_osediff(config.model_copy(update={"lora_alpha": 4.0})).network.state_dict()
    torch.testing.assert_close(
        half[f"{linear}.weight"] * 2, base[f"{linear}.weight"] + merged[f"{linear}.weight"]
    )


def test_half_precision_files_are_read_in_full(config, networks, tmp_path):
    halves = {k: v.half() for k, v in networks.unet.state_dict().items()}
    save_file(halves, config.folder / "unet/diffusion_pytorch_model.safetensors")
    assert {p.dtype for p in build_osediff(config).parameters()} == {torch.float32}


def test_files_are_known_before_anything_is_read(tmp_path):
    hub = SD21BaseOptions(repo="someone/mirror", revision="abc")
    assert [(f.repo, f.revision, f.filename.split("/")[0]) for f in hub.weight_files()] == [
        ("someone/mirror", "abc", part) for part in ("unet", "vae", "text_encoder")
    ]
    prompted = OSEDiffOptions(folder=tmp_path, checkpoint=tmp_path / "osediff.pkl", prompt="dog")
    names = [f.path.relative_to(tmp_path).as_posix() for f in prompted.weight_files()]
    assert names[-3:] == ["tokenizer/vocab.json", "tokenizer/merges.txt", "osediff.pkl"]
    assert SD21BaseOptions(size="tiny").weight_files() == ()


def test_the_published_adapters_are_the_default_and_can_be_fetched(tmp_path):
    default, named, other, hub = (
        OSEDiffOptions(checkpoint=location).adapter_file()
        for location in (
            None,
            tmp_path / "osediff.pkl",
            tmp_path / "mine.pkl",
            {"repo": "owner/name", "filename": "x.pkl"},
        )
    )
    assert default.path.as_posix() == "weights/osediff.pkl"
    assert default.url == named.url and default.url.endswith(
        "/OSEDiff/raw/main/preset/models/osediff.pkl"
    )
    assert [f.fetchable for f in (default, named, other, hub)] == [True, True, False, True]


def test_missing_files_are_named(config, tmp_path):
    with pytest.raises(
        WeightsError,
        match=r"mine\.pkl - no such weight file; get it from .*cswry/OSEDiff.*Apache-2\.0",
    ):
        build_osediff(
            config.model_copy(update={"checkpoint": WeightFile(path=tmp_path / "mine.pkl")})
        )
    with pytest.raises(
        WeightsError,
        match=r"unet.*no such weight file; get it from a repository stable-diffusion-2-1-base",
    ):
        build_osediff(config.model_copy(update={"folder": tmp_path}))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def bad_checkpoints(networks, tmp_path):
    good = write_osediff(tmp_path / "good.pkl", networks).read_bytes()
    wider = TINY._replace(unet=TINY.unet | {"block_out_channels": [16, 64]})
    other = make_random_networks(wider, seed=0)
    fewer = make_random_osediff(networks, 4).unet
    del fewer["conv_in.base_layer.weight"]
    (tmp_path / "random.pkl").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "truncated.pkl").write_bytes(good[: len(good) // 2])
    evil = {"state_dict_unet": Evil(tmp_path / "it-ran")}
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(evil, protocol=2))
    torch.save(networks.unet.state_dict(), tmp_path / "plain.pkl")
    torch.save([1, 2], tmp_path / "list.pkl")
    write_osediff(tmp_path / "other.pkl", other)
    write_osediff(tmp_path / "fewer.pkl", networks, state_dict_unet=fewer)
    write_osediff(tmp_path / "rank.pkl", networks, rank_unet=3)
    write_osediff(tmp_path / "ranks.pkl", networks, rank_vae="four")
    write_osediff(tmp_path / "texts.pkl", networks, state_dict_vae={"encoder.conv_in": "no tensor"})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("random", r"refused|not a readable weight file"),
        ("truncated", "not a readable weight file"),
        ("evil", "refused"),
        ("plain", "not an OSEDiff checkpoint: it has no state_dict_unet"),
        ("list", "not an OSEDiff checkpoint"),
        ("other", r"adapters of another network.*is \("),
        ("fewer", r"adapters of another network.*missing conv_in\.base_layer\.weight"),
        ("rank", "adapters of another network"),
        ("ranks", "not an OSEDiff checkpoint: its ranks are 4 and 'four'"),
        ("texts", "no dictionary of tensors at state_dict_vae"),
    ],
)
def test_bad_checkpoints_are_refused_with_the_reason(config, networks, tmp_path, name, reason):
    bad_checkpoints(networks, tmp_path)
    bad = WeightFile(path=tmp_path / f"{name}.pkl")
    with pytest.raises(WeightsError, match=reason) as error:
        build_osediff(config.model_copy(update={"checkpoint": bad}))
    assert f"{name}.pkl" in str(error.value)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_bad_base_files_are_refused_with_the_reason(config, part):
    (file,) = (config.folder / part).iterdir()
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(WeightsError, match=f"{part}.*not a readable weight file"):
        build_osediff(config)
    file.write_bytes(b"\x80\x04not weights at all")
    with pytest.raises(WeightsError, match=part):
        build_osediff(config)
    save_file({"decoder.weight": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match=f"{part}.*of another architecture than .*missing"):
        build_osediff(config)
