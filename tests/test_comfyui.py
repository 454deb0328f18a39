"""The nodes of ``integrations/comfyui`` restore as the Restorer does, and explain what they cannot.

They run against a stand-in of the host.
"""

import builtins
import json
import os
import shutil
import tomllib

import comfy_stand_in
import pytest
import torch
from comfy_stand_in import PACK, InvalidInput, Workflow, run_node, upscale_with_model

from distillkit import DistillkitError, Restorer, load_recipe, run_recipe

WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))
GRAY_LEVEL = 1 / 255


@pytest.fixture
def host(tmp_path):
    """A host's folder with the pack in it, and an empty place for students."""
    shutil.copytree(PACK, tmp_path / "host" / "custom_nodes" / "distillkit")
    (tmp_path / "host" / "models" / "distillkit").mkdir(parents=True)
    return tmp_path / "host"


@pytest.fixture
def nodes(host, monkeypatch):
    folder = host / "custom_nodes" / "distillkit"
    _, nodes = comfy_stand_in.load_pack(monkeypatch, folder)
    return nodes


@pytest.fixture
def load(nodes):
    return nodes["DistillkitLoadStudent"]


@pytest.fixture
def restore(nodes):
    return nodes["DistillkitRestore"]


@pytest.fixture
def student(recipe, host):
    """The name of a student whose tradeoff changes its images by many gray levels."""
    overrides = ["data.eval=[]", "stage2.learning_rate=0.1"]
    run_recipe(load_recipe(recipe, overrides), host / "models" / "distillkit" / "toy")
    return "toy"


@pytest.fixture
def restorer(student, host):
    return Restorer.from_pretrained(host / "models" / "distillkit" / student, "cpu")


@pytest.fixture
def image():
    """Two images (B, H, W, C)."""
    return torch.rand(2, 20, 30, 3, generator=torch.Generator().manual_seed(1))


def exact(restorer, image, tradeoff):
    return restorer(image.movedim(3, 1), tradeoff).movedim(1, 3)


def test_any_node_that_upscales_gets_the_tradeoff(load, student, restorer, image):
    for tradeoff in (0.0, 0.3, 1.0):
        (model,) = run_node(load, student=student, tradeoff=tradeoff)
        upscaled = upscale_with_model(model, image)
        assert upscaled.shape == (2, 40, 60, 3)
        assert torch.allclose(upscaled, exact(restorer, image, tradeoff), atol=1e-5)
    assert (exact(restorer, image, 0) - exact(restorer, image, 1)).abs().max() > 10 * GRAY_LEVEL


def test_tiles_of_the_host_give_the_whole_image(load, student, restorer):
    image = torch.rand(1, 150, 170, 3, generator=torch.Generator().manual_seed(2))
    (model,) = run_node(load, student=student, tradeoff=0.3)
    difference = upscale_with_model(model, image, tile=96) - exact(restorer, image, 0.3)
    assert difference.abs().max() < 3 * GRAY_LEVEL


def test_the_host_may_ask_for_network_and_device(load, student):
    (model,) = run_node(load, student=student, tradeoff=0.3)
    assert model.to(torch.device("cpu")) is model
    assert sum(parameter.numel() for parameter in model.model.parameters()) > 0


def test_without_a_mask_an_image_is_restored_at_the_tradeoff(restore, student, restorer, image):
    (restored,) = run_node(restore, image=image, student=student, tradeoff=0.3)
    assert torch.equal(restored, exact(restorer, image, 0.3))


def test_a_mask_is_most_faithful_where_it_is_white(restore, student, restorer, image):
    mask = torch.zeros(1, 20, 30)
    mask[:, :, 15:] = 1
    (restored,) = run_node(restore, image=image, student=student, tradeoff=0.25, mask=mask)
    expected = [restorer(one.movedim(2, 0), 0.25 + 0.75 * mask[0]) for one in image]
    assert torch.equal(restored, torch.stack(expected).movedim(1, 3))
    # Away from the mask's edge, each half is that of one tradeoff.
    realistic = exact(restorer, image, 0.25)
    faithful = exact(restorer, image, 1.0)
    assert torch.allclose(restored[:, :, :24], realistic[:, :, :24], atol=1e-5)
    assert torch.allclose(restored[:, :, 36:], faithful[:, :, 36:], atol=1e-5)


def test_each_image_has_its_mask(restore, student, restorer, image):
    masks = torch.stack([torch.zeros(20, 30), torch.linspace(0, 1, 30).expand(20, 30)])
    (restored,) = run_node(restore, image=image, student=student, tradeoff=0.0, mask=masks)
    assert torch.equal(restored[:1], exact(restorer, image[:1], 0.0))
    by_map = restorer(image[1].movedim(2, 0), masks[1]).movedim(0, 2)
    assert torch.equal(restored[1], by_map)


def test_the_empty_mask_of_an_opaque_photo_has_no_effect(restore, student, restorer, image):
    empty = torch.zeros(1, 64, 64)
    (restored,) = run_node(restore, image=image, student=student, tradeoff=0.3, mask=empty)
    assert torch.equal(restored, exact(restorer, image, 0.3))


def test_values_a_little_outside_are_clamped(restore, student, restorer, image):
    bright = image * 1.2 - 0.1
    (restored,) = run_node(restore, image=bright, student=student, tradeoff=0.3)
    assert torch.equal(restored, exact(restorer, bright.clamp(0, 1), 0.3))


def test_opacity_is_kept(restore, student, image):
    opaque = torch.cat([image, torch.ones(2, 20, 30, 1)], dim=3)
    (restored,) = run_node(restore, image=opaque, student=student, tradeoff=0.3)
    assert restored.shape == (2, 40, 60, 4)
    assert restored[..., 3].min() == 1


def test_a_student_is_loaded_once_and_again_when_it_was_written(
    load, student, host, monkeypatch, image
):
    loaded = []
    from_pretrained = Restorer.from_pretrained

    def watch(folder):
        loaded.append(folder)
        return from_pretrained(folder)

    monkeypatch.setattr(Restorer, "from_pretrained", watch)
    for tradeoff in (0.0, 0.5):
        run_node(load, student=student, tradeoff=tradeoff)
    assert len(loaded) == 1
    about = host / "models" / "distillkit" / student / "student" / "distillkit.json"
    os.utime(about, (0, 0))
    run_node(load, student=student, tradeoff=0.5)
    assert len(loaded) == 2


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_example_workflow_runs(path, nodes, student, restorer, image):
    mask = torch.zeros(1, 20, 30)
    mask[:, :10] = 1
    workflow = Workflow(nodes, image, mask, student)
    workflow.run(json.loads(path.read_text()))
    (restored,) = workflow.saved
    if path.stem == "paint_the_tradeoff":
        by_map = 0.2 + 0.8 * mask[0]
        expected = torch.stack([restorer(one.movedim(2, 0), by_map) for one in image])
        assert torch.equal(restored, expected.movedim(1, 3))
    else:
        assert torch.allclose(restored, exact(restorer, image, 0.3), atol=1e-5)


def test_both_nodes_have_an_example(nodes):
    used = set()
    for path in WORKFLOWS:
        used |= {node["type"] for node in json.loads(path.read_text())["nodes"]}
    assert nodes.keys() <= used


def test_without_students_it_is_said_where_to_put_one(nodes, host, image):
    for node in nodes.values():
        (student,) = (one for one in node.define_schema().inputs if one.name == "student")
        assert student.options == ["no student found"]
        values = {"student": student.options[0], "tradeoff": 0.3}
        if node.define_schema().node_id == "DistillkitRestore":
            values["image"] = image
        with pytest.raises(InvalidInput, match="distillkit export RUN -o FOLDER") as refused:
            run_node(node, **values)
        assert str(host / "models" / "distillkit") in str(refused.value)


def test_a_student_of_another_machine_is_not_there(load, student):
    with pytest.raises(InvalidInput, match='no student "theirs" in .*There is: toy'):
        run_node(load, student="theirs", tradeoff=0.3)


def test_other_folders_are_not_offered(load, student, host):
    (host / "models" / "distillkit" / "notes").mkdir()
    (host / "models" / "distillkit" / "file.txt").write_text("no student")
    assert load.define_schema().inputs[0].options == [student]


def test_a_damaged_student_is_explained(load, student, host):
    about = host / "models" / "distillkit" / student / "student" / "distillkit.json"
    about.write_text("{")
    with pytest.raises(DistillkitError, match=r"distillkit\.json - not readable"):
        load.execute(student, 0.3)


@pytest.mark.parametrize("tradeoff", [-0.5, 1.5, float("nan")])
def test_a_tradeoff_out_of_range_is_refused(load, restore, student, image, tradeoff):
    """A value that comes over a link is not checked by the host."""
    with pytest.raises(DistillkitError, match="a tradeoff is a number from 0 to 1"):
        load.execute(student, tradeoff)
    with pytest.raises(DistillkitError, match="a tradeoff is a number from 0 to 1"):
        restore.execute(image, student, tradeoff)
    with pytest.raises(DistillkitError, match="a tradeoff is a number from 0 to 1"):
        restore.execute(image, student, tradeoff, torch.ones(1, 20, 30))


def test_masks_that_fit_no_image_are_refused(restore, student, image):
    with pytest.raises(Exception, match="There are 2 images and 3 masks"):
        restore.execute(image, student, 0.3, torch.zeros(3, 20, 30))
    mask = torch.rand(1, 30, 20)
    with pytest.raises(DistillkitError, match="20 x 30 pixels does not fit an image of 30 x 20"):
        restore.execute(image, student, 0.3, mask)


def test_without_distillkit_it_is_said_how_to_install_it(load, student, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "distillkit":
            raise ImportError("No module named 'distillkit'")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(Exception, match="python -m pip install distillkit"):
        load.execute(student, 0.3)


def test_the_project_table_is_as_the_registry_of_nodes_wants_it():
    table = tomllib.loads((PACK / "pyproject.toml").read_text())
    name = table["project"]["name"]
    assert len(name) < 100 and not name[0].isdigit() and "comfyui" not in name.lower()
    assert table["project"]["license"] == {"text": "Apache-2.0"}
    assert table["tool"]["comfy"]["PublisherId"]


def test_nothing_is_installed_or_downloaded_or_evaluated_while_running():
    for path in PACK.glob("*.py"):
        code = path.read_text()
        assert not any(word in code for word in ("eval(", "exec(", "subprocess", "urllib"))
