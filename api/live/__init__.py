"""The live sockets: picows connections that speak y-websocket or Hocuspocus and sit in rooms."""
