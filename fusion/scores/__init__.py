"""What a prediction is worth: losses that teach, metrics that judge (one file each, named here), and intervals around them.

Their order is that of tables; the first one ranks systems and chooses epochs.
"""

METRICS = {
    "ccc": "fusion.scores.ccc:CCC",
    "trial_ccc": "fusion.scores.trial_ccc:TrialCCC",
    "pcc": "fusion.scores.pcc:PCC",
    "rmse": "fusion.scores.rmse:RMSE",
    "sagr": "fusion.scores.sagr:SAGR",
}
