"""The VQ autoencoder against numbers of the published code, its gradients and its memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distillkit_superres.resshift.autoencoder import Codebook, VQModel
from distillkit_superres.resshift.build import TINY_AUTOENCODER


@pytest.mark.golden("vqf4_small_*")
def test_reproduces_published_outputs(case):
    network = case.load_into(case.autoencoder())
    close = {"atol": 2e-5, "rtol": 0}
    for i in range(sum(k.endswith(".x") for k in case.tensors)):
        stored = case.tensors_under(f"case{i}.")
        z = stored["z"]
        torch.testing.assert_close(network.encode(stored["x"]), z, **close)
        assert network.quantize.nearest(z).flatten().equal(stored["indices"])
        torch.testing.assert_close(network.quantize(z), stored["zq"], **close)
        torch.testing.assert_close(network.decode(z), stored["dec"], **close)
        unquantized = network.decode(z, force_not_quantize=True)
        torch.testing.assert_close(unquantized, stored["dec_noquant"], **close)


@pytest.mark.golden("vqf4_keys_full")
def test_has_the_published_keys(case):
    with torch.device("meta"):
        network = case.autoencoder()
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == case.info["keys"]
    assert sum(p.numel() for p in network.parameters()) == case.info["n_params"] == 55_322_782


def test_gradient_reaches_the_image_and_passes_straight_through_the_codes():
    torch.manual_seed(0)
    network = VQModel(TINY_AUTOENCODER).requires_grad_(False)
    image = torch.randn(1, 3, 32, 32, requires_grad=True)
    z = network.encode(image)
    z.retain_grad()
    network.decode(z).square().mean().backward()
    assert image.grad.abs().max() > 0
    at_the_codes = network.quantize(z.detach()).requires_grad_()
    network.decode(at_the_codes, force_not_quantize=True).square().mean().backward()
    torch.testing.assert_close(z.grad, at_the_codes.grad)


def test_nearest_code_is_the_nearest():
    torch.manual_seed(0)
    book = Codebook(37, 3)
    z = torch.randn(2, 3, 40, 31)  # more vectors than are handled at once
    distance = (z[:, None] - book.embedding.weight[None, :, :, None, None]).square().sum(2)
    assert book.nearest(z).equal(distance.argmin(1))


class _LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_encoding_builds_no_score_matrix_either_way():
    network = VQModel(TINY_AUTOENCODER)
    image = torch.randn(1, 3, 256, 256, requires_grad=True)
    with _LargestTensor() as seen:
        network.encode(image).sum().backward()
    feature_map = 32 * 258 * 258
    # A score matrix would have (64 * 64)^2 elements, 8 times as many.
    assert feature_map // 2 < seen.largest <= feature_map


def test_the_code_search_holds_few_distances_at_once():
    book = Codebook(8192, 3)
    with _LargestTensor() as seen:
        book(torch.randn(1, 3, 64, 64))
    assert seen.largest <= 1024 * 8192  # all at once would be 4 times as many
