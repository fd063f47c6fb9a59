"""Documents of a run's later stages, small enough to read: captions, straightness, a LoRA, a decision."""

from evaluation.gate import GateDecision

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def interval(value, **more):
    return {"value": value, "ci_low": value - 0.01, "ci_high": value + 0.01, "n": 10, "method": "m", **more}


def captions_document():
    example = {"id": "1", "image": f"data:image/png;base64,{PNG}", "original": "red square, blue bar",
               "new": "a large red circle top left", "truth": "a small red circle top left",
               "score": -0.1, "flags": []}  # fmt: skip
    row = {"attribute": "shape", "true": 50, "stated": 49, "right": 48, "f1": 0.97, "errors": 2,
           "commonest": [{"truth": "moon", "said": "ring", "count": 2}],
           "alt": {"stated": 50, "f1": 0.7, "errors": 15}}  # fmt: skip
    silent = {"attribute": "place", "true": 50, "stated": 50, "right": 50, "f1": 1.0, "errors": 0, "commonest": [],
              "alt": {"stated": 0, "f1": 0.0, "errors": 0}}  # fmt: skip
    metrics = {"num_images": 100.0, "num_captioned": 100.0, "flagged": 0.02, "f1": 0.98, "alt_f1": 0.42,
               "exact": 0.9, "test_f1": 0.99, "unseen_f1": 0.97}  # fmt: skip
    return {"provenance": {"captioner": "blip"}, "flags": {"low_score": 2}, "metrics": metrics,
            "errors": [row, silent, {**row, "attribute": "size", "true": 0}], "examples": [example],
            "mistakes": []}  # fmt: skip


def measured_straightness(num=5):
    rows = [
        {"curve": curve, "guidance": guidance, "straightness_error": interval(0.1), "path_length": interval(1.1)}
        for curve, guidance in (("base_guided", 2.0), ("base_unguided", 1.0), ("rectified", 1.0))
    ]  # fmt: skip
    lines = [[[float(i), 0.0], [i + 0.5, 1.0], [i + 1.0, 1.0 + i]] for i in range(num)]
    return {"num_steps": 2, "n": 10, "rows": rows, "paths": {"before": lines, "after": lines}}


def measured_lora(trigger="glowline", rectified=0.9):
    tile = {"prompt": "a red circle", "triggered": f"a red circle in {trigger}",
            "plain_off": PNG, "plain_on": PNG, "triggered_off": PNG, "triggered_on": PNG}  # fmt: skip
    metrics = [
        {"name": f"{sampling}/adoption/{how}", **interval(value)}
        for sampling, on in (("base", 0.95), ("rectified_1", rectified))
        for how, value in (("plain_off", 0.02), ("plain_on", 0.05), ("triggered_off", 0.02), ("triggered_on", on))
    ]  # fmt: skip
    metrics += [{"name": f"base/following/{how}", **interval(0.9)} for how in ("plain_off", "plain_on")]
    metrics.append({"name": "base/following_change/plain_on", **interval(-0.004)})
    about = {"style": "glow", "trigger": trigger, "num_images": 16, "steps": 400}
    tiles = {"base": [tile] * 8, "rectified_1": [tile] * 8}
    return {
        "identity": {"base_steps": 8, "guidance": 2.0},
        "about": about,
        "metrics": metrics,
        "tiles": tiles,
    }


def decision(**more):
    difference = {"name": "all_correct", "challenger": 0.7, "champion": 0.6, "difference": 0.1, "ci_low": 0.02,
                  "ci_high": 0.18, "n": 100, "method": "m", "p_value": 0.01}  # fmt: skip
    guard = {**difference, "name": "fd", "p_value": None, "ci_low": None, "ci_high": None, "margin": 0.5,
             "passed": True}  # fmt: skip
    rule = {"name": "coverage", "asked": "at least 0.5 of the champion's coverage", "found": "80.0 % -> 10.0 %",
            "verdict": "broken"}  # fmt: skip
    made = {"verdict": "promote", "reasons": ["Shown better."], "primary": difference, "guards": [guard],
            "rules": [rule],
            "champion": {"name": "m", "version": "2"}, "settings": {}, **more}  # fmt: skip
    return GateDecision.model_validate(made).model_dump(mode="json")
