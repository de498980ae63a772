'use strict'

// The stack Manyverse is built from: ssb-db2 with its compatibility plugins, ssb-ebt 9 fed by
// ssb-friends 5 through the replication scheduler, and ssb-conn for connections.

const { options, serve, promised, blobs } = require('../control')
const SecretStack = require('secret-stack')
const caps = require('ssb-caps')
const keys = require('ssb-keys')
const { join } = require('path')
const pull = require('pull-stream')
const { toPullStream } = require('ssb-db2/operators')

const { path, host, port, shs, hops, lan } = options()

const config = {
  path,
  keys: keys.loadOrCreateSync(join(path, 'secret')),
  caps: { ...caps, shs },
  friends: { hops },
  conn: { autostart: lan, populatePubs: false },
  lan: { legacy: true },
  blobs: { sympathy: 1 },
  connections: {
    incoming: { net: [{ host, port, scope: 'private', transform: 'shs' }] },
    outgoing: { net: [{ transform: 'shs' }] }
  },
  timers: { inactivity: -1, handshake: 15000 }
}

const stack = SecretStack({ caps: config.caps })
  .use(require('ssb-master'))
  .use(require('ssb-db2'))
  .use(require('ssb-db2/compat/db'))
  .use(require('ssb-db2/compat/ebt'))
  .use(require('ssb-db2/compat/feedstate'))
  .use(require('ssb-db2/compat/history-stream'))
  .use(require('ssb-db2/compat/post'))
  .use(require('ssb-box2'))
  .use(require('ssb-friends'))
  .use(require('ssb-ebt'))
  .use(require('ssb-replication-scheduler'))
  .use(require('ssb-conn'))
  .use(require('ssb-blobs'))
  .use(require('ssb-subset-rpc'))
if (lan) stack.use(require('ssb-lan'))

const sbot = stack(config)

const collect = (stream) => promised((done) => pull(stream, pull.collect(done)))

serve({ id: sbot.id, stack: 'manyverse', address: sbot.getAddress('private') || sbot.getAddress('device') }, {
  onMessage: (listener) => sbot.db.onMsgAdded(listener),
  publish: (content) => promised((done) => sbot.db.publish(content, done)),
  publishEnvelope: (content, recps) => promised(
    (done) => sbot.db.create({ keys: config.keys, content, recps, encryptionFormat: 'box2' }, done)
  ),
  joinGroup: async (id, key, root) => sbot.box2.addGroupInfo(id, { key: Buffer.from(key, 'base64'), root }),
  add: (values) => {
    const feeds = new Map()
    for (const value of values) {
      if (!feeds.has(value.author)) feeds.set(value.author, [])
      feeds.get(value.author).push(value)
    }
    return [...feeds.values()].reduce(
      (before, feed) => before.then(() => promised((done) => sbot.db.addBatch(feed, done))).then(() => null),
      Promise.resolve(null)
    )
  },
  clock: () => promised((done) => sbot.getVectorClock(done)),
  ids: () => collect(pull(sbot.db.query(toPullStream()), pull.map((message) => message.key))),
  get: (key) => promised((done) => sbot.db.get(key, done)),
  subsetOf: (id, query, options) => collect(sbot.peers[id][0].getSubset(query, options)),
  connect: (address) => promised((done) => sbot.connect(address, done)).then((rpc) => rpc.id),
  peers: async () => Object.keys(sbot.peers).filter((id) => sbot.peers[id].length > 0),
  ...blobs(sbot, pull),
  conn: async (method, ...args) => sbot.conn[method](...args),
  staged: () => promised((done) => pull(sbot.conn.stagedPeers(), pull.take(1), pull.collect(done))).then((all) => all[0]),
  hops: () => promised((done) => sbot.friends.hops(done)),
  indexed: () => promised((done) => sbot.db.onDrain(done)).then(() => true),
  close: () => promised((done) => sbot.close(true, done))
})
