// Pseudo-random numbers that a seed fixes (mulberry32).

export const generator = seed => {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
  const below = bound => Math.floor(next() * bound)
  const pick = items => items[below(items.length)]
  return { next, below, pick }
}
