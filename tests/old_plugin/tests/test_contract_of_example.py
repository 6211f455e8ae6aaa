"""The contract over each component of this plugin, with every partner installed."""

from flexvar import contract


def test_backbone():
    contract.check("backbone", "mean_mixer")


def test_position():
    contract.check("position", "ramp")


def test_tokenizer():
    contract.check("tokenizer", "patches")


def test_schedule():
    contract.check("schedule", "doubling")
