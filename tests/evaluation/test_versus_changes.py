from evaluation.versus_changes import StageAccount, VersionAccount, changes, environment_of, flattened

TRAIN = {
    "parameters": {"job": {"steps": 40, "optimizer": {"lr": 0.001}, "model": {"depth": 2}}},
    "seed": 0,
    "code": {"fluxmodel.training.loop": "a1", "fluxmodel.flow.path": "b1"},
    "digest": "d1",
    "environment": {"python": "3.11.7", "torch": "2.13.0"},
}


def account(label: str, **train) -> VersionAccount:
    stages = {
        "train": StageAccount(**TRAIN | train),
        "curate": StageAccount(digest="same", environment=TRAIN["environment"]),
    }
    return VersionAccount(label=label, stages=stages)


def test_nothing_differs_between_a_version_and_itself():
    found = changes(account("one"), account("two"))
    assert found.is_known
    assert (found.settings, found.code, found.environment, found.different) == ([], [], [], [])
    assert found.shared == ["curate", "train"]


def test_each_setting_is_named_with_its_stage_and_both_values():
    job = {"job": {"steps": 60, "optimizer": {"lr": 0.001, "decay": 0.1}}}
    found = changes(account("one"), account("two", parameters=job, digest="d2"))
    assert [(each.stages, each.name, each.old, each.new) for each in found.settings] == [
        (["train"], "job.model.depth", 2, None),
        (["train"], "job.optimizer.decay", None, 0.1),
        (["train"], "job.steps", 40, 60),
    ]
    assert (found.shared, found.different) == (["curate"], ["train"])


def test_seed_code_and_environment_are_told_apart():
    code = {"fluxmodel.training.loop": "a2", "fluxmodel.flow.schedule": "c1"}
    found = changes(
        account("one"), account("two", seed=1, code=code, environment={"python": "3.11.7", "torch": "2.14.0"})
    )
    assert [(each.name, each.old, each.new) for each in found.settings] == [("seed", 0, 1)]
    assert found.code[0].stage == "train"
    assert found.code[0].modules == [
        "fluxmodel.flow.path",
        "fluxmodel.flow.schedule",
        "fluxmodel.training.loop",
    ]
    assert [(each.name, each.old, each.new) for each in found.environment] == [
        ("torch", "2.13.0", "2.13.0, 2.14.0")
    ]


def test_the_same_change_in_several_stages_is_one():
    def seeded(seed: int) -> VersionAccount:
        return VersionAccount(
            label="", stages={name: StageAccount(seed=seed) for name in ("rectify", "train", "encode")}
        )

    [found] = changes(seeded(0), seeded(1)).settings
    assert (found.name, found.stages) == ("seed", ["encode", "train", "rectify"])


def test_a_stage_of_one_side_only_is_a_difference_of_parents_alone():
    more = account("two")
    more = more.model_copy(update={"stages": {**more.stages, "finetune": StageAccount(digest="lora")}})
    found = changes(account("one"), more)
    assert found.different == ["finetune"]
    assert found.settings == []


def test_a_side_of_which_nothing_is_known_is_said_so():
    assert not changes(account("one"), VersionAccount(label="a folder")).is_known
    assert environment_of(VersionAccount(label="a folder")) == {}


def test_empty_settings_are_no_settings_lost():
    assert flattened({"a": {}, "b": {"c": 1}}) == {"a": {}, "b.c": 1}
