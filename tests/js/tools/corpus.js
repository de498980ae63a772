'use strict'

// Makes the corpus of the interop tests: `node corpus.js DIRECTORY` writes DIRECTORY/messages.jsonl,
// one `{key, value}` a line in the order in which the messages were written, and DIRECTORY/authors.json.
// Authors, types, texts and claimed times follow from the seed; only what is encrypted differs from one
// run to the next, because private-box draws its nonces at random.

const fs = require('fs')
const path = require('path')
const generate = require('ssb-fixtures')

const SEED = 'hawsepipe-interop-1'
const MESSAGES = 20000
const AUTHORS = 200

async function main (directory) {
  const work = path.join(directory, 'fixture.partial')
  fs.rmSync(work, { recursive: true, force: true })
  fs.mkdirSync(work, { recursive: true })
  await generate({
    outputDir: work,
    seed: SEED,
    messages: MESSAGES,
    authors: AUTHORS,
    slim: false,
    allkeys: false,
    followGraph: true,
    report: false
  })
  await write(work, directory)
  fs.rmSync(work, { recursive: true, force: true })
}

/** Reads the flume log that ssb-fixtures made, through a database that is opened for nothing else. */
async function write (work, directory) {
  const SecretStack = require('secret-stack')
  const caps = require('ssb-caps')
  const keys = require('ssb-keys').loadSync(path.join(work, 'secret'))
  const pull = require('pull-stream')
  const sbot = SecretStack({ caps }).use(require('ssb-db'))({
    path: work, keys, connections: { incoming: {}, outgoing: {} }
  })
  const messages = await new Promise((resolve, reject) => {
    pull(sbot.createLogStream({ private: false }), pull.collect((error, all) => error ? reject(error) : resolve(all)))
  })
  if (messages.length !== MESSAGES) throw new Error('the corpus has ' + messages.length + ' messages')
  const lines = messages.map(({ key, value }) => JSON.stringify({ key, value: bare(value) }) + '\n')
  const clock = {}
  for (const { value } of messages) clock[value.author] = value.sequence
  publish(directory, 'clock.json', JSON.stringify(clock))
  publish(directory, 'messages.jsonl', lines.join(''))
  await new Promise((resolve) => sbot.close(resolve))
}

/** A database adds fields to what it can decrypt. */
function bare ({ previous, sequence, author, timestamp, hash, content, signature, ...added }) {
  if (added.cyphertext) content = added.cyphertext
  return { previous, sequence, author, timestamp, hash, content, signature }
}

/** Under its name only when it is whole. */
function publish (directory, name, text) {
  const file = path.join(directory, name)
  fs.writeFileSync(file + '.partial', text)
  fs.renameSync(file + '.partial', file)
}

main(path.resolve(process.argv[2])).then(() => process.exit(0), (error) => {
  console.error(error)
  process.exit(1)
})
