package drain

import (
	"reflect"
	"time"
)

// What this package assumes of net/http's inside. Each assumption has a test that fails when
// Go changes it, in nethttp_test.go or the file that is named:
//
//   - While a handler runs and the body of its request has been read, net/http
//     reads one byte ahead (startBackgroundRead), into a buffer of
//     backgroundReadSize. No other Read of a connection in that time has a
//     buffer of this size. Just before it begins, the read deadline is set to none.
//   - A Read that fails by a deadline in the past, which net/http sets when the
//     handler has returned (abortPendingRead), ends the background read and
//     nothing else. io.EOF cancels the request.
//   - After an answer, when all of it is written, the hook ConnState is called
//     with StateIdle before the read deadline for idle connections is set, and
//     before the next Read.
//   - A Read that fails by its deadline while a connection is new or idle closes
//     it without a word to the client.
//   - The time for the header of a request after the first begins with its fourth
//     byte.
//   - Where a client is still sending behind an answer that ends the connection,
//     CloseWrite is called, and Close a while later.
//   - A read deadline in the past, set by the handler, spares the body of a
//     request with Expect: 100-continue.
//   - The Trailer of net/http's own Request is filled at the end of the body, and
//     the files of its MultipartForm are removed after the handler.
//   - A ResponseWriter is an http.Hijacker in HTTP/1, and not in HTTP/2. In HTTP/2
//     its field rws.stream.id is the ID of the stream. (See frames_test.go. Without
//     that, a cut names the answers of the last moments before it.)
//   - Request.TLS is filled from the connection's method ConnectionState; under
//     ServeTLS the hooks get a *tls.Conn around the listener's connection. The
//     type of what tls.NewListener returns is called *tls.listener.
//   - An http.Server whose TLSNextProto is nil fills it when Serve or ServeTLS
//     is called, before Accept, and the entries heed the Shutdown of the server
//     that filled the table. What they get of a connection without TLS has the
//     method UnencryptedNetConn.
//   - HTTP/2 calls ConnState with StateActive when it has registered a connection
//     and when it has streams, with StateIdle when it has none, and sets no read
//     deadline from then on but none. GOAWAY closes it a second later, if it has
//     no streams. An answer with "Connection: close" sends GOAWAY.
//   - A ResponseWriter of HTTP/1 has the connection's *bufio.Reader in its field
//     conn.bufr. Its field conn.r.inRead, under conn.r.mu, is true until the background
//     read is over. (See tls_test.go. Without the former a next request that came in one
//     TLS record with the current one is lost in a stop. Without the latter an answer in
//     a stop may take stallTimeout.)
//   - Each stream gets END_STREAM or RST_STREAM, but those that came behind the last
//     one of a GOAWAY. (Not if all that a handler has set of a trailer is no field.)
//   - The table's entry protoUnencrypted serves HTTP/2 on any net.Conn, behind the
//     preface. It reads the payload of a frame by a Read of its own, and a Write of
//     small frames ends with one. (See frames_test.go.)
//   - Behind a handler it reads a rest of the body of up to mostLeft bytes, and ends the
//     connection if there is more (maxPostHandlerReadBytes). Of a rest whose length is
//     known it reads less than that.
//   - After a POST it skips up to maxEmptyLines CR and LF.
//   - HTTP/2 lets a client open defaultStreams at once, unless it is configured.
//
// And of crypto/tls:
//
//   - A tls.Conn notes the end of its handshake in the field isHandshakeComplete. (See
//     tls_test.go. Without that, what comes in a handshake counts as of a request.)
//   - It sets a write deadline before its close_notify, and one in the past after it.
const (
	backgroundReadSize = 1
	mostLeft           = 256 << 10
	maxEmptyLines      = 4
	defaultStreams     = 250
)

// aLongTimeAgo is a deadline by which a Read ends at once.
var aLongTimeAgo = time.Unix(1, 0)

// fieldPath is where a field is in a struct, such as that of a ResponseWriter: a field of a
// struct that a field of another one points to, and so on. It has none where it is not
// known.
type fieldPath struct {
	of     reflect.Type
	fields []int
}

// findField returns the path of the names to a field of the type want.
func findField(of, want reflect.Type, names ...string) *fieldPath {
	path, t := &fieldPath{of: of}, of
	for _, name := range names {
		if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
			return &fieldPath{of: of}
		}
		field, ok := t.Elem().FieldByName(name)
		if !ok || len(field.Index) > 1 {
			return &fieldPath{of: of}
		}
		path.fields, t = append(path.fields, field.Index[0]), field.Type
	}
	if t != want {
		return &fieldPath{of: of}
	}
	return path
}

// known reports whether there is such a field.
func (p *fieldPath) known() bool { return len(p.fields) > 0 }

// follow returns the field of v, or the zero Value if there is none.
func (p *fieldPath) follow(v reflect.Value) reflect.Value {
	if !p.known() {
		return reflect.Value{}
	}
	for _, i := range p.fields {
		if v = v.Elem(); !v.IsValid() {
			return v
		}
		v = v.Field(i)
	}
	return v
}
