// Package load is the traffic of a stop test: clients as they are, and a
// ledger in which each of their requests ends exactly once.
//
// # Clients
//
// A client is one goroutine with at most one request under way, which writes
// and parses HTTP by hand. Nothing is retried behind the ledger's back, which
// is what an HTTP library's client would do: net/http sends a GET again when a
// kept connection turns out to be closed, and the loss is never seen.
//
// Those of HTTP/1.1 have a connection of their own, and differ in what they
// know of it when they are about to use it again. Blind writes. Looking does
// what connection pools do: it asks the kernel whether a FIN or a RST has come
// (under TLS, whether an alert has), and dials anew if so. Fresh has a new
// connection for each request. Idle is connected and says nothing. Each may
// take its time with the body ([Group].BodyTime), as uploads do.
//
// HTTP2 clients share connections. Events reads server-sent events, and
// WebSocket has messages echoed, until the server ends the stream.
//
// # Requests
//
// A request is lost when any byte of it was written, or was tried to be
// written, on a connection that the client held for established, and no whole
// answer came. It doesn't matter whose fault that is: a Blind client that
// writes into a connection that the server closed a moment ago has lost its
// request, and so has its user. What can be known about the reason is in the
// [Loss].
//
// # A stop
//
//	l, err := load.Start(load.Config{Addr: addr, Groups: groups})
//	err = l.Ready(ctx, 3)      // each client has had 3 answers
//	l.Signalled(time.Now())    // from here on a refused dial ends a client
//	process.Signal(os.Interrupt)
//	ledger := l.Wait()         // all clients have ended
//	fmt.Print(ledger)
package load
