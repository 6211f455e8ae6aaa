"""Training: stage 1 makes a tokenizer, stage 2 a prediction model over it.

::

    from flexvar.training import load_recipe, train

    recipe = load_recipe("digits", "tokenizer", ["steps=200"], out="runs/digits-tokenizer")
    train(recipe)

A run's directory is a checkpoint that `flexvar.Pipeline.from_pretrained` loads.
"""

from flexvar.training.recipe import ModelRecipe, TokenizerRecipe, load_recipe
from flexvar.training.train import train

__all__ = ["ModelRecipe", "TokenizerRecipe", "load_recipe", "train"]
