package actors

import "net"

// Plain marks a listener that [HTTP] serves without TLS, although srv.TLSConfig has
// certificates:
//
//	g.Add(actors.HTTP(&stop, srv, l443, actors.Plain(l80)))
//
// Without Plain, HTTP serves all its listeners over TLS, or none.
func Plain(l net.Listener) net.Listener { return plain{l} }

type plain struct{ net.Listener }
