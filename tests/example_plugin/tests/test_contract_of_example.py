"""The contract over each component of this plugin."""

from flexvar import contract


def test_backbone():
    contract.check("backbone", "mean_mixer")


def test_position():
    contract.check("position", "ramp")


def test_tokenizer():
    contract.check("tokenizer", "patches")


def test_schedule():
    contract.check("schedule", "doubling")


def test_conditioner():
    contract.check("conditioner", "palette")


def test_sampler():
    contract.check("sampler", "cooling")


def test_objective():
    contract.check("objective", "late")
