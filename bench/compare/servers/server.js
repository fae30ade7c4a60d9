// Node's http server, closed at SIGTERM as Node's documentation and its
// frameworks do it.
'use strict'
const http = require('http')

const answer = (req, res) => {
  res.setHeader('X-Echo', req.headers['x-request-id'] || '')
  res.end('hello\n')
}
const server = http.createServer((req, res) => {
  req.resume() // the body
  req.on('end', () => {
    if (req.url === '/slow') setTimeout(answer, 2000, req, res)
    else answer(req, res)
  })
})
process.on('SIGTERM', () => server.close())

const [, host, port] = process.env.LISTEN.match(/^(.*):(\d+)$/)
server.listen({ port: Number(port), host: host || '0.0.0.0' })
