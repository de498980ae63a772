'use strict'

// Preloaded into a client's own test suite (`node --require`), it makes `require('ssb-server')` our node: the program
// that `HAWSEPIPE` names, one process for each server that a test starts. As much of secret-stack as such suites use.

const { EventEmitter } = require('events')
const { spawn } = require('child_process')
const fs = require('fs')
const Module = require('module')
const os = require('os')
const path = require('path')
const readline = require('readline')

// A port is free again only when the process before is gone.
let before = Promise.resolve()

function start (options) {
  const server = new EventEmitter()
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'as-ssb-server-'))
  const { curve, public: publicKey, private: privateKey, id } = options.keys
  fs.writeFileSync(path.join(dir, 'secret'), JSON.stringify({ curve, public: publicKey, private: privateKey, id }), { mode: 0o400 })
  const settings = {
    port: options.port,
    host: '127.0.0.1',
    'caps.shs': options.caps.shs,
    local: false,
    'overlay.enabled': false,
    'metrics.listen': false,
    'blobs.http': false
  }
  const words = Object.entries(settings).flatMap(([key, value]) => ['--set', key + '=' + value])
  let child
  before.then(() => {
    child = spawn(process.env.HAWSEPIPE, ['--path', dir, ...words, 'start'], { stdio: ['ignore', 'pipe', 'inherit'] })
    before = new Promise((resolve) => child.on('exit', resolve))
    readline.createInterface({ input: child.stdout }).on('line', (line) => {
      if (line === 'ready') server.emit('multiserver:listening')
    })
  })
  server.manifest = () => JSON.parse(fs.readFileSync(path.join(dir, 'manifest.json')))
  server.close = () => {
    child.kill()
    before.then(() => fs.rmSync(dir, { recursive: true }))
  }
  return server
}

start.use = () => start

const load = Module._load
Module._load = function (request, ...rest) {
  if (request === 'ssb-server') return start
  // A plugin of the server that ours needs not.
  if (request === 'ssb-master') return {}
  return load.call(this, request, ...rest)
}
