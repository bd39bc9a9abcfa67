// Random edits of a document shaped like a diagram: nested maps that are added, changed and deleted, a text and
// a list. Which edit comes next depends on the generator alone, never on what other clients did meanwhile.

import * as Y from 'yjs'

const CELLS = 12
const SHAPES = ['process', 'store', 'actor', 'text-box']
const WORDS = ['login', 'queue', 'Ünïcode', 'token', '🔑', 'browser', '', 'data store']

const cellId = number => `5eed0000-0000-4000-8000-${String(number).padStart(12, '0')}`

const position = random => ({ x: random.below(2000), y: random.below(2000) })
const size = random => ({ width: 40 + random.below(200), height: 30 + random.below(200) })

const newNode = (id, random) => {
  const cell = new Y.Map()
  cell.set('id', id)
  cell.set('shape', random.pick(SHAPES))
  cell.set('position', position(random))
  cell.set('size', size(random))
  cell.set('zIndex', random.below(100))
  const attrs = new Y.Map()
  attrs.set('text', { text: random.pick(WORDS) })
  cell.set('attrs', attrs)
  const data = new Y.Map()
  data.set('note', random.pick(WORDS))
  cell.set('data', data)
  return cell
}

const addCell = (doc, random) => {
  const id = cellId(random.below(CELLS))
  doc.getMap('cells').set(id, newNode(id, random))
}

const changeCell = (doc, random) => {
  const id = cellId(random.below(CELLS))
  const property = random.pick(['position', 'size', 'zIndex', 'visible'])
  const value = { position: position(random), size: size(random), zIndex: random.below(100), visible: random.below(2) === 1 }
  const cell = doc.getMap('cells').get(id)
  if (cell) cell.set(property, value[property])
  else doc.getMap('cells').set(id, newNode(id, random))
}

const changeNested = (doc, random) => {
  const cell = doc.getMap('cells').get(cellId(random.below(CELLS)))
  const [field, key, word] = [random.pick(['attrs', 'data']), random.pick(['text', 'note', 'label']), random.pick(WORDS)]
  const nested = cell?.get(field)
  if (nested instanceof Y.Map) nested.set(key, { text: word })
  else doc.getMap('meta').set(key, word)
}

const deleteCell = (doc, random) => doc.getMap('cells').delete(cellId(random.below(CELLS)))

// Editors never cut a surrogate pair in two, and Yjs does not converge for those that do: it puts U+FFFD in place
// of each half wherever a replica happens to cut.
const betweenCharacters = (text, at) => {
  const code = text.toString().charCodeAt(at)
  return code >= 0xdc00 && code <= 0xdfff ? at + 1 : at
}

const typeText = (doc, random) => {
  const text = doc.getText('text')
  text.insert(betweenCharacters(text, Math.floor(random.next() * (text.length + 1))), random.pick(WORDS))
}

const eraseText = (doc, random) => {
  const text = doc.getText('text')
  const [at, count] = [Math.floor(random.next() * text.length), 1 + random.below(4)]
  const [start, end] = [at, Math.min(at + count, text.length)].map(index => betweenCharacters(text, index))
  if (end > start) text.delete(start, end - start)
}

const insertItem = (doc, random) => {
  const list = doc.getArray('list')
  list.insert(Math.floor(random.next() * (list.length + 1)), [random.below(1000)])
}

const deleteItem = (doc, random) => {
  const list = doc.getArray('list')
  if (list.length > 0) list.delete(Math.floor(random.next() * list.length), 1)
  else list.push([random.below(1000)])
}

const KINDS = [
  [30, changeCell], [15, addCell], [12, changeNested], [8, deleteCell],
  [15, typeText], [6, eraseText], [9, insertItem], [5, deleteItem]
]
const TOTAL = KINDS.reduce((sum, [weight]) => sum + weight, 0)

const oneEdit = (doc, random) => {
  let ticket = random.below(TOTAL)
  for (const [weight, edit] of KINDS) {
    if (ticket < weight) return edit(doc, random)
    ticket -= weight
  }
}

// One transaction of one to three edits.
export const randomEdit = (doc, random) => {
  const count = random.below(5) === 0 ? 3 : 1
  doc.transact(() => { for (let i = 0; i < count; i++) oneEdit(doc, random) })
}

// What two replicas must agree on, beside their state vectors.
export const content = doc => ({
  cells: doc.getMap('cells').toJSON(),
  meta: doc.getMap('meta').toJSON(),
  text: doc.getText('text').toString(),
  list: doc.getArray('list').toJSON()
})
