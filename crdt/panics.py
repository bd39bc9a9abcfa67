"""What pycrdt raises, as errors of ours.

It panics where it meets what it does not expect. A panic is a BaseException that asyncio would take for a
request to stop everything, so every call that hands pycrdt bytes of others catches it.
"""

from tmi.domain.errors import BadUpdate


def is_panic(error: BaseException) -> bool:
    """Panics derive from BaseException, as cancellation, exit and interrupt do; pyo3 exports no class."""
    return type(error).__name__ == "PanicException"


def refusal(error: BaseException) -> BadUpdate:
    """The error of pycrdt as ours; anything that is not pycrdt's is raised again."""
    if isinstance(error, ValueError | RuntimeError) or is_panic(error):
        return BadUpdate(str(error)[:200])
    raise error
