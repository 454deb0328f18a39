"""ncnn files, written here, become checkpoints that spandrel reads; what cannot is refused."""

import struct
from collections import Counter

import numpy as np
import pytest
import torch
from spandrel import ModelLoader
from spandrel.architectures import ESRGAN, SPAN, Compact
from torch import nn

from distillkit.errors import DistillkitError
from distillkit_spandrel.convert import convert_ncnn

HALF = 0x01306B47
INT8 = 0x000D4B38
LEAKY = "9=2 -23310=1,2.0e-01"


class Writer:
    """Writes the two files of an ncnn network."""

    def __init__(self, flag=HALF):
        self.flag = flag
        self.layers = [("Input", [], "data", "")]
        self.weights = b""

    def add(self, kind, inputs, options="", weights=b""):
        output = f"blob{len(self.layers)}"
        self.layers.append((kind, list(inputs), output, options))
        self.weights += weights
        return output

    def convolution(self, blob, module, activation=""):
        count, _, size, _ = module.weight.shape
        options = f"0={count} 1={size} 4={size // 2} 5=1 6={module.weight.numel()} {activation}"
        weights = module.weight.detach().flatten().numpy()
        if self.flag == HALF:
            data = weights.astype("<f2").tobytes()
            data += bytes(-len(data) % 4)
        else:
            data = weights.astype("<f4").tobytes()
        data = struct.pack("<I", self.flag) + data + floats(module.bias)
        return self.add("Convolution", [blob], options, data)

    def save(self, folder, name="network"):
        self.layers[-1] = (*self.layers[-1][:2], "output", self.layers[-1][3])
        lines = self._split()
        blobs = sum(int(line.split()[3]) for line in lines)
        text = "\n".join(["7767517", f"{len(lines)} {blobs}", *lines])
        param = folder / f"{name}.param"
        param.write_text(f"{text}\n")
        param.with_suffix(".bin").write_bytes(self.weights)
        return param

    def _split(self):
        """Each blob is taken once in ncnn: layers Split make as many of it as are taken."""
        taken = Counter(name for _, inputs, _, _ in self.layers for name in inputs)
        used = Counter()
        lines = []
        for i, (kind, inputs, output, options) in enumerate(self.layers):
            names = []
            for name in inputs:
                shared = taken[name] > 1
                names.append(f"{name}_{used[name]}" if shared else name)
                used[name] += 1
            blobs = " ".join([*names, output])
            lines.append(f"{kind} layer{i} {len(names)} 1 {blobs} {options}".strip())
            if taken[output] > 1:
                copies = [f"{output}_{j}" for j in range(taken[output])]
                line = f"Split split{i} 1 {len(copies)} {output} {' '.join(copies)}"
                lines.append(line)
        return lines


def floats(tensor):
    return tensor.detach().flatten().numpy().astype("<f4").tobytes()


def write_compact(network, writer):
    blob = "data"
    for module in network.body:
        if isinstance(module, nn.PReLU):
            slopes = module.weight
            blob = writer.add("PReLU", [blob], f"0={slopes.numel()}", floats(slopes))
        else:
            blob = writer.convolution(blob, module)
    blob = writer.add("PixelShuffle", [blob], f"0={network.upscale}")
    scale = float(network.upscale)
    base = writer.add("Interp", ["data"], f"0=1 1={scale:e} 2={scale:e}")
    writer.add("BinaryOp", [blob, base], "0=0")


def write_span(network, writer, mean=None, factor=255.0):
    blob = "data"
    if mean is not None:
        value = writer.add("MemoryData", [], "0=1 1=1 2=3", floats(torch.tensor(mean)))
        blob = writer.add("BinaryOp", [blob, value], "0=1")
    if factor != 1:
        blob = writer.add("BinaryOp", [blob], f"0=2 1=1 2={factor:e}")
    first = blob = writer.convolution(blob, network.conv_1.eval_conv)
    images = []
    for i in range(1, 7):
        block = network.get_submodule(f"block_{i}")
        inner = writer.convolution(blob, block.c1_r.eval_conv)
        early = inner = writer.add("Swish", [inner])
        inner = writer.convolution(inner, block.c2_r.eval_conv)
        inner = writer.add("Swish", [inner])
        inner = writer.convolution(inner, block.c3_r.eval_conv)
        attention = writer.add("Sigmoid", [inner])
        attention = writer.add("BinaryOp", [attention], "0=1 1=1 2=5.0e-01")
        blob = writer.add("BinaryOp", [inner, blob], "0=0")
        blob = writer.add("BinaryOp", [blob, attention], "0=2")
        images.append(blob)
    blob = writer.convolution(blob, network.conv_2.eval_conv)
    blob = writer.add("Concat", [first, blob, images[0], early])
    blob = writer.convolution(blob, network.conv_cat)
    blob = writer.convolution(blob, network.upsampler[0])
    writer.add("PixelShuffle", [blob], f"0={network.upsampler[1].upscale_factor}")


def write_esrgan(network, writer):
    body = network.model
    trunk = writer.convolution("data", body[0])
    blob = trunk
    *blocks, last = body[1].sub
    for block in blocks:
        start = blob
        for dense in (block.RDB1, block.RDB2, block.RDB3):
            blob = write_dense_block(dense, blob, writer)
        blob = writer.add("Eltwise", [blob, start], "0=1 -23301=2,2.0e-01,1.0e+00")
    blob = writer.convolution(blob, last)
    blob = writer.add("BinaryOp", [trunk, blob], "0=0")
    for i in (3, 6):
        blob = writer.add("Interp", [blob], "0=1 1=2.0e+00 2=2.0e+00")
        blob = writer.convolution(blob, body[i], LEAKY)
    blob = writer.convolution(blob, body[8], LEAKY)
    writer.convolution(blob, body[10])


def write_dense_block(dense, start, writer):
    features = [start]
    for i in range(1, 5):
        blob = features[0]
        if i > 1:
            blob = writer.add("Concat", features)
        convolution = dense.get_submodule(f"conv{i}")[0]
        features.append(writer.convolution(blob, convolution, LEAKY))
    blob = writer.convolution(writer.add("Concat", features), dense.conv5[0])
    return writer.add("Eltwise", [blob, start], "0=1 -23301=2,2.0e-01,1.0e+00")


MEAN = (0.4488, 0.4371, 0.4040)
NETWORKS = {
    "Compact": (
        lambda: Compact.Compact(num_in_ch=3, num_out_ch=3, num_feat=6, num_conv=2, upscale=2),
        write_compact,
    ),
    "SPAN": (
        lambda: SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=6, upscale=2),
        lambda network, writer: write_span(network, writer, MEAN),
    ),
    "SPAN without mean": (
        lambda: SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=5, norm=False),
        lambda network, writer: write_span(network, writer, None, 1.0),
    ),
    "ESRGAN": (lambda: ESRGAN.ESRGAN(num_filters=6, num_blocks=2), write_esrgan),
}


def random_network(name):
    """A network whose weights are all different, exact in float16, and none of them idle."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[name][0]().eval()
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.bias.data = 0.1 * torch.randn(module.bias.shape, generator=generator)
        elif isinstance(module, nn.PReLU):
            module.weight.data = 0.5 * torch.rand(module.weight.shape, generator=generator)
        elif type(module).__name__ == "Conv3XC":
            # The 1x1 kernels do nothing, so that the merged one is as exact as the trained.
            module.update_params()
    if name.startswith("SPAN"):
        network.conv_1.eval_conv.weight.data *= 0.05
    for weight in network.state_dict().values():
        weight.copy_(weight.half().float())
    return network


def restore(name, network, image):
    """Call a network as spandrel does, SPAN's by its merged kernels."""
    for module in network.modules():
        if type(module).__name__ == "Conv3XC":
            module.update_params = lambda: None
    with torch.no_grad():
        return network(image.clone())


def write_network(name, folder, flag=HALF):
    network = random_network(name)
    writer = Writer(flag)
    NETWORKS[name][1](network, writer)
    return network, writer.save(folder)


def random_image(height=15, width=22):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("flag", [HALF, 0])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_becomes_a_checkpoint_that_spandrel_reads(tmp_path, name, flag):
    network, param = write_network(name, tmp_path, flag)
    out = tmp_path / "x.safetensors"
    said = convert_ncnn(param, param.with_suffix(".bin"), out)
    found = ModelLoader().load_from_file(out).eval()
    assert found.architecture.id == name.partition(" ")[0]
    assert f"scale {found.scale};" in said
    image = random_image()
    expected = restore(name, network, image)
    assert expected.std() > 1e-2
    with torch.no_grad():
        restored = found.model(image.clone())
    torch.testing.assert_close(restored, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_restores_as_ncnn_does(tmp_path, name):
    ncnn = pytest.importorskip("ncnn", reason="pip install 'distillkit[ncnn]' to compare with ncnn")
    _, param = write_network(name, tmp_path)
    out = tmp_path / "x.safetensors"
    convert_ncnn(param, param.with_suffix(".bin"), out)
    image = random_image()
    with torch.no_grad():
        restored = ModelLoader().load_from_file(out).eval().model(image.clone())
    net = ncnn.Net()
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(param.with_suffix(".bin"))) == 0
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(image[0].numpy()).clone())
    code, expected = extractor.extract("output")
    assert code == 0
    expected = torch.from_numpy(np.array(expected))[None]
    scale = float(expected.abs().max())
    torch.testing.assert_close(restored, expected, atol=4e-3 * scale, rtol=0)


def test_a_range_without_a_mean_is_merged_into_the_first_kernel(tmp_path):
    network = random_network("SPAN without mean")
    writer = Writer()
    write_span(network, writer, None, 4.0)
    out = tmp_path / "x.safetensors"
    convert_ncnn(writer.save(tmp_path), tmp_path / "network.bin", out)
    image = random_image()
    with torch.no_grad():
        restored = ModelLoader().load_from_file(out).eval().model(image.clone())
    expected = restore("SPAN", network, image * 4)
    torch.testing.assert_close(restored, expected, atol=2e-5, rtol=1e-4)


def refuse(folder, message):
    """Convert the network of a folder, which must fail in one line and leave no checkpoint."""
    out = folder / "x.safetensors"
    with pytest.raises(DistillkitError, match=message) as error:
        convert_ncnn(folder / "network.param", folder / "network.bin", out)
    assert "\n" not in str(error.value)
    assert not list(folder.glob("x.safetensors*"))


def test_a_mean_that_no_checkpoint_can_say_is_refused(tmp_path):
    writer = Writer()
    write_span(random_network("SPAN"), writer, (0.485, 0.456, 0.406), 1.0)
    writer.save(tmp_path)
    refuse(tmp_path, r"network.param:6 .* 0.485, 0.456, 0.406 is subtracted .* 0.4488, 0.4371")


def test_a_span_whose_image_is_resized_first_is_refused(tmp_path):
    _, param = write_network("SPAN", tmp_path)
    old = "BinaryOp layer3 1 1 blob2 blob3 0=2 1=1 2=2.550000e+02"
    text = param.read_text()
    assert old in text
    resize = "Interp layer3 1 1 blob2 blob3 0=1 1=2.0e+00 2=2.0e+00"
    param.write_text(text.replace(old, resize))
    refuse(tmp_path, "before it the image is resized")


def test_a_network_that_ends_otherwise_is_refused(tmp_path):
    writer = Writer()
    write_compact(random_network("Compact"), writer)
    writer.add("Interp", [f"blob{len(writer.layers) - 1}"], "0=3 1=5.0e-01 2=5.0e-01")
    writer.save(tmp_path)
    refuse(tmp_path, r"network.param:\d+ - layer Interp .* a Compact ends with BinaryOp")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-23301=2,2.0e-01,1.0e+00", "-23301=2,3.0e-01,1.0e+00"),
        ("-23310=1,2.0e-01", "-23310=1,1.0e-01"),
        ("9=2 -23310=1,2.0e-01", "9=1"),
    ],
)
def test_other_layers_with_the_same_weights_are_refused(tmp_path, old, new):
    _, param = write_network("ESRGAN", tmp_path)
    param.write_text(param.read_text().replace(old, new))
    refuse(tmp_path, "has the weights of a ESRGAN of scale 4, but its layers are another network")


EDITS = {
    "7767517\n": ("7767516\n", r"network.param:1 - not a text of ncnn's layers"),
    "PixelShuffle layer8": ("DeepCopy layer8", r"param:12 - layer DeepCopy layer8: its type is"),
    "6=324": ("6=325", r"param:7 - layer Convolution layer3: 325 weights are no kernels"),
    "6=162": ("6=16200000000", r"param:5 - .*network.bin has \d+: cut off"),
    "5=1 6=324": ("5=1 6=324 8=2", r"param:7 .* are int8; convert the file with float weights"),
    "5=1 6=648": ("5=1 6=648 3=2", r"param:11 - .* option 3 is 2; only 1 is known"),
    "0=6\n": ("0=6=x\n", r"param:6 - not a layer: expected type, name"),
    "12 13": ("13 13", r"network.param:2 - announces 13 layers, and 12 follow"),
    "1 1 blob5 blob6": ("1 1 blob9 blob6", r"no layer before it makes its input blob9"),
    "0=1 1=2.000000e+00": ("0=2 1=2.000000e+00", r"layer Interp .* option 0 is 2; only 1"),
    "blob4 0=6": ("blob4 0=5", r"should begin its weights, and holds 0x"),
}


@pytest.mark.parametrize("old", EDITS)
def test_damaged_and_unknown_layers_are_refused(tmp_path, old):
    _, param = write_network("Compact", tmp_path)
    new, message = EDITS[old]
    text = param.read_text()
    assert old in text
    param.write_text(text.replace(old, new, 1))
    refuse(tmp_path, message)


def test_damaged_weights_are_refused(tmp_path):
    _, param = write_network("Compact", tmp_path)
    file = param.with_suffix(".bin")
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    refuse(tmp_path, rf"network.param:11 - layer Convolution .* has {len(data) - 1}: cut off")
    file.write_bytes(data + bytes(4))
    refuse(tmp_path, "network.bin - holds 4 bytes more than the layers of .*network.param take")
    file.write_bytes(struct.pack("<I", INT8) + data[4:])
    refuse(tmp_path, r"network.param:5 .* its weights in .*network.bin are int8")
    file.write_bytes(struct.pack("<I", 7) + data[4:])
    refuse(tmp_path, r"byte 0 of .*network.bin should begin its weights, and holds 0x00000007")
    file.unlink()
    refuse(tmp_path, "network.bin - no such file; a network of ncnn is a .param and a .bin")


def test_another_network_is_refused_and_a_binary_list_of_layers(tmp_path):
    writer = Writer()
    writer.convolution("data", nn.Conv2d(3, 3, 3))
    param = writer.save(tmp_path)
    refuse(tmp_path, "network.param - none of ESRGAN, Compact and SPAN, whose networks alone")
    param.write_bytes(struct.pack("<I", 7767517) + b"\xff\xfe")
    refuse(tmp_path, "network.param - not a text: of ncnn's formats, .param is read")


def test_a_small_file_cannot_ask_for_any_amount_of_memory(tmp_path):
    writer = Writer()
    network = random_network("Compact")
    blob = "data"
    for _ in range(5):
        blob = writer.add("Interp", [blob], "0=1 1=1.6e+01 2=1.6e+01")
    for module in network.body:
        if isinstance(module, nn.PReLU):
            blob = writer.add("PReLU", [blob], f"0={module.weight.numel()}", floats(module.weight))
        else:
            blob = writer.convolution(blob, module)
    writer.add("BinaryOp", [blob, blob], "0=0")
    writer.save(tmp_path)
    refuse(tmp_path, r"network.param:\d+ - layer Interp .*, which is too large")


def test_the_command(distillkit, tmp_path):
    _, param = write_network("Compact", tmp_path)
    out = tmp_path / "x.safetensors"
    code, printed, err = distillkit("convert-ncnn", param, "-o", out)
    assert code == 0, err
    assert printed.startswith(f"{out}: RealESRGAN Compact, scale 2")
    assert out.is_file()
