// Hocuspocus with its defaults, on the address and port that the load tester gives.
import { Server } from '@hocuspocus/server'

await new Server({ address: process.env.HOST, port: Number(process.env.PORT), quiet: true }).listen()
