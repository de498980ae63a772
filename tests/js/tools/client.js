'use strict'

// A client as other programs are written: ssb-client with the keys and the manifest of a data folder.
// `node client.js FOLDER ADDRESS` prints what it was told, as JSON.

const path = require('path')
const connect = require('ssb-client')
const keys = require('ssb-keys')
const pull = require('pull-stream')

const [folder, remote] = process.argv.slice(2)

function promised (call) {
  return new Promise((resolve, reject) => call((error, value) => error ? reject(error) : resolve(value)))
}

async function main () {
  const manifest = require(path.join(folder, 'manifest.json'))
  const secret = keys.loadSync(path.join(folder, 'secret'))
  const sbot = await promised((done) => connect(secret, { path: folder, remote, manifest }, done))
  const seen = {
    whoami: await promised((done) => sbot.whoami(done)),
    log: await promised((done) => pull(sbot.createLogStream({ limit: 5 }), pull.collect(done))),
    published: await promised((done) => sbot.publish({ type: 'post', text: 'by ssb-client' }, done)),
    refused: await promised((done) => sbot.publish({ text: 'no type' }, done)).catch((error) => error.message)
  }
  await promised((done) => sbot.close(true, done))
  console.log(JSON.stringify(seen))
}

main().then(() => process.exit(0), (error) => {
  console.error(error)
  process.exit(1)
})
