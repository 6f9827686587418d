"""Searches: several trainings beside each other, compared on validation; the test split stays sealed."""
