"""What a restoration is compared with: classical baselines."""
