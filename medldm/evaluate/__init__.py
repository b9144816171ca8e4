"""How good a result is: metrics, classical baselines, intervals over patients, one-file HTML reports."""
