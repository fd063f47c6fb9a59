"""Files for engines that no test here can start: checked against their schemas, and against our own code."""

import importlib
import json
import re
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from deployments.catalogue import POOL
from tests.kit import ROOT

FOLDER = ROOT / "deployments"
TEMPLATE = json.loads((FOLDER / "kubernetes" / "work-pool.json").read_text())
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
WORKER = list(yaml.safe_load_all((FOLDER / "kubernetes" / "worker.yaml").read_text()))


def rendered(**values: Any) -> dict[str, Any]:
    """The job that Prefect's worker makes of the template with these values, as it fills in its own."""
    from prefect.utilities.templating import apply_values

    defaults = {name: each.get("default") for name, each in TEMPLATE["variables"]["properties"].items()}
    chosen = {name: value for name, value in {**defaults, **values}.items() if value is not None}
    job = apply_values(TEMPLATE["job_configuration"]["job_manifest"], chosen)
    [container] = job["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = ["python", "-m", "prefect.engine"]
    job["metadata"]["generateName"] = "run-"
    return job


def test_compose_is_what_its_schema_allows():
    pytest.importorskip("check_jsonschema")
    from importlib.resources import files

    from jsonschema.validators import validator_for

    place = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(place.read_text())
    validator = validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {"a": {"imagge": "b"}}}
    assert list(validator.iter_errors(broken)) != []


def test_compose_holds_together():
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in volumes, name
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[needed], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
    assert services["worker"]["command"][4] == POOL
    passwords = re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text())
    assert set(passwords) == {"POSTGRES_PASSWORD", "STORE_PASSWORD"}


def test_only_one_worker_serves_the_pool_once_the_documents_command_has_run():
    """Of two, the one without GPUs might be given a training."""
    serving = {name for name, each in COMPOSE["services"].items() if "worker" in each.get("command", [])}
    assert serving == {"worker", "worker-gpu"}
    for place in (FOLDER / "compose.yaml", ROOT / "docs" / "cluster.md"):
        lines = [line for line in place.read_text().splitlines() if "--profile gpu up" in line]
        assert lines
        assert all("--scale worker=0" in line for line in lines), place.name


def test_compose_points_both_servers_at_addresses_we_accept():
    from fluxmodel.errors import InputError
    from tasks.databases import MLFLOW_VARIABLE, PREFECT_VARIABLES, Database, require_form

    named = (("prefect", "Prefect", PREFECT_VARIABLES[1]), ("mlflow", "MLflow", MLFLOW_VARIABLE))
    addresses = {owner: COMPOSE["services"][service]["environment"][key] for service, owner, key in named}
    for _, owner, variable in named:
        database = Database(owner, addresses[owner], variable)
        require_form(database)
        assert database.dialect == "postgresql"
    with pytest.raises(InputError, match=PREFECT_VARIABLES[1]):
        require_form(Database("Prefect", addresses["MLflow"], PREFECT_VARIABLES[1]))


def test_the_image_is_built_from_what_is_there():
    text = (FOLDER / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = re.findall(r'-e "\.\[([\w,]+)\]"', text)[0].split(",")
    assert set(asked) <= set(packages["project"]["optional-dependencies"])
    found = packages["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in found} <= {
        line.split()[0] for line in re.findall(r"^COPY (.+)$", text, re.M)
    }


def test_every_field_of_the_job_has_a_variable_and_a_sound_default():
    import jsonschema

    used = set(re.findall(r"{{ (\w+) }}", json.dumps(TEMPLATE["job_configuration"])))
    variables = TEMPLATE["variables"]
    assert used == set(variables["properties"])
    defaults = {name: each["default"] for name, each in variables["properties"].items()}
    jsonschema.Draft202012Validator(variables).validate(defaults)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(variables).validate({**defaults, "gpus": -1})


def test_a_job_gets_its_gpus_shared_memory_and_tolerations():
    job = rendered(gpus=2, shared_memory="4Gi", node_selector={"gpu": "h100"})
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["resources"]["requests"]["nvidia.com/gpu"] == 2
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {"/data": "home", "/dev/shm": "shared-memory"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert {"name": "FLUXLINE_HOME", "value": "/data"} in container["env"]
    assert pod["terminationGracePeriodSeconds"] > 60  # a stage saves a checkpoint in that time
    assert (pod["parallelism"], pod["completions"]) == (
        1,
        1,
    )  # Prefect's worker refuses a template without them


def test_a_job_has_the_device_that_an_external_lease_takes_for_granted():
    defaults = TEMPLATE["variables"]["properties"]
    assert defaults["env"]["default"]["FLUXLINE_LEASE"] == "external"
    [container] = rendered()["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_documents_commands_make_a_manifest_for_the_image(tmp_path):
    """Prefect would else have each job change to the directory of whoever deployed."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    commands = [
        line for line in text.splitlines() if line.endswith(" prefect-kubernetes.yaml") and ">" in line
    ]
    (tmp_path / "deployments").symlink_to(FOLDER)
    subprocess.run(["bash", "-ec", "\n".join(commands)], cwd=tmp_path, check=True)
    made = yaml.safe_load((tmp_path / "prefect-kubernetes.yaml").read_text())
    from prefect.cli.deploy._models import PrefectYamlModel

    read = PrefectYamlModel.model_validate(made)
    place = re.findall(r"^WORKDIR (\S+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert read.pull == [{"prefect.deployments.steps.set_working_directory": {"directory": place[0]}}]
    assert {each["work_pool"]["name"] for each in made["deployments"]} == {"fluxline-kubernetes"}


def test_kubernetes_takes_what_we_write():
    validate = pytest.importorskip("kubernetes_validate").validate
    job = rendered(gpus=1)
    for name in (
        "parallelism",
        "completions",
    ):  # Prefect puts them there; Kubernetes ignores what it does not know
        del job["spec"]["template"]["spec"][name]
    for document in (job, *WORKER):
        validate(document, "1.33", strict=True)
    job["spec"]["template"]["spec"]["toleration"] = []
    wrong = importlib.import_module("kubernetes_validate").ValidationError
    with pytest.raises(wrong):
        validate(job, "1.33", strict=True)
