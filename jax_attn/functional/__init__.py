"""Arrays in, arrays out: attention and what it is made of, without modules or state."""
