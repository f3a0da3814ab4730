"""Reports for others: a page to read, the list of tests that CI reads."""
