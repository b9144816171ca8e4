"""Restoration: from a scan to what the scanner would have measured without the loss."""
