// A WebSocket that remembers which of a client's edits each frame carried, and which of them were acknowledged.
//
// The providers know nothing of it: it is passed to them as their WebSocket implementation and only looks at the
// frames that go through. An edit counts as acknowledged when the frame that carried it was: by a Hocuspocus
// SyncStatus 01 (one per SyncStep2 or Update, in the order sent) or by a `saved` frame `64 varUint(n)` (the
// SyncStep2 and the first n Updates of the connection). A SyncStep2 carries every edit made before it was sent.

import * as decoding from 'lib0/decoding'
import { WebSocket } from 'ws'

const SYNC = 0
const SYNC_STATUS = 8
const SAVED = 100
const STEP_1 = 0
const STEP_2 = 1
const UPDATE = 2

// One document's journey on one connection: what was sent, in order, and how much of it was acknowledged.
//
// A SyncStep2 that brings refused edits once its author may edit again is acknowledged once for each of them, since
// the provider counts every Update that it sent. It answers the SyncStep1 that came after their refusals.
class Passage {
  constructor (ledger) {
    this.ledger = ledger
    this.inOrder = []
    this.answered = 0
    this.step2 = []
    this.updates = []
    this.questions = []
    this.openRefusals = 0
    this.acknowledged = 0
    this.refused = 0
  }

  asked () {
    this.questions.push(this.openRefusals)
    this.openRefusals = 0
  }

  sent (type) {
    const edits = this.ledger.carriedBy(type === STEP_2)
    const worth = type === STEP_2 ? Math.max(this.questions.shift() ?? 0, 1) : 1
    this.inOrder.push({ edits, worth, open: worth })
    if (type === STEP_2) this.step2.push(edits)
    else this.updates.push(edits)
  }

  syncStatus (accepted) {
    const frame = this.inOrder[this.answered]
    if (accepted) this.acknowledged += 1
    else this.refused += 1
    if (frame === undefined) return this.ledger.violation('a SyncStatus without a frame that it could answer')
    if (accepted) this.ledger.acknowledge(frame.edits)
    else this.openRefusals += frame.worth
    frame.open -= accepted ? 1 : frame.open
    if (frame.open === 0) this.answered += 1
  }

  saved (count) {
    if (this.step2.length === 0) this.ledger.violation('a saved frame before the first SyncStep2')
    else this.ledger.acknowledge(this.step2[0])
    if (count > this.updates.length) this.ledger.violation(`saved ${count} of ${this.updates.length} updates`)
    for (const frame of this.updates.slice(0, count)) this.ledger.acknowledge(frame)
    this.ledger.saved = count
  }
}

// The edits of one client, each named by its id.
export class Ledger {
  constructor () {
    this.edits = new Map()
    this.inTransaction = null
    this.violations = []
    this.passage = null
    this.saved = null
    this.sentWhileOpen = 0
  }

  edit (id, transaction) {
    this.edits.set(id, {
      id, acknowledged: false, made_at: Date.now(), acknowledged_at: null, at: performance.now(), waited_ms: null
    })
    this.inTransaction = id
    try { transaction() } finally { this.inTransaction = null }
  }

  carriedBy (everything) {
    if (everything) return [...this.edits.values()].filter(edit => !edit.acknowledged)
    return this.inTransaction === null ? [] : [this.edits.get(this.inTransaction)]
  }

  acknowledge (frame) {
    for (const edit of frame) {
      if (!edit.acknowledged) {
        edit.acknowledged_at = Date.now()
        edit.waited_ms = performance.now() - edit.at
      }
      edit.acknowledged = true
    }
  }

  get isComplete () {
    for (const edit of this.edits.values()) if (!edit.acknowledged) return false
    return true
  }

  violation (text) { this.violations.push(text) }
  begin () { this.passage = new Passage(this); this.saved = null }
}

const bytes = data => data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

// `find(key)` gives the ledger of a Hocuspocus routing key; y-websocket sockets have one ledger and no key.
export const recordingSocket = (log, find, keyed) => class RecordingSocket extends WebSocket {
  constructor (url, protocols) {
    super(url, protocols)
    this.binaryType = 'arraybuffer'
    this.begun = new Set()
    log.current = this
    this.addEventListener('open', () => { log.opened += 1; log.openedAt = performance.now() })
    this.addEventListener('close', event => {
      log.closes.push({ code: event.code, reason: event.reason, at: performance.now() })
      if (log.closes.length > 1000) log.closes.shift()
    })
    this.addEventListener('error', event => {
      const refusal = /Unexpected server response: (\d+)/.exec(event.message ?? '')
      if (refusal) log.refusals.push(Number(refusal[1]))
      if (log.refusals.length > 1000) log.refusals.shift()
    })
    this.addEventListener('message', event => this.inbound(bytes(event.data)))
    if (log.blocked) this.terminate()
  }

  passage (decoder) {
    const ledger = find(keyed ? decoding.readVarString(decoder) : '')
    if (ledger === undefined) return null
    if (!this.begun.has(ledger)) { this.begun.add(ledger); ledger.begin() }
    return ledger.passage
  }

  inbound (frame) {
    log.received += 1
    log.receivedBytes += frame.length
    if (frame.length === 1) return
    const decoder = decoding.createDecoder(frame)
    const passage = this.passage(decoder)
    if (passage === null) return
    const type = decoding.readVarUint(decoder)
    if (type === SYNC && decoding.readVarUint(decoder) === STEP_1) passage.asked()
    if (keyed && type === SYNC_STATUS) passage.syncStatus(decoding.readVarUint(decoder) === 1)
    if (!keyed && type === SAVED) passage.saved(decoding.readVarUint(decoder))
  }

  send (data, ...rest) {
    const decoder = decoding.createDecoder(bytes(data))
    if (this.readyState === WebSocket.OPEN && decoder.arr.length > 2) {
      const passage = this.passage(decoder)
      if (passage !== null && decoding.readVarUint(decoder) === SYNC) {
        const type = decoding.readVarUint(decoder)
        if (type === STEP_2 || type === UPDATE) passage.sent(type)
      }
    }
    super.send(data, ...rest)
  }
}

// While `blocked`, every new socket fails as without a network.
export const socketLog = () => ({ current: null, blocked: false, opened: 0, openedAt: 0, closes: [], refusals: [], received: 0, receivedBytes: 0 })
