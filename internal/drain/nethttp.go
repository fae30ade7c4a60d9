package drain

import "time"

// What this package assumes of net/http's inside. Each assumption has a test in
// nethttp_test.go that fails when Go changes it:
//
//   - While a handler runs and the body of its request has been read, net/http
//     reads one byte ahead (startBackgroundRead), into a buffer of
//     backgroundReadSize. No other Read of a connection in that time has a
//     buffer of this size.
//   - A Read that fails by a deadline in the past, which net/http sets when the
//     handler has returned (abortPendingRead), ends the background read and
//     nothing else. io.EOF cancels the request.
//   - After an answer, the hook ConnState is called with StateIdle before the
//     read deadline for idle connections is set, and before the next Read.
//   - A Read that fails by its deadline while a connection is idle closes it
//     without a word to the client.
//   - The time for a request's header begins with its fourth byte.
//   - An http.Server whose TLSNextProto is nil fills it when Serve or ServeTLS
//     is called, before Accept, and the entries heed the Shutdown of the server
//     that filled the table.
//   - HTTP/2 calls ConnState with StateActive when it has registered a connection,
//     and sets no read deadline later on.
const backgroundReadSize = 1

// aLongTimeAgo is a deadline by which a Read ends at once.
var aLongTimeAgo = time.Unix(1, 0)
