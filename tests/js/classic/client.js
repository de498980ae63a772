'use strict'

// A client as people write them, `ssb-client`, that measures what it asks: how long each answer takes until its last item
// is here, and how long it takes this program merely to unseal and parse the same packets.
//
// One argument: `{path, remote, queries: [{name, kind, method, args, times}]}`; one line of JSON for each query:
// `{name, items, took, decode}`, medians in milliseconds.

const crypto = require('crypto')
const boxes = require('pull-box-stream')
const client = require('ssb-client')
const codec = require('packet-stream-codec')
const keys = require('ssb-keys')
const pull = require('pull-stream')

const { path, remote, shs, queries } = JSON.parse(process.argv[2])

const now = () => Number(process.hrtime.bigint()) / 1e6
const median = (times) => times.sort((a, b) => a - b)[times.length >> 1]

function ask (rpc, { kind, method, args }) {
  const call = method.reduce((at, name) => at[name], rpc)
  return new Promise((resolve, reject) => {
    const done = (error, result) => error ? reject(error) : resolve(result)
    if (kind === 'source') pull(call(...args), pull.collect(done))
    else call(...args, done)
  })
}

function collected (stream) {
  return new Promise((resolve, reject) => {
    pull(stream, pull.collect((error, items) => error ? reject(error) : resolve(items)))
  })
}

async function decode (items, isStream, times) {
  const key = crypto.randomBytes(32)
  const nonce = crypto.randomBytes(24)
  const packets = items.map((value) => ({ req: 1, stream: isStream, end: false, value }))
  const sealed = await collected(pull(
    pull.values(packets), codec.encode(), boxes.createBoxStream(Buffer.from(key), Buffer.from(nonce))
  ))
  const took = []
  for (let n = 0; n < times; n++) {
    // Unsealing is done in place.
    const bytes = sealed.map((piece) => Buffer.from(piece))
    const started = now()
    await collected(pull(
      pull.values(bytes), boxes.createUnboxStream(Buffer.from(key), Buffer.from(nonce)), codec.decode()
    ))
    took.push(now() - started)
  }
  return median(took)
}

async function measure (rpc, query) {
  let answer = await ask(rpc, query)
  const took = []
  for (let n = 0; n < query.times; n++) {
    const started = now()
    answer = await ask(rpc, query)
    took.push(now() - started)
  }
  const isStream = query.kind === 'source'
  const items = isStream ? answer : [answer]
  const decoded = await decode(items, isStream, Math.max(3, query.times))
  const line = { name: query.name, items: items.length, took: median(took), decode: decoded }
  process.stdout.write(JSON.stringify(line) + '\n')
}

const connect = (manifest) => new Promise((resolve, reject) => {
  const config = { remote, manifest, caps: { shs } }
  client(keys.loadOrCreateSync(path), config, (error, rpc) => error ? reject(error) : resolve(rpc))
})

async function main () {
  const first = await connect({ manifest: 'async' })
  const manifest = await new Promise((resolve, reject) => {
    first.manifest((error, manifest) => error ? reject(error) : resolve(manifest))
  })
  const rpc = await connect(manifest)
  for (const query of queries) await measure(rpc, query)
}

main().then(() => process.exit(0), (error) => {
  console.error(error)
  process.exit(1)
})
