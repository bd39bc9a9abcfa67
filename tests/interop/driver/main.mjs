// Drives many real clients at once: JSON commands, one a line, on stdin; one JSON answer a line on stdout.
//
// A command is {id, op, ...}; its answer {id, result} or {id, error}. Commands run concurrently.

import { createInterface } from 'node:readline'
import * as Y from 'yjs'
import { closeSharedSocket, openClient } from './clients.mjs'
import { content, randomEdit } from './edits.mjs'
import { generator } from './random.mjs'

const clients = new Map()
const streams = new Map()
const emit = answer => process.stdout.write(JSON.stringify(answer) + '\n')
for (const level of ['log', 'info', 'warn', 'error', 'debug']) {
  console[level] = (...parts) => process.stderr.write(parts.map(part => part?.stack ?? String(part)).join(' ') + '\n')
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
const client = name => {
  const found = clients.get(name)
  if (found === undefined) throw new Error(`there is no client ${name}`)
  return found
}
const all = names => names.map(client)
const base64 = data => Buffer.from(data).toString('base64')

const until = async (condition, timeoutMs, describe) => {
  const deadline = performance.now() + timeoutMs
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`timed out: ${describe()}`)
    await sleep(5)
  }
}

const CONDITIONS = {
  connected: one => one.connected,
  disconnected: one => !one.connected,
  synced: one => one.synced,
  settled: one => one.synced && one.settled,
  refused: one => one.log.refusals.length > 0,
  closed: one => one.log.closes.length > 0,
  denied: one => (one.denied ?? []).length > 0
}

// A Y.Map is read in the order in which its keys arrived, which differs from replica to replica.
const sorted = value => {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.keys(value).sort().map(key => [key, sorted(value[key])]))
}
// So is a state vector: its entries come in the order in which the clients became known.
const stateVector = doc => {
  const entries = [...Y.decodeStateVector(Y.encodeStateVector(doc))].sort(([a], [b]) => a - b)
  return Object.fromEntries(entries.map(([id, clock]) => [String(id), clock]))
}
const image = one => JSON.stringify([sorted(content(one.doc)), stateVector(one.doc)])

// What Yjs received before what it builds on: null when nothing waits.
const pending = ({ pendingStructs, pendingDs }) => pendingStructs === null && pendingDs === null
  ? null
  : {
      missing: [...(pendingStructs?.missing ?? [])],
      structs: pendingStructs === null ? [] : Y.decodeUpdateV2(pendingStructs.update).structs.map(({ id, length }) => [id.client, id.clock, length]),
      deletes: pendingDs === null ? [] : [...Y.decodeUpdateV2(pendingDs).ds.clients].map(([id, items]) => [id, items.map(({ clock, len }) => [clock, len])])
    }

const report = one => ({
  kind: one.spec.kind,
  client_id: one.doc.clientID,
  connected: one.connected,
  synced: one.synced,
  settled: one.settled,
  content: sorted(content(one.doc)),
  state_vector: stateVector(one.doc),
  pending: pending(one.doc.store),
  awareness: Object.fromEntries([...one.awareness.getStates()].map(([id, state]) => [String(id), state])),
  closes: one.log.closes.map(({ code, reason }) => ({ code, reason })),
  refusals: one.log.refusals,
  opened: one.log.opened,
  applied: one.applied,
  received: one.log.received,
  received_bytes: one.log.receivedBytes,
  acknowledged: one.ledger.passage?.acknowledged ?? 0,
  refused: one.ledger.passage?.refused ?? 0,
  violations: one.ledger.violations,
  ...one.details()
})

const pause = random => sleep(random.below(4) * random.below(12))

const interruption = async (one, random) => {
  if (random.below(2) === 0) return one.drop()
  one.offline()
  for (let i = random.below(6); i > 0; i--) randomEdit(one.doc, random)
  await sleep(random.below(60))
  await one.online()
}

const playOne = async (one, steps, interruptions) => {
  let edits = 0
  for (let step = 0; step < steps; step++) {
    if (one.random.below(100) < interruptions) await interruption(one, one.random)
    else if (one.random.below(8) === 0) one.awareness.setLocalStateField('cursor', { x: one.random.below(100), y: step })
    else { randomEdit(one.doc, one.random); edits += 1 }
    await pause(one.random)
  }
  return edits
}

// Each edit is one key of `meta`, so that a lost one is seen as a missing key. Where `mixed` is given, every so many
// edits a random one goes before it, which no ledger counts.
const streamEdits = async (names, perSecond, prefix, mixed, state) => {
  const started = performance.now()
  while (!state.stop) {
    const due = Math.floor((performance.now() - started) * perSecond / 1000)
    while (state.sent < due && !state.stop) {
      const one = client(names[state.sent % names.length])
      const id = `${prefix}-${one.name}-${state.sent++}`
      if (mixed > 0 && state.sent % mixed === 0) randomEdit(one.doc, one.random)
      one.edit(id, () => one.doc.getMap('meta').set(id, state.sent))
    }
    await sleep(5)
  }
}

const differences = groups => groups
  .filter(group => new Set(group.map(one => image(one))).size > 1 || !group.every(one => one.synced && one.settled))
  .map(group => group.map(one => ({
    client: one.name, synced: one.synced, settled: one.settled, image: image(one).slice(0, 2000), ...one.details(), closes: one.log.closes.slice(-3)
  })))

const OPERATIONS = {
  open: ({ clients: specs }) => {
    for (const spec of specs) clients.set(spec.client, openClient(spec))
    return specs.map(spec => client(spec.client).doc.clientID)
  },
  wait: ({ names, until: name, timeout_ms: timeout }) =>
    until(() => all(names).every(CONDITIONS[name]), timeout,
      () => `${name}: ${all(names).filter(one => !CONDITIONS[name](one)).map(one => JSON.stringify({ ...report(one), content: undefined, name: one.name })).slice(0, 3)}`),
  wait_awareness: ({ names, present = [], absent = [], timeout_ms: timeout }) => {
    const sees = one => present.every(id => one.awareness.getStates().has(id)) && !absent.some(id => one.awareness.getStates().has(id))
    return until(() => all(names).every(sees), timeout,
      () => `awareness of ${all(names).filter(one => !sees(one)).map(one => `${one.name}: ${[...one.awareness.getStates().keys()]}`)}`)
  },
  wait_scope: ({ name, scope, timeout_ms: timeout }) => until(() => client(name).details().scope === scope, timeout, () => `scope ${client(name).details().scope}`),
  wait_stateless: ({ name, count, timeout_ms: timeout }) => until(() => client(name).stateless.length >= count, timeout, () => `${count} stateless messages`),
  wait_close: ({ name, code, timeout_ms: timeout }) =>
    until(() => client(name).log.closes.some(close => close.code === code), timeout, () => `close ${code}: ${JSON.stringify(client(name).log.closes)}`),
  wait_opened: ({ name, count, timeout_ms: timeout }) =>
    until(() => client(name).log.opened >= count, timeout, () => `opening ${count} of ${name}`),
  wait_key: ({ names, key, timeout_ms: timeout }) =>
    until(() => all(names).every(one => one.doc.getMap('meta').has(key)), timeout,
      () => `${key} at ${all(names).filter(one => !one.doc.getMap('meta').has(key)).map(one => one.name)}`),
  wait_saved: ({ name, edit, timeout_ms: timeout }) =>
    until(() => client(name).ledger.edits.get(edit)?.acknowledged === true, timeout, () => `acknowledgement of ${edit}`),
  wait_acknowledged: ({ names, timeout_ms: timeout }) =>
    until(() => all(names).every(one => one.ledger.isComplete), timeout, () => `acknowledgement of everything; ${all(names).filter(one => !one.ledger.isComplete)
      .map(one => `${one.name} waits for ${[...one.ledger.edits.values()].filter(edit => !edit.acknowledged).length}: ${JSON.stringify({ ...one.details(), connected: one.connected, synced: one.synced, closes: one.log.closes.slice(-2) })}`)}`),
  play: async ({ names, steps, interruptions }) => {
    const edits = await Promise.all(all(names).map(one => playOne(one, steps, interruptions)))
    return edits.reduce((sum, count) => sum + count, 0)
  },
  put: ({ name, key, value }) => client(name).edit(key, () => client(name).doc.getMap('meta').set(key, value)),
  put_cell: ({ name, cell }) => client(name).edit(cell.id, () => {
    const map = new Y.Map()
    for (const [key, value] of Object.entries(cell)) map.set(key, value)
    client(name).doc.getMap('cells').set(cell.id, map)
  }),
  // In UTF-16 units, as Yjs counts: may come between the halves of a character.
  type: ({ name, edit, at, erase = 0, text = '' }) => client(name).edit(edit, () => {
    const typed = client(name).doc.getText('text')
    if (erase > 0) typed.delete(at, erase)
    if (text !== '') typed.insert(at, text)
  }),
  presence: ({ name, state }) => client(name).awareness.setLocalState(state),
  stream: ({ stream, names, per_second: perSecond, prefix, mixed = 0 }) => {
    const state = { stop: false, sent: 0 }
    streams.set(stream, { state, done: streamEdits(names, perSecond, prefix, mixed, state) })
  },
  wait_sent: ({ stream, count, timeout_ms: timeout }) => until(() => streams.get(stream).state.sent >= count, timeout, () => `${count} edits`),
  stop_stream: async ({ stream }) => {
    const { state, done } = streams.get(stream)
    state.stop = true
    await done
    streams.delete(stream)
    return state.sent
  },
  // Overwrites one key again and again, at most `in_flight` edits ahead of what was acknowledged.
  flood: async ({ name, edits, bytes, in_flight: inFlight }) => {
    const one = client(name)
    const filler = 'x'.repeat(bytes - 10)
    for (let i = 0; i < edits; i++) {
      const behind = `flood-${i - inFlight}`
      await until(() => one.ledger.edits.get(behind)?.acknowledged !== false, 60_000, () => `acknowledgement of ${behind}`)
      one.edit(`flood-${i}`, () => one.doc.getMap('meta').set('flood', `${i} ${filler}`))
    }
  },
  flood_keys: ({ name, edits, bytes, prefix }) => {
    const one = client(name)
    for (let i = 0; i < edits; i++) one.edit(`${prefix}-${i}`, () => one.doc.getMap('meta').set(`${prefix}-${i}`, 'x'.repeat(bytes)))
  },
  ledger: ({ names }) => Object.fromEntries(all(names).map(one =>
    [one.name, { edits: [...one.ledger.edits.values()], violations: one.ledger.violations }])),
  clock: () => performance.now(),
  // The longest that an edit made since then waited for its acknowledgement, or waits still.
  slowest_ack: ({ names, since = 0 }) => {
    const now = performance.now()
    const edits = all(names).flatMap(one => [...one.ledger.edits.values()]).filter(edit => edit.at >= since)
    return edits.reduce((slowest, edit) => Math.max(slowest, edit.waited_ms ?? now - edit.at), 0)
  },
  agree: async ({ groups, timeout_ms: timeout }) => {
    const members = groups.map(all)
    const deadline = performance.now() + timeout
    let unequal = differences(members)
    while (unequal.length > 0 && performance.now() < deadline) {
      await sleep(50)
      unequal = differences(members)
    }
    return { unequal, reports: members.map(([first]) => report(first)) }
  },
  report: ({ names }) => Object.fromEntries(all(names).map(one => [one.name, report(one)])),
  closes: ({ names }) => Object.fromEntries(all(names).map(one => [one.name, one.log.closes])),
  first_close_codes: ({ names }) => Object.fromEntries(all(names).map(one => [one.name, one.log.closes[0]?.code ?? null])),
  update: ({ name }) => base64(Y.encodeStateAsUpdate(client(name).doc)),
  set_token: ({ names, token }) => { for (const one of all(names)) one.setToken(token) },
  offline: ({ names }) => { for (const one of all(names)) one.offline() },
  online: ({ names }) => Promise.all(all(names).map(one => one.online())),
  drop: ({ names }) => { for (const one of all(names)) one.drop() },
  close: ({ names, sockets = [] }) => {
    for (const name of names) { client(name).destroy(); clients.delete(name) }
    sockets.forEach(closeSharedSocket)
  },
  random: ({ seed, count }) => { const random = generator(seed); return Array.from({ length: count }, random.next) }
}

createInterface({ input: process.stdin }).on('line', async line => {
  const command = JSON.parse(line)
  try {
    emit({ id: command.id, result: (await OPERATIONS[command.op](command)) ?? null })
  } catch (error) {
    emit({ id: command.id, error: error.message })
  }
}).on('close', () => process.exit(0))
