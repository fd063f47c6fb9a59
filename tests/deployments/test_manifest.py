"""deployments/prefect.yaml is the catalogue, and Prefect reads it."""

from pathlib import Path

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel

from deployments.catalogue import CATALOGUE
from deployments.manifest import FILE, manifest
from tests.kit import ROOT


def test_the_file_is_what_the_catalogue_gives():
    assert FILE.read_text() == manifest(), "run `python -m deployments.manifest`"


def test_prefect_reads_it_and_every_flow_is_where_it_says():
    read = PrefectYamlModel.model_validate(yaml.safe_load(FILE.read_text()))
    assert [each.name for each in read.deployments] == [each.name for each in CATALOGUE]
    for entry, deployed in zip(read.deployments, CATALOGUE, strict=True):
        path, _, name = (entry.entrypoint or "").partition(":")
        assert (ROOT / Path(path)).is_file()
        assert getattr(deployed.flow, "__name__", "") == name


@pytest.mark.parametrize("timetable", [each for deployed in CATALOGUE for each in deployed.timetables])
def test_what_runs_by_itself_is_accepted_by_its_own_form(timetable):
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import validate

    deployed = next(each for each in CATALOGUE if timetable in each.timetables)
    schema = parameter_schema(deployed.flow).model_dump(exclude_unset=True)
    assert validate(timetable.parameters, schema, preprocess=True) == []
    assert set(timetable.parameters) <= set(schema["properties"])
