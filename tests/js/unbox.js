'use strict'

// How fast `ssb-keys` tries private messages: `node unbox.js FOLDER FILE KEY`, with one ciphertext a line and the
// reader's private key in base64. Prints messages a second, and a second of processor time.

const fs = require('fs')
const path = require('path')
const { createRequire } = require('module')

const [folder, file, key] = process.argv.slice(2)
const keys = createRequire(path.join(__dirname, folder, 'peer.js'))('ssb-keys')

const sealed = fs.readFileSync(file, 'utf8').split('\n')
const reader = { private: key + '.ed25519' }
const cpu = process.cpuUsage()
const started = process.hrtime.bigint()
for (const content of sealed) keys.unbox(content, reader)
const seconds = Number(process.hrtime.bigint() - started) / 1e9
const used = process.cpuUsage(cpu)
console.log(sealed.length / seconds, sealed.length / ((used.user + used.system) / 1e6))
