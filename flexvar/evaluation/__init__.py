"""How good samples and reconstructions are, in figures.

::

    from flexvar import Pipeline
    from flexvar.evaluation import offline_figures

    pipe = Pipeline.from_pretrained("photos")
    offline_figures(pipe, "photos", num=10, seed=0)["frechet"]

`flexvar.metrics.distances` holds the measures as functions of features; `samples` makes and
checks sets of samples; `evaluate` is what ``flexvar evaluate`` runs.
"""

from flexvar.evaluation.offline import offline_figures
from flexvar.metrics.distances import frechet_distance, inception_score, precision_recall

__all__ = ["frechet_distance", "inception_score", "offline_figures", "precision_recall"]
