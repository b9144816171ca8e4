"""Synthesis of new scans."""
