"""Recipes: reading, extending, checking, and errors with file and line."""

from __future__ import annotations

import json
import math
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

import distillkit
from distillkit import WeightFile
from distillkit.errors import RecipeError
from distillkit.plugins.descriptors import (
    DatasetSpec,
    DegradationSpec,
    MetricSpec,
    Spec,
    StudentSpec,
    TeacherSpec,
)
from distillkit.plugins.manager import Plugin, Plugins
from distillkit.recipe.dump import to_toml
from distillkit.recipe.json_schema import json_schema
from distillkit.recipe.key_paths import KeyPath, key_lines
from distillkit.recipe.load import ResolvedRecipe, load_recipe


class Options(distillkit.Options):
    channels: int = Field(32, ge=1)
    weights: WeightFile | None = None
    shipped: Path = Path("/plugin/shipped.pt")
    steps: int | Literal["auto"] = "auto"

    @field_validator("channels")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"must be even, got {value}")
        return {}[value] if value == 666 else value


class Kernels(distillkit.Options):
    kernels_dir: Path = Path("../kernels")
    shipped: Path = Path("/plugin/shipped.npz")


class Photos(distillkit.Options):
    split: Literal["train", "test"] = "train"


def unchanged(options: distillkit.Options) -> distillkit.Options:
    return options


def spec(
    kind: type[Spec],
    full_name: str,
    config: type[distillkit.Options] = Options,
    **fields: Any,
) -> Spec:
    plugin, name = full_name.split("/")
    return kind(
        name=name,
        plugin=plugin,
        summary=f"the {name}",
        options=f"{config.__module__}:{config.__name__}",
        build=f"{__name__}:unchanged",
        **fields,
    )


SCORE, OUTPUT = frozenset({"score", "output"}), frozenset({"output"})
TOY_SPECS = [
    spec(TeacherSpec, "toy/faithful", capabilities=SCORE),
    spec(TeacherSpec, "toy/sharpen", capabilities=OUTPUT),
    spec(StudentSpec, "toy/student"),
    spec(DegradationSpec, "toy/blur"),
    spec(DegradationSpec, "toy/kernels", Kernels),
    spec(DatasetSpec, "toy/photos", Photos),
]
METRIC_SPECS = [
    spec(MetricSpec, f"distillkit/{name}", distillkit.Options)
    for name in ("psnr", "ssim", "lpips-vgg")
]
PLUGINS = Plugins(
    [
        Plugin("toy", "toy 1.0", specs=TOY_SPECS),
        Plugin("distillkit", "distillkit 0", specs=METRIC_SPECS),
        Plugin("gone", "gone 2.0", error="ImportError: libfoo.so is missing"),
    ]
)

GOOD = """
    name = "good"
    student = { use = "student" }
    degradation = { use = "blur" }
    data.train = [{ use = "photos" }]

    [teachers.fidelity]
    use = "toy/faithful"
    weights = "w/f.pt"

    [teachers.realness]
    use = "faithful"
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the working folder, a fresh one."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
        return path

    write("good.toml", GOOD)
    return write


def load(path: Path | str, *overrides: str) -> ResolvedRecipe:
    return load_recipe(path, overrides, PLUGINS)


def errors(path: Path | str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(path, *overrides)
    return str(caught.value).splitlines()


def options(resolved: ResolvedRecipe, key: str) -> Any:
    """The checked options of a component."""
    return resolved.components[key].config


def with_changes(write: Write, text: str) -> Path:
    return write("r.toml", 'extends = ["good.toml"]\n' + textwrap.dedent(text))


def test_names_options_and_defaults_are_filled_in(write: Write) -> None:
    resolved = load("good.toml")
    assert {key: c.full_name for key, c in resolved.components.items()} == {
        "student": "toy/student",
        "teachers.fidelity": "toy/faithful",
        "teachers.realness": "toy/faithful",
        "degradation": "toy/blur",
        "data.train.0": "toy/photos",
        "stage1.reconstruction.perceptual_metric": "distillkit/lpips-vgg",
        "stage2.line.perceptual_metrics.0": "distillkit/lpips-vgg",
        "evaluation.metrics.0": "distillkit/psnr",
        "evaluation.metrics.1": "distillkit/ssim",
        "evaluation.metrics.2": "distillkit/lpips-vgg",
    }
    component = resolved.components["teachers.fidelity"]
    assert component.build() is component.config
    assert component.table == {
        "use": "toy/faithful",
        "weights": str(Path.cwd() / "w/f.pt"),
        "channels": 32,
        "steps": "auto",
    }
    assert resolved.recipe.student.use == "toy/student"


def test_files_are_laid_over_the_files_they_extend(write: Write) -> None:
    write(
        "bases/a.toml",
        """
        stage1.steps = 1
        stage1.reconstruction.l1_weight = 0.5
        evaluation.tradeoffs = [0, 0.5, 1]
        teachers.fidelity.weights = "f.pt"
        """,
    )
    write("bases/b.toml", 'extends = ["a.toml"]\nstage1.steps = 2\nseed = 5')
    path = write(
        "top.toml",
        """
        extends = ["good.toml", "bases/b.toml"]
        name = "top"
        evaluation.tradeoffs = [0, 1]
        """,
    )
    resolved = load(path)
    recipe = resolved.recipe
    assert recipe.name == "top"
    assert recipe.seed == 5
    assert recipe.stage1.steps == 2
    assert recipe.stage1.reconstruction.l1_weight == 0.5
    assert recipe.evaluation.tradeoffs == [0, 1]
    weights = options(resolved, "teachers.fidelity").weights
    assert weights.path == Path.cwd() / "bases" / "f.pt"
    origins = {
        "name": "top.toml:2",
        "seed": "bases/b.toml:3",
        "stage1.steps": "bases/b.toml:2",
        "stage1.reconstruction.l1_weight": "bases/a.toml:2",
    }
    assert {key: resolved.origin(key) for key in origins} == origins
    assert resolved.origin("stage1.reconstruction.l2_weight") == "default"
    with pytest.raises(KeyError):
        resolved.origin("stage1.no_such_key")


def test_a_table_that_names_something_else_starts_afresh(write: Write) -> None:
    same = load(with_changes(write, '[teachers.fidelity]\nuse = "toy/faithful"\nchannels = 8'))
    assert options(same, "teachers.fidelity").weights is not None
    changes = """
        [teachers.fidelity]
        use = "sharpen"
        [stage1.teachers.fidelity]
        term = "output"
        """
    other = load(with_changes(write, changes))
    assert options(other, "teachers.fidelity").weights is None


def test_a_name_alone_may_stand_for_its_table(write: Write) -> None:
    resolved = load(with_changes(write, 'degradation = "blur"\nevaluation.metrics = ["psnr"]'))
    assert resolved.components["degradation"].full_name == "toy/blur"
    assert resolved.recipe.evaluation.metrics[0].use == "distillkit/psnr"


def test_a_datasets_own_option_may_share_a_name_with_the_skeleton(write: Write) -> None:
    assert load("good.toml", 'data.train.0.split="test"').components[
        "data.train.0"
    ].config == Photos(split="test")


def kernels_dir(path: Path | str, *overrides: str) -> Path:
    config = options(load(path, *overrides), "degradation")
    assert isinstance(config, Kernels)
    assert config.shipped == Path("/plugin/shipped.npz")
    return config.kernels_dir


def test_default_paths_are_relative_to_the_file_that_names_the_component(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("project/recipes/base.toml", GOOD.replace('"blur"', '"kernels"'))
    write("project/recipes/sub/top.toml", 'extends = ["../base.toml"]')
    write("project/recipes/sub/named.toml", 'extends = ["../base.toml"]\ndegradation = "kernels"')
    monkeypatch.chdir("/")
    recipes = tmp_path / "project" / "recipes"
    for name in ("base.toml", "sub/top.toml"):
        assert kernels_dir(recipes / name) == tmp_path / "project" / "kernels"
    assert kernels_dir(recipes / "sub/named.toml") == recipes / "kernels"


def test_default_paths_of_an_overridden_name_are_relative_to_the_working_folder(
    write: Write, tmp_path: Path
) -> None:
    write("sub/recipe.toml", GOOD)
    named = 'degradation={use="kernels"}'
    assert kernels_dir("sub/recipe.toml", named) == tmp_path.parent / "kernels"
    given = 'degradation.kernels_dir="mine"'
    assert kernels_dir("sub/recipe.toml", named, given) == tmp_path / "mine"


def test_a_saved_recipe_keeps_default_paths_but_no_files_of_a_plugin(
    write: Write, tmp_path: Path
) -> None:
    resolved = load(write("recipes/own.toml", GOOD.replace('"blur"', '"kernels"')))
    assert resolved.origin("degradation.kernels_dir") == "default"
    assert "shipped" not in resolved.to_toml()
    assert kernels_dir(write("else/where/recipe.toml", resolved.to_toml())) == tmp_path / "kernels"


def test_overrides_take_toml_values_and_list_indices(write: Write) -> None:
    resolved = load(
        "good.toml",
        "stage1.learning_rate=2e-5",
        'stage2.variant = "oftsr"',
        "data.train.0.weight=2",
        "student.channels=4",
    )
    assert resolved.recipe.stage1.learning_rate == 2e-5
    assert resolved.recipe.stage2.variant == "oftsr"
    assert resolved.recipe.data.train[0].weight == 2
    assert options(resolved, "student").channels == 4
    assert resolved.origin("data.train.0.weight") == "--set"
    relative = load("good.toml", 'teachers.realness.weights="r.pt"')
    weights = options(relative, "teachers.realness").weights
    assert weights.path == Path.cwd() / "r.pt"


def test_overrides_that_cannot_be_applied(write: Write) -> None:
    overrides = [
        "stage2.variant=gate",
        "seed",
        "seed=",
        "data.train.1.weight=2",
        "name.x=1",
        "a b=1",
        "seed=1\nname=2",
        'extends=["x"]',
        "seed=0.5",
    ]
    assert errors("good.toml", *overrides) == [
        "--set  stage2.variant - gate is not a TOML value; a string needs quotes: "
        "--set 'stage2.variant=\"gate\"'",
        "--set  seed - expected key.path=VALUE",
        "--set  seed - nothing is not a TOML value; a string needs quotes: --set 'seed=\"\"'",
        "--set  data.train.1.weight - data.train is a list of 1, its entries are counted from 0",
        '--set  name.x - name is a string "good", not a table',
        "--set  a b - 'a b' is not a dotted key",
        "--set  seed - 1",
        "name=2 is not a TOML value; a string needs quotes: --set 'seed=\"1",
        "name=2\"'",
        "--set  extends - only a recipe file can extend others",
        "--set  seed - expected an integer, got a number 0.5",
    ]


def test_everything_wrong_is_reported_at_once_with_file_and_line(write: Write) -> None:
    path = with_changes(
        write,
        """
        naem = "x"
        stage1.steps = "many"
        stage1.score_weighting = "cliped"
        stage1.reconstruction = { l2_weight = -1, percetual_weight = 2 }
        evaluation.metrics = ["psnrr", { use = "ssim", window = 7 }]
        [student]
        use = "gone/student"
        [teachers.fidelity]
        chanels = 3
        channels = 3
        steps = "atuo"
        [[data.train]]
        imagefolder = "nope"
        wieght = 1
        [[data.train]]
        hub = "x"
        parquet = "y"
        [training]
        adam_betas = [0.5]
        log_with = "wandb"
        """,
    )
    assert errors(path) == [
        'r.toml:3  naem - unknown key; did you mean "name"?',
        'r.toml:4  stage1.steps - expected an integer, got a string "many"',
        'r.toml:5  stage1.score_weighting - expected "literal", "clipped" or "sample", '
        'got a string "cliped"; did you mean "clipped"?',
        "r.toml:6  stage1.reconstruction.l2_weight - must be at least 0, got an integer -1",
        "r.toml:6  stage1.reconstruction.percetual_weight - unknown key; "
        'did you mean "perceptual_weight"?',
        'r.toml:7  evaluation.metrics.0.use - no plugin offers "psnrr" among its metrics; '
        'did you mean "psnr"?; plugin "gone" (gone 2.0) is broken: '
        "ImportError: libfoo.so is missing",
        "r.toml:7  evaluation.metrics.1.window - unknown key",
        'r.toml:9  student.use - plugin "gone" (gone 2.0) is broken: '
        "ImportError: libfoo.so is missing",
        'r.toml:11  teachers.fidelity.chanels - unknown key; did you mean "channels"?',
        "r.toml:12  teachers.fidelity.channels - must be even, got 3",
        'r.toml:13  teachers.fidelity.steps - expected an integer, got a string "atuo"; '
        'or: expected "auto", got a string "atuo"; did you mean "auto"?',
        'r.toml:16  data.train.0.wieght - unknown key; did you mean "weight"?',
        "r.toml:17  data.train.1 - give exactly one of use, hub, imagefolder and parquet, "
        "not hub and parquet",
        "r.toml:21  training.adam_betas.1 - missing",
        'r.toml:22  training.log_with - expected a list, got a string "wandb"',
    ]


def test_an_empty_recipe_lists_what_it_needs(write: Write) -> None:
    assert errors(write("empty.toml", "")) == [
        "empty.toml:1  name - missing",
        "empty.toml:1  student - missing",
        "empty.toml:1  data - missing",
        "empty.toml:1  teachers.fidelity - missing, while stage1.teachers.fidelity.weight is 2; "
        "name a teacher or set that weight to 0",
        "empty.toml:1  teachers.realness - missing, while stage1.teachers.realness.weight is 1; "
        "name a teacher or set that weight to 0",
    ]


def test_a_teacher_whose_weight_is_zero_may_be_left_out(write: Write) -> None:
    path = write("one.toml", GOOD.partition("[teachers.realness]")[0])
    assert len(errors(path)) == 1
    assert "realness" not in load(path, "stage1.teachers.realness.weight=0").recipe.teachers


def test_a_tradeoff_made_of_a_weight_of_zero_is_refused(write: Write) -> None:
    path = with_changes(write, "[stage1.reconstruction]\nl2_weight = 0\nl1_weight = 1\n")
    assert errors(path) == [
        'r.toml:3  stage1.reconstruction.l2_weight - is 0, but stage2.target = "reconstruction" '
        "makes its tradeoff out of the L2 weight; raise it, or take "
        'stage2.target = "teacher" or stage2.steps = 0'
    ]
    for other in ('stage2.target="teacher"', "stage2.steps=0", 'stage2.variant="ctsr_eq8"'):
        assert load(path, other).recipe.stage1.reconstruction.l2_weight == 0


def test_a_third_teacher_is_two_tables(write: Write) -> None:
    table = '[teachers.detail]\nuse = "toy/faithful"\n'
    assert errors(with_changes(write, table)) == [
        "r.toml:2  teachers.detail - has no [stage1.teachers.detail], which says what it teaches"
    ]
    loss = "[stage1.teachers.detail]\nweight = 0.5\n"
    resolved = load(with_changes(write, table + loss))
    assert list(resolved.teachers) == ["fidelity", "realness", "detail"]
    weights = {name: loss.weight for name, loss in resolved.recipe.stage1.teachers.items()}
    assert weights == {"fidelity": 2.0, "realness": 1.0, "detail": 0.5}
    (line,) = errors(with_changes(write, "[stage1.teachers.fidelty]\nweight = 1.0\n"))
    assert line.startswith(
        "good.toml:6  teachers.fidelty - missing, while stage1.teachers.fidelty.weight is 1"
    )
    assert line.endswith('did you mean "fidelity"?')


def test_crops_are_shrunk_in_training_alone_and_not_beside_full_images(write: Write) -> None:
    path = write("good.toml", GOOD)
    source = '{imagefolder="photos",zoom_out=%s}'
    assert load(path, f"data.train=[{source % 1.5}]").recipe.data.train[0].zoom_out == 1.5
    with pytest.raises(RecipeError, match="zoom_out is of data.train alone"):
        load(path, f"data.eval=[{source % 1.5}]")
    with pytest.raises(RecipeError, match=r"zoom_out - must be at least 1"):
        load(path, f"data.train=[{source % 0.5}]")
    full = (
        'stage1.teachers.fidelity.term="output"',
        'stage1.teachers.fidelity.output_input="full_image"',
    )
    with pytest.raises(RecipeError, match=r'data\.train\.0\.zoom_out.*"full_image"'):
        load(path, *full, f"data.train=[{source % 1.5}]")


def test_a_teachers_table_keeps_the_papers_weight_where_it_states_none(write: Write) -> None:
    path = with_changes(write, "[stage1.teachers.fidelity]\nanchor_weight = 3.0\n")
    loss = load(path).recipe.stage1.teachers["fidelity"]
    assert (loss.weight, loss.anchor_weight) == (2.0, 3.0)


def test_an_output_teacher_asked_for_a_score_is_refused_with_what_each_offers(write: Write) -> None:
    path = with_changes(write, '[teachers.realness]\nuse = "sharpen"')
    assert errors(path) == [
        "r.toml:3  teachers.realness.use - toy/sharpen offers no score, "
        'but stage1.teachers.realness.term = "score"; '
        'set that to "output" or name another teacher',
        "    role      model         score  output",
        "    student   toy/student   yes    yes",
        "    fidelity  toy/faithful  yes    yes",
        "    realness  toy/sharpen   no     yes",
    ]
    by_output = load(path, 'stage1.teachers.realness.term="output"')
    assert by_output.recipe.stage1.teachers["realness"].term == "output"
    unused = load(path, "stage1.teachers.realness.weight=0")
    assert unused.recipe.stage1.teachers["realness"].weight == 0


def test_clean_images_need_a_degradation(write: Write) -> None:
    write("photos/readme.txt", "")
    text = GOOD.replace('degradation = { use = "blur" }', "")
    text = text.replace('use = "photos"', 'imagefolder = "photos"')
    path = write("bare.toml", text)
    assert errors(path) == [
        "bare.toml:4  data.train.0 - has clean images only, so the recipe needs a [degradation], "
        "or an lq_folder or lq_column with inputs"
    ]
    paired = load(path, 'data.train.0.lq_column="lq"').recipe
    assert paired.data.train[0].imagefolder == Path.cwd() / "photos"
    in_folders = path.read_text().replace('"photos"', '"photos", lq_folder = "small"')
    [source] = load(write("pairs.toml", in_folders)).recipe.data.train
    assert source.lq_folder == Path.cwd() / "small"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('use="photos",lq_folder="small"', "lq_folder goes with imagefolder"),
        ('imagefolder="a",lq_folder="small",lq_column="lq"', "one of lq_folder and lq_column"),
        ('imagefolder="a",lq_folder="small",ground_truth=false', "is one folder"),
    ],
)
def test_a_folder_of_partners_goes_with_clean_images(write: Write, keys: str, message: str) -> None:
    [error] = errors(write("good.toml", GOOD), f"data.train=[{{{keys}}}]")
    assert "data.train.0 - " in error
    assert message in error


def test_files_that_cannot_be_read(write: Write) -> None:
    assert errors("god.toml") == ['god.toml  no such file; did you mean "good.toml"?']
    assert errors(write("syntax.toml", "a = 1\nb = = 2\n")) == [
        "syntax.toml:2  not valid TOML: invalid value"
    ]
    assert errors(write("end.toml", "a = 1\nb = [")) == [
        "end.toml:2  not valid TOML: invalid value"
    ]
    Path("latin.toml").write_bytes(b'name = "\xe9"')
    assert errors("latin.toml") == [
        "latin.toml:1  not a text file in UTF-8 (see line 1); save it as UTF-8"
    ]
    Path("folder.toml").mkdir()
    assert errors("folder.toml") == ["folder.toml  cannot be read: Is a directory"]
    assert errors(write("kind.toml", 'name = "x"\nextends = "good.toml"')) == [
        'kind.toml:2  extends - expected a list of recipes, got a string "good.toml"'
    ]
    missing = write("sub/m.toml", 'extends = [\n"../god.toml",\n"also.toml"]')
    assert errors(missing) == [
        'sub/m.toml:2  extends.0 - no such file: god.toml; did you mean "good.toml"?',
        "sub/m.toml:3  extends.1 - no such file: sub/also.toml",
    ]


def test_files_that_extend_each_other(write: Write) -> None:
    write("a.toml", 'extends = ["b.toml"]')
    write("b.toml", 'extends = ["a.toml"]')
    assert errors("a.toml") == [
        "b.toml:1  extends.0 - the files extend each other in a circle: a.toml -> b.toml -> a.toml"
    ]


def test_a_validator_that_fails_in_its_own_way_is_a_problem_like_others(write: Write) -> None:
    (line,) = errors("good.toml", "student.channels=666")
    assert line == f"good.toml:2  student - {__name__}.Options failed to check it: KeyError: 666"


def test_the_complete_recipe_loads_back_from_anywhere(write: Write, tmp_path: Path) -> None:
    path = with_changes(write, 'evaluation.metrics = ["psnr"]\nname = "r"')
    resolved = load(path, "stage1.learning_rate=1e-5", 'student.weights="s.pt"')
    text = resolved.to_toml()
    again = load(write("elsewhere/recipe.toml", text))
    assert again.recipe == resolved.recipe
    assert again.components.keys() == resolved.components.keys()
    for key in again.components:
        assert options(again, key) == options(resolved, key)
    assert again.to_toml() == text
    # A plugin's own files are not pinned to where this machine has them.
    assert "shipped" not in text


def test_with_origin_names_what_set_each_value(write: Write) -> None:
    lines = load("good.toml", "seed=3").with_origin().splitlines()
    table = {}
    for line in lines:
        setting, origin = line.split("  # ")
        table[setting.strip()] = origin
    assert table['name = "good"'] == "good.toml:1"
    assert table["seed = 3"] == "--set"
    assert table['teachers.fidelity.use = "toy/faithful"'] == "good.toml:7"
    assert table["teachers.fidelity.channels = 32"] == "default"
    assert table['evaluation.metrics.1.use = "distillkit/ssim"'] == "default"


def references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def tables_of(component: Any) -> dict[str, Any]:
    """The schemas of a component's tables, by full name."""
    return {table["title"]: table for table in component["anyOf"] if "title" in table}


def test_the_json_schema_holds_the_plugins_options(write: Write) -> None:
    schema = json.loads(json.dumps(json_schema(PLUGINS)))
    definitions = schema["$defs"]
    assert {r.removeprefix("#/$defs/") for r in references(schema)} <= definitions.keys()
    assert schema["properties"]["student"]["$ref"] == "#/$defs/students"
    teachers = tables_of(definitions["teachers"])
    assert teachers.keys() == {"toy/faithful", "toy/sharpen"}
    sharpen = teachers["toy/sharpen"]
    assert sharpen["properties"]["use"] == {"enum": ["toy/sharpen", "sharpen"]}
    assert sharpen["properties"]["channels"]["minimum"] == 1
    assert sharpen["additionalProperties"] is False
    (photos,) = tables_of(definitions["datasets"]).values()
    assert {"use", "weight", "split"} <= photos["properties"].keys()
    assert "hub" not in photos["properties"]
    # Where a plugin has its own files, differs from machine to machine: no default for their keys.
    assert "default" not in sharpen["properties"]["shipped"]
    assert "/plugin/" not in json.dumps(schema)
    assert photos["properties"]["split"]["enum"] == ["train", "test"]


KEYS = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(
    ["a", "b-c", "1", "use", "x y", 'q"', "a.b"]
)
SCALARS = (
    st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.datetimes()
    | st.dates()
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=12
)


def paths(value: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    entries: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, below in entries:
        yield (*at, key)
        yield from paths(below, (*at, key))


@settings(deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_is_read_back_and_every_key_is_found(values: dict[str, Any]) -> None:
    text = to_toml(values)
    assert tomllib.loads(text) == values
    assert set(key_lines(text)) == set(paths(values))


def test_special_floats_are_written_as_toml() -> None:
    written = tomllib.loads(to_toml({"a": math.inf, "b": -math.inf, "c": math.nan}))
    assert written["a"] == math.inf
    assert written["b"] == -math.inf
    assert math.isnan(written["c"])


def test_key_lines_of_every_form_of_toml() -> None:
    text = textwrap.dedent('''\
        a = 1  # x = [
        "b c".d = [1,
          2, {x = 1, y = [3,
        4]}]
        s = """
        [not]
        k = 1 """"
        [q.r]
        x = 1.5
        [[q.l]]
        [[q.l]]
        n = {}
         [q.l.sub]
        m = 1979-05-27 07:32:00
        [[q.l.w]]
        z = "\\"#"
    ''')
    lines = key_lines(text)
    assert set(lines) == set(paths(tomllib.loads(text)))
    expected = {
        ("a",): 1,
        ("b c", "d", 1): 3,
        ("b c", "d", 2, "y", 1): 4,
        ("s",): 5,
        ("q", "r"): 8,
        ("q", "l"): 10,
        ("q", "l", 1): 11,
        ("q", "l", 1, "sub", "m"): 14,
        ("q", "l", 1, "w", 0, "z"): 16,
    }
    assert {path: lines[path] for path in expected} == expected
