"""One-file HTML reports and the pictures in them."""
