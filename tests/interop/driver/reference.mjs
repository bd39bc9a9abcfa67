// The npm peers as servers, to prove the drivers against: `node reference.mjs y-websocket|hocuspocus`.

import { Server } from '@hocuspocus/server'
import { setupWSConnection } from '@y/websocket-server/utils'
import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'

const ready = port => process.stdout.write(`${JSON.stringify({ port })}\n`)

const yWebsocket = () => {
  const http = createServer()
  new WebSocketServer({ server: http }).on('connection', setupWSConnection)
  http.listen(0, '127.0.0.1', () => ready(http.address().port))
}

const hocuspocus = async () => {
  const server = new Server({ quiet: true, address: '127.0.0.1', port: 0, stopOnSignals: false })
  await server.listen()
  ready(server.address.port)
}

process.stdin.resume().on('close', () => process.exit(0))
if (process.argv[2] === 'y-websocket') yWebsocket()
else await hocuspocus()
