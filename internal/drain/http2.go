package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
)

// wrap2 makes HTTP/2 connections known, and finds a way to send them GOAWAY.
//
// net/http sends it when Server.Shutdown is called, and that cannot be called
// while there may be HTTP/1 connections: it loses requests on them. But its
// HTTP/2 lives in a table, Server.TLSNextProto, and heeds the Shutdown of the
// server that filled the table. So another server fills it, one that serves
// nobody.
func (s *Server) wrap2() {
	if s.http.TLSNextProto == nil {
		other := &http.Server{
			Protocols:   s.http.Protocols,
			TLSConfig:   s.http.TLSConfig.Clone(),
			HTTP2:       s.http.HTTP2,
			IdleTimeout: s.http.IdleTimeout,
			ReadTimeout: s.http.ReadTimeout,
		}
		other.ServeTLS(noListener{}, "", "") // fills its table, and fails
		if other.TLSNextProto == nil {
			return // no HTTP/2, or a TLSConfig that is wrong for it, as net/http will say
		}
		s.goaway, s.http.TLSNextProto = other, other.TLSNextProto
	}
	table := make(map[string]func(*http.Server, *tls.Conn, http.Handler))
	for proto, serve := range s.http.TLSNextProto {
		table[proto] = func(hs *http.Server, tc *tls.Conn, h http.Handler) {
			if c := connOf(tc); c != nil {
				c.speaks2()
			}
			serve(hs, tc, h)
		}
	}
	s.http.TLSNextProto = table
}

// goAway tells the clients of all HTTP/2 connections to make new ones. To tell
// one twice does no harm.
func (s *Server) goAway() {
	if s.goaway != nil {
		s.goaway.Shutdown(context.Background()) // returns at once: it has no connections
	}
}

// noListener accepts nobody.
type noListener struct{}

func (noListener) Accept() (net.Conn, error) { return nil, errors.ErrUnsupported }
func (noListener) Close() error              { return nil }
func (noListener) Addr() net.Addr            { return new(net.TCPAddr) }
