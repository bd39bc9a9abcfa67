// Loaded before an example of the README (`node --import`): what a browser has and Node 20 lacks, and a hand for the test.

import { WebSocket } from 'ws'

globalThis.WebSocket = WebSocket
// A browser reports these and goes on.
process.on('unhandledRejection', error => process.stderr.write(`unhandled: ${error?.stack ?? error}\n`))

const emit = answer => process.stdout.write(`${JSON.stringify(answer)}\n`)
globalThis.console.log = (...parts) => emit({ logged: parts.join(' ') })

// Answers `{"op": "state"}` and `{"op": "edit", "key": ...}`, one a line.
globalThis.answerTo = (provider, diagram) => {
  const doc = provider.doc ?? provider.document
  const operations = {
    state: () => ({ synced: provider.synced, diagram: diagram.id, meta: doc.getMap('meta').toJSON(), params: provider.params ?? null, unsynced: provider.hasUnsyncedChanges ?? null }),
    edit: ({ key }) => { doc.getMap('meta').set(key, 1); return {} }
  }
  process.stdin.setEncoding('utf8')
  let rest = ''
  process.stdin.on('data', text => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()
    for (const line of lines) { const command = JSON.parse(line); emit({ answer: operations[command.op](command) }) }
  }).on('close', () => process.exit(0))
}
