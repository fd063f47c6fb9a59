"""The forms people fill in: described, bounded, flat, and what makes no sense is refused with one sentence."""

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from deployments.catalogue import CATALOGUE
from flows.chain import STAGES
from flows.config import PipelineConfig
from flows.evaluate_champion import VigilConfig
from flows.finetune_lora import LoraConfig
from flows.form import fields_of
from flows.pipeline import pipeline
from flows.retrain import RetrainConfig
from flows.stage_forms import FIELDS
from fluxmodel.presets import PRESETS

NAMES = [deployed.name for deployed in CATALOGUE]
NOT_OF_A_PRESET = {"compare", "approve", "watch-data", "evaluate-champion"}
LEVELS = 2


def schema_of(name: str) -> dict[str, Any]:
    deployed = next(each for each in CATALOGUE if each.name == name)
    return parameter_schema(deployed.flow).model_dump(exclude_unset=True)


def fields(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """All fields of a form by their path, those of sections included."""
    found = []
    for name, field in node.get("properties", {}).items():
        found.append((f"{path}{name}", field))
        if place := field.get("$ref", ""):
            section = schema["definitions"][place.rsplit("/", 1)[-1]]
            found += fields(schema, section, f"{path}{name}.")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_every_form_is_described_and_none_is_a_union(name):
    schema = schema_of(name)
    for path, field in fields(schema, schema):
        assert field.get("description"), path
        assert not {"anyOf", "oneOf", "allOf"} & set(field), path
        assert path.count(".") < LEVELS, path
        assert "default" in field, path  # pressing Run with an untouched form does something sensible


@pytest.mark.parametrize("name", NAMES)
def test_a_number_has_a_least_value(name):
    schema = schema_of(name)
    for path, field in fields(schema, schema):
        if field.get("type") in ("integer", "number"):
            assert "minimum" in field or "exclusiveMinimum" in field, path


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_OF_A_PRESET])
def test_the_preset_comes_first_and_is_chosen_from_those_there_are(name):
    properties = schema_of(name)["properties"]
    assert min(properties, key=lambda field: properties[field]["position"]) == "preset"
    assert properties["preset"]["enum"] == list(PRESETS)


@pytest.mark.parametrize("name", NAMES)
def test_deployment_and_flow_have_one_name_and_the_form_is_not_told_twice(name):
    deployed = next(each for each in CATALOGUE if each.name == name)
    assert deployed.flow.name == name
    assert deployed.said
    assert "Args:" not in deployed.said
    assert "fluxline" in deployed.tags


def test_every_stage_has_a_deployment_and_asks_for_fields_there_are():
    assert set(STAGES) <= set(NAMES)
    assert all(set(names) <= set(PipelineConfig.model_fields) for names in FIELDS.values())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("retrain", {"preset": "huge"}),
        ("retrain", {"start": "somewhere"}),
        ("retrain", {"seed": -1}),
        ("retrain", {"train_steps": 1.5}),
        ("retrain", {"needs_approval": "perhaps"}),
        ("retrain", {"colour": "red"}),
        ("pipeline", {"precision": "fp8"}),
        ("pipeline", {"gate": {"yearly_alpha": 2}}),
        ("finetune-lora", {"rank": 1000}),
        ("train", {"seed": "seven"}),
    ],
)
def test_a_wrong_value_is_refused_by_the_form_and_by_the_flow(name, wrong):
    schema = schema_of(name)
    deployed = next(each for each in CATALOGUE if each.name == name)
    assert validate({}, schema, preprocess=True) == []
    if wrong != {"colour": "red"}:  # a field that is not there cannot be typed, but the API could be sent it
        assert validate(wrong, schema, preprocess=True)
    with pytest.raises((ParameterTypeError, TypeError)):
        deployed.flow.validate_parameters(wrong)


@pytest.mark.parametrize("kind", [PipelineConfig, RetrainConfig, LoraConfig])
def test_the_fields_of_a_configuration_stand_in_the_form_as_the_class_has_them(kind):
    name = {PipelineConfig: "pipeline", RetrainConfig: "retrain", LoraConfig: "finetune-lora"}[kind]
    properties = schema_of(name)["properties"]
    own = kind.model_json_schema()["properties"]
    assert list(properties) == list(own)
    for field, told in own.items():
        for fact in ("type", "minimum", "maximum", "enum", "description"):
            assert properties[field].get(fact) == told.get(fact), (field, fact)


def test_the_form_of_a_vigil_asks_first_for_what_is_watched_and_how():
    properties = schema_of("evaluate-champion")["properties"]
    asked = sorted(properties, key=lambda field: properties[field]["position"])
    assert asked[:4] == ["preset", "name", "min_effect", "yearly_alpha"]
    assert set(asked) == {*VigilConfig.model_fields}


def test_a_form_gives_the_flow_the_configuration_itself():
    seen: list[Any] = []
    from flows.form import form

    @form(PipelineConfig)
    def keep(config: PipelineConfig) -> None:
        """Keep it."""
        seen.append(config)

    asked = PipelineConfig(preset="smoke", seed=3)
    keep(**fields_of(asked))
    assert seen == [asked]
    assert pipeline.validate_parameters(fields_of(asked)) == fields_of(asked)
