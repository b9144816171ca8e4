"""The public API: each function takes what the caller has, calls one room and returns."""
