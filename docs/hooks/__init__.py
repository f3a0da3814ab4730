"""The pages of the site that are generated: from the doors, the catalogue and a benchmark's JSON."""
