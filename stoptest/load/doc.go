// Package load is the traffic of a stop test: clients that do as real ones, and a
// ledger in which each of their requests ends exactly once.
//
// # Clients
//
// A client is one goroutine with at most one request in flight. It writes and
// parses HTTP itself, because the client of an HTTP library retries: net/http sends
// a GET again if an idle connection was closed, and the loss is never seen.
//
// A client of HTTP/1.1 has its own connection. The kinds differ in what they do
// before they use it again. Reuse writes. Look does what connection pools do: it
// asks the kernel whether a FIN or a RST has come (under TLS, whether an alert has),
// and then dials again. Connect has a new connection for each request. Idle keeps a
// connection and sends nothing. Each may send its body slowly ([Group].BodyTime),
// as uploads do.
//
// HTTP2 clients share connections. Events reads server-sent events, and
// WebSocket has messages echoed, until the server ends the stream.
//
// # Requests
//
// A request is lost if the client wrote a byte of it, or tried to, on a connection
// that was established for it, and no whole answer came. The reason does not
// matter: a Reuse client that writes to a connection which the server has just
// closed has lost its request, and so has its user. The [Loss] has what is known
// about the reason.
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
