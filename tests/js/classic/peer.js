'use strict'

// ssb-server 16 with the plugins of its own `bin.js`, except the one that reaches for another network (onion).

const { options, serve, promised, blobs } = require('../control')
const makeConfig = require('ssb-config/inject')
const pull = require('pull-stream')

const { path, host, port, shs, hops, lan, ebt, plugins } = options()

const config = makeConfig('hawsepipe-tests', {
  path,
  caps: { shs },
  port,
  host,
  friends: { hops },
  // As users have it, or nothing that dials by itself.
  gossip: lan ? {} : { local: false, friends: false, seed: false, global: false },
  connections: {
    incoming: {
      net: [{ host, port, scope: ['device', 'local', 'private'], transform: 'shs' }],
      unix: [{ scope: 'device', transform: 'noauth' }]
    },
    outgoing: { net: [{ transform: 'shs' }] }
  },
  timers: { inactivity: -1, handshake: 15000 },
  logging: { level: 'error' }
})

const stack = require('ssb-server')
  .use(require('ssb-private1'))
  .use(require('ssb-unix-socket'))
  .use(require('ssb-no-auth'))
  .use(require('ssb-plugins'))
  .use(require('ssb-ws'))
  .use(require('ssb-master'))
  .use(require('ssb-gossip'))
  .use(require('ssb-replicate'))
  .use(require('ssb-friends'))
  .use(require('ssb-blobs'))
  .use(require('ssb-invite'))
  .use(require('ssb-local'))
  .use(require('ssb-logging'))
  .use(require('ssb-query'))
  .use(require('ssb-links'))
  .use(require('ssb-ooo'))
// Without it ssb-replicate does what peers did before: createHistoryStream for every feed.
if (ebt) stack.use(require('ssb-ebt'))
// What users add for their clients. Each has an index of its own, which costs as long as messages come.
if (plugins) {
  stack
    .use(require('ssb-backlinks'))
    .use(require('ssb-search'))
    .use(require('ssb-meme'))
    .use(require('ssb-about'))
    .use(require('ssb-names'))
    .use(require('ssb-tangle'))
    .use(require('ssb-threads'))
}

const sbot = stack(config)

const collect = (stream) => promised((done) => pull(stream, pull.collect(done)))

serve({ id: sbot.id, stack: 'classic', address: sbot.getAddress('private') || sbot.getAddress('device') }, {
  onMessage: (listener) => sbot.post(listener, false),
  publish: (content) => promised((done) => sbot.publish(content, done)),
  add: (values) => values.reduce(
    (before, value) => before.then(() => promised((done) => sbot.add(value, done))).then(() => null),
    Promise.resolve(null)
  ),
  manifest: async () => sbot.getManifest(),
  clock: () => promised((done) => sbot.getVectorClock(done)),
  ids: () => collect(sbot.createLogStream({ keys: true, values: false })),
  get: (key) => promised((done) => sbot.get(key, done)),
  getPrivate: (key) => promised((done) => sbot.get({ id: key, private: true, meta: true }, done)),
  oooGet: (id) => promised((done) => sbot.ooo.get(id, done)),
  connect: (address) => promised((done) => sbot.connect(address, done)).then((rpc) => rpc.id),
  peers: async () => Object.keys(sbot.peers).filter((id) => sbot.peers[id].length > 0),
  ...blobs(sbot, pull),
  gossip: async (method, ...args) => sbot.gossip[method](...args),
  hops: () => promised((done) => sbot.friends.hops(done)),
  indexed: async () => {
    const { current, target } = sbot.progress().indexes
    return current === target
  },
  close: () => promised((done) => sbot.close(done))
})
