"""From the files of a run to one page that says which candidate to use, and shows why."""
