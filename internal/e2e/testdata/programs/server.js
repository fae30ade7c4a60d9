// Node's http server, with event streams and WebSockets. It stops as Node's
// documentation says.
'use strict'
const http = require('http')
const crypto = require('crypto')

const server = http.createServer((req, res) => {
  res.setHeader('X-Request-Id', req.headers['x-request-id'] || '')
  if (req.url === '/events') {
    res.setHeader('Content-Type', 'text/event-stream')
    const timer = setInterval(() => res.write('data: tick\n\n'), 20)
    res.on('close', () => clearInterval(timer))
    return
  }
  req.resume()
  req.on('end', () => setTimeout(() => res.end('done\n'), req.url === '/slow' ? 2000 : 0))
})

// upgrade answers a WebSocket with what it sends, in frames of less than 126 bytes.
server.on('upgrade', (req, socket) => {
  const accept = crypto.createHash('sha1')
    .update(req.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64')
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    `Sec-WebSocket-Accept: ${accept}\r\nX-Request-Id: ${req.headers['x-request-id'] || ''}\r\n\r\n`)
  let input = Buffer.alloc(0)
  socket.on('error', () => socket.destroy())
  socket.on('data', data => {
    input = Buffer.concat([input, data])
    while (input.length >= 6 && input.length >= 6 + (input[1] & 0x7f)) {
      const payload = input.subarray(6, 6 + (input[1] & 0x7f)).map((b, i) => b ^ input[2 + i % 4])
      const first = input[0]
      input = input.subarray(6 + payload.length)
      socket.write(Buffer.concat([Buffer.from([first, payload.length]), payload]))
      if ((first & 0xf) === 8) return socket.end()
    }
  })
})

server.listen(process.env.PORT, process.env.HOST)
process.on('SIGTERM', () => server.close())
