// The stock clients, unmodified, behind one face.

import * as decoding from 'lib0/decoding'
import * as Hocuspocus3 from 'hocuspocus-provider-3'
import * as Hocuspocus4 from 'hocuspocus-provider-4'
import * as YWebsocket2 from 'y-websocket-2'
import * as YWebsocket3 from 'y-websocket-3'
import * as Y from 'yjs'
import { generator } from './random.mjs'
import { Ledger, recordingSocket, socketLog } from './socket.mjs'

const PROVIDERS = {
  'y-websocket-2.1': YWebsocket2,
  'y-websocket-3.1': YWebsocket3,
  'hocuspocus-3.4': Hocuspocus3,
  'hocuspocus-4.8': Hocuspocus4
}

const sharedSockets = new Map()

class Client {
  constructor (spec) {
    this.name = spec.client
    this.spec = spec
    this.doc = new Y.Doc()
    this.random = generator(spec.seed ?? 1)
    this.ledger = new Ledger()
    this.token = spec.token
    this.applied = 0
    this.doc.on('update', (_update, origin) => { if (origin === this.provider) this.applied += 1 })
  }

  edit (id, transaction) { this.ledger.edit(id, () => this.doc.transact(transaction)) }
}

class YWebsocketClient extends Client {
  constructor (spec) {
    super(spec)
    this.log = socketLog()
    this.closedFinally = null
    this.saved = null
    const params = { ...(spec.params ?? {}) }
    if (spec.token !== undefined) params.token = spec.token
    if (spec.saved) params.saved = '1'
    const { WebsocketProvider } = PROVIDERS[spec.kind]
    this.provider = new WebsocketProvider(spec.url, spec.room, this.doc, {
      connect: false,
      params,
      disableBc: !spec.broadcast_channel,
      WebSocketPolyfill: recordingSocket(this.log, () => this.ledger, false),
      ...(spec.retry_ms ? { maxBackoffTime: spec.retry_ms } : {})
    })
    this.provider.messageHandlers[100] = (_encoder, decoder) => { this.saved = decoding.readVarUint(decoder) }
    this.provider.on('closed', event => { this.closedFinally = event.code })
    this.provider.on('connection-close', () => { this.saved = null })
    if (!spec.offline) this.provider.connect()
  }

  get awareness () { return this.provider.awareness }
  get connected () { return this.provider.wsconnected }
  get synced () { return this.provider.synced }
  // Everything that was sent on this connection is saved; without `saved` frames nobody can say.
  get settled () {
    const passage = this.ledger.passage
    return !this.spec.saved || (passage !== null && this.saved !== null && this.saved >= passage.updates.length)
  }

  setToken (token) { this.token = token; this.provider.params = { ...this.provider.params, token } }
  offline () { this.provider.disconnect() }
  async online () { this.provider.connect() }
  drop () { this.log.current?.terminate() }
  destroy () { this.provider.destroy(); this.provider.awareness.destroy(); this.doc.destroy() }
  details () { return { saved: this.saved, closed_finally: this.closedFinally } }
}

class HocuspocusClient extends Client {
  constructor (spec) {
    super(spec)
    this.denied = []
    this.stateless = []
    const { HocuspocusProvider } = PROVIDERS[spec.kind]
    this.shared = spec.socket !== undefined
    this.socket = this.shared ? sharedSocket(spec) : new OwnedSocket(spec)
    this.log = this.socket.log
    this.provider = new HocuspocusProvider({
      name: spec.room,
      document: this.doc,
      token: () => this.token ?? '',
      websocketProvider: this.socket.provider,
      ...(spec.session_awareness ? { sessionAwareness: true } : {}),
      ...(spec.flush_delay ? { flushDelay: spec.flush_delay } : {}),
      onStateless: ({ payload }) => this.stateless.push(JSON.parse(payload)),
      onAuthenticationFailed: ({ reason }) => this.denied.push(reason)
    })
    this.key = this.provider.effectiveName ?? spec.room
    this.socket.ledgers.set(this.key, this.ledger)
    this.provider.attach()
    if (!spec.offline) this.socket.provider.connect()
  }

  get awareness () { return this.provider.awareness }
  get connected () { return this.socket.provider.status === 'connected' }
  get synced () { return this.provider.synced }
  get settled () { return !this.provider.hasUnsyncedChanges || this.provider.authorizedScope === 'readonly' }

  setToken (token) { this.token = token }
  // Version 3 forgets a disconnect() that comes between two of its attempts, hence the block.
  offline () {
    this.log.blocked = true
    this.closing = this.log.current
    this.socket.provider.disconnect()
  }

  // The provider ignores connect() while its old socket is still closing.
  async online () {
    this.log.blocked = false
    // On a shared socket another document may have connected it again meanwhile.
    const isClosing = () => this.socket.provider.status === 'connected' && this.log.current === this.closing
    while (isClosing()) await new Promise(resolve => setTimeout(resolve, 5))
    this.socket.provider.connect()
  }

  drop () { this.log.current?.terminate() }
  destroy () {
    this.provider.destroy()
    this.socket.ledgers.delete(this.key)
    if (!this.shared) this.socket.provider.destroy()
    this.doc.destroy()
  }

  details () {
    return {
      has_unsynced_changes: this.provider.hasUnsyncedChanges,
      unsynced_changes: this.provider.unsyncedChanges,
      scope: this.provider.authorizedScope ?? null,
      authenticated: this.provider.isAuthenticated,
      denied: this.denied,
      stateless: this.stateless
    }
  }
}

class OwnedSocket {
  constructor (spec) {
    this.log = socketLog()
    this.ledgers = new Map()
    const { HocuspocusProviderWebsocket } = PROVIDERS[spec.kind]
    const retry = spec.retry_ms
      ? { delay: spec.retry_ms, minDelay: spec.retry_ms, maxDelay: spec.retry_ms, factor: 1, jitter: false }
      : {}
    this.provider = new HocuspocusProviderWebsocket({
      url: spec.url,
      autoConnect: false,
      WebSocketPolyfill: recordingSocket(this.log, key => this.ledgers.get(key), true),
      ...retry
    })
  }
}

const sharedSocket = spec => {
  if (!sharedSockets.has(spec.socket)) sharedSockets.set(spec.socket, new OwnedSocket(spec))
  return sharedSockets.get(spec.socket)
}

export const closeSharedSocket = name => {
  sharedSockets.get(name)?.provider.destroy()
  sharedSockets.delete(name)
}

export const openClient = spec => spec.kind.startsWith('y-websocket') ? new YWebsocketClient(spec) : new HocuspocusClient(spec)
