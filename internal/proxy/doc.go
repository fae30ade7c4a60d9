// Package proxy is a reverse proxy in front of one program.
//
// responsewriter.go is the way of a response to the client. When draining
// begins, long-lived streams end one after another (spread.go): WebSockets
// between two messages (websocket.go, frames.go), event streams between two
// events (eventstream.go).
package proxy
