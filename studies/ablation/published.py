"""What the papers report, to stand beside what is measured here."""

from __future__ import annotations

from studies.ablation import plan

# FlexVAR (arXiv 2502.20313), FID of d20 after 40 epochs; None where training diverged.
TABLE_4: dict[str, float | None] = {
    f"digits: {plan.RESIDUAL}": 4.00,
    f"digits: {plan.FULL_RESIDUAL}": None,
    f"digits: {plan.FULL_ONE}": 17.75,
    f"digits: positions {plan.TABLE_STEP}": 3.82,
    f"digits: positions {plan.LEARNED_2D}": 3.71,
}
# FlexVAR table 5, FID / Inception score at d16 after 40 epochs.
TABLE_5 = {
    f"photos: {plan.TRANSFORMER}": (4.32, 209.9),
    f"photos: {plan.MAMBA}": (4.22, 200.0),
    f"photos: {plan.MAMBA_RASTER}": None,
}
# FlexVAR table 6, FID of d20 after 40 epochs.
TABLE_6 = {
    f"digits: positions {plan.TABLE_STEP}": 3.82,
    f"digits: positions {plan.TABLE_GRID}": 3.87,
    f"digits: positions {plan.SINUSOIDAL}": 3.74,
    f"digits: positions {plan.LEARNED_2D}": 3.71,
}
# FlexVAR-d24 at 256 px: steps -> (FID, Inception score).
FIGURE_6 = {10: (2.21, 299.1), 13: (2.08, 315.7)}
# VAR (arXiv 2404.02905): measure -> (factor of N in billions, exponent).
LAWS = {
    "last_loss": (2.0, -0.23),
    "loss": (2.5, -0.20),
    "last_error": (490.0, -0.016),
    "error": (650.0, -0.010),
}
LAW_NAMES = {
    "last_loss": "loss, last scale",
    "loss": "loss, all scales",
    "last_error": "token error, last scale",
    "error": "token error, all scales",
}
LAW_CORRELATION = -0.998
