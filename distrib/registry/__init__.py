"""Registered models: storing, finding, comparing and choosing the champion."""
