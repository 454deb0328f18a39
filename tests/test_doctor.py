"""What ``distillkit doctor`` says of a machine and of a recipe."""

import pytest

from distillkit.environment import unmet_requirements


@pytest.fixture
def doctor(distillkit, toys):
    """Run ``distillkit doctor``."""

    def call(*arguments):
        return distillkit("doctor", *arguments)

    return call


def test_a_machine(doctor):
    outcome = doctor()
    assert outcome.code == 0
    assert "torch" in outcome.out
    assert "plugin       toy (toy_plugin)" in outcome.out
    assert "all is well" in outcome.out


def test_packages_too_old_or_absent_are_problems():
    requirements = ["torch>=1.0", "peft>=99", "no-such-package", 'other>=1; extra == "dev"']
    old, absent = unmet_requirements(requirements)
    assert old.startswith("needs peft>=99, and peft is ")
    assert old.endswith("; pip install 'peft>=99'")
    assert "no-such-package is absent" in absent


def test_a_recipe_that_lacks_nothing(doctor, recipe):
    outcome = doctor(recipe)
    assert outcome.code == 0
    assert f"recipe       {recipe}" in outcome.out
    assert "MISSING" not in outcome.out
    *_, advice, verdict = outcome.out.splitlines()
    assert advice.endswith(f"distillkit advise {recipe}")
    assert verdict == "all is well"


def test_a_recipe_without_its_training_images(doctor, recipe):
    outcome = doctor(recipe, "--set", "data.train=[{imagefolder='nowhere'}]")
    assert outcome.code == 1
    assert "MISSING      --set  data.train.0.imagefolder - no such folder" in outcome.out
    assert f"distillkit fetch {recipe} and the same --set options" in outcome.out
    assert "distillkit advise" not in outcome.out


def test_without_its_held_out_images_a_step_can_still_be_forecast(doctor, recipe):
    outcome = doctor(recipe, "--set", "data.eval=[{imagefolder='nowhere'}]")
    assert outcome.code == 1
    assert "MISSING      --set  data.eval.0.imagefolder - no such folder" in outcome.out
    assert f"distillkit advise {recipe} and the same --set options" in outcome.out
