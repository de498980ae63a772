'use strict'

// Drives one foreign peer by lines of JSON: a request `{"id": 1, "do": "publish", "args": [...]}` on
// standard input, an answer `{"id": 1, "result": ...}` or `{"id": 1, "error": "..."}` on standard
// output, and first of all `{"ready": {...}}`. The process ends when standard input does, so a peer
// never outlives the test that started it.

const fs = require('fs')
const readline = require('readline')

// So many messages at once go into a database on import: enough to be fast, not enough to time out.
const IMPORT_BATCH = 2000

// A clock is costly with many feeds, so a burst of messages shares one look at it.
const LOOK_EVERY_MS = 50

// Nobody tells when the indexes have caught up.
const LOOK_AT_INDEXES_EVERY_MS = 20

/** Parses the single argument of a peer: what it is to be, as JSON. */
exports.options = function options () {
  const given = JSON.parse(process.argv[2] || '{}')
  for (const required of ['path', 'host', 'port', 'shs']) {
    if (given[required] === undefined) throw new Error('peer option missing: ' + required)
  }
  return { hops: 2, lan: false, ebt: true, plugins: false, ...given }
}

/**
 * Answers requests with the methods of `peer`, each of them `async (...args) => result`.
 *
 * `peer.onMessage(listener)` must call `listener` after messages were stored, `peer.clock()` must give
 * `{feed: sequence}`, and `peer.indexed()` tell whether all indexes have caught up; the waiting commands are
 * built on those.
 */
exports.serve = function serve (ready, peer) {
  const waiting = new Set()
  let checking = false
  let again = false

  async function check () {
    if (checking) { again = true; return }
    checking = true
    do {
      again = false
      if (waiting.size > 0) {
        const clock = await peer.clock()
        for (const wait of [...waiting]) {
          if (covers(clock, wait.clock)) {
            waiting.delete(wait)
            wait.resolve(clock)
          }
        }
      }
    } while (again)
    checking = false
  }

  let planned = null
  peer.onMessage(() => {
    if (planned || waiting.size === 0) return
    planned = setTimeout(() => { planned = null; check().catch(fail) }, LOOK_EVERY_MS)
  })

  const methods = {
    ...peer,
    /** Ends when the local clock has reached every entry of `clock`. */
    waitFor: (clock) => new Promise((resolve) => {
      waiting.add({ clock, resolve })
      check().catch(fail)
    }),
    /** Ends when everything that was added can be found by every index. */
    indexed: async () => {
      while (!await peer.indexed()) {
        await new Promise((resolve) => setTimeout(resolve, LOOK_AT_INDEXES_EVERY_MS))
      }
    },
    follow: (ids) => publishAll(peer, ids.map((contact) => ({ type: 'contact', contact, following: true }))),
    block: (ids) => publishAll(peer, ids.map((contact) => ({ type: 'contact', contact, blocking: true }))),
    /** Adds the messages of a file with one `{key, value}` a line. */
    import: async (file) => {
      const values = fs.readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line).value)
      for (let at = 0; at < values.length; at += IMPORT_BATCH) await peer.add(values.slice(at, at + IMPORT_BATCH))
      return values.length
    },
    usage: async () => ({ rss: process.memoryUsage().rss, cpu: process.cpuUsage() })
  }

  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', async (line) => {
    const request = JSON.parse(line)
    try {
      const method = methods[request.do]
      if (!method) throw new Error('no such command: ' + request.do)
      const result = await method(...(request.args || []))
      write({ id: request.id, result: result === undefined ? null : result })
    } catch (error) {
      write({ id: request.id, error: describe(error) })
    }
  })
  lines.on('close', () => process.exit(0))
  write({ ready })
}

function covers (clock, wanted) {
  return Object.entries(wanted).every(([feed, sequence]) => (clock[feed] || 0) >= sequence)
}

async function publishAll (peer, contents) {
  const keys = []
  for (const content of contents) keys.push((await peer.publish(content)).key)
  return keys
}

function write (value) {
  process.stdout.write(JSON.stringify(value) + '\n')
}

function describe (error) {
  const cause = error && error.cause ? ': ' + describe(error.cause) : ''
  return String((error && error.message) || error) + cause
}

function fail (error) {
  console.error(error)
  process.exit(1)
}

/** A function that takes a node-style callback last, as a function that gives a promise. */
exports.promised = function promised (call) {
  return new Promise((resolve, reject) => {
    call((error, value) => error ? reject(error) : resolve(value))
  })
}

/** The commands that both stacks have of ssb-blobs. Bytes are arrays of numbers. */
exports.blobs = function blobs (sbot, pull) {
  return {
    addBlob: (bytes) => exports.promised((done) => {
      pull(pull.values([Buffer.from(bytes)]), sbot.blobs.add(done))
    }),
    getBlob: (id) => exports.promised((done) => pull(sbot.blobs.get(id), pull.collect(done)))
      .then((pieces) => [...Buffer.concat(pieces)]),
    wantBlob: (id) => exports.promised((done) => sbot.blobs.want(id, done)),
    hasBlob: (id) => exports.promised((done) => sbot.blobs.has(id, done))
  }
}

// The plugins of both stacks print to standard output, which here belongs to the protocol above.
console.log = console.error
console.info = console.error
