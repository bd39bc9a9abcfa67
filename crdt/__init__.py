"""Documents and wire formats. Pure: no I/O and no asyncio. The only home of pycrdt."""
