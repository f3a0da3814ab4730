"""Speed, measured side by side: every contender in one interleaved run."""
