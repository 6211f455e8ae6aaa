"""Small models trained with equal budgets: the papers' ablations and scaling laws in small."""
