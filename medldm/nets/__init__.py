"""Networks. The only room that takes anything from MONAI."""
