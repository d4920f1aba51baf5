"""Losses for training, metrics for evaluation (one file each, listed here), and their confidence intervals.

Tables show the metrics in this order; the first one ranks systems and chooses epochs.
"""

METRICS = {
    "ccc": "fusion.scores.ccc:CCC",
    "trial_ccc": "fusion.scores.trial_ccc:TrialCCC",
    "pcc": "fusion.scores.pcc:PCC",
    "rmse": "fusion.scores.rmse:RMSE",
    "sagr": "fusion.scores.sagr:SAGR",
}
