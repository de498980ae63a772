'use strict'

// Every call is a quarter of an hour after the one before it. The counter is kept on `globalThis`
// because npm may install this package more than once, and each copy must go on where the others are.

const FIRST = Date.UTC(2024, 0, 1)
const STEP = 15 * 60 * 1000
const CALLS = Symbol.for('hawsepipe-tests.monotonic-timestamp')

module.exports = function timestamp () {
  const calls = globalThis[CALLS] || 0
  globalThis[CALLS] = calls + 1
  return FIRST + calls * STEP
}
