// Package load is the traffic of a stop test: clients as they are, and a
// ledger in which each of their requests ends exactly once.
//
// # Clients
//
// A client is one goroutine with at most one TCP connection, which writes and
// parses HTTP/1.1 by hand. Nothing is retried behind the ledger's back, which
// is what an HTTP library's client would do: net/http sends a GET again when a
// kept connection turns out to be closed, and the loss is never seen.
//
// The kinds differ in what they know of the connection that they are about to
// use again. Blind writes. Looking does what connection pools do: it asks the
// kernel whether a FIN or a RST has come, and dials anew if so. Fresh has a new
// connection for each request. Idle is connected and says nothing.
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
