package load

import (
	"bytes"
	"strconv"
	"strings"
)

// idHeader is the header that carries the request's ID to the server.
const idHeader = "X-Request-Id"

// An ID is RUN-GROUP-CLIENT-SEQ, with numbers from 0. It names the request without
// a table.

func appendID(b []byte, run string, group, client, seq int) []byte {
	b = append(b, run...)
	for _, n := range [...]int{group, client, seq} {
		b = append(b, '-')
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return b
}

func parseID(run, id string) (group, client, seq int, ok bool) {
	rest, ok := strings.CutPrefix(id, run+"-")
	if !ok {
		return 0, 0, 0, false
	}
	parts := strings.Split(rest, "-")
	if len(parts) != 3 {
		return 0, 0, 0, false
	}
	var n [3]int
	for i, p := range parts {
		v, ok := number([]byte(p), 10)
		if !ok || len(p) > 1 && p[0] == '0' {
			return 0, 0, 0, false
		}
		n[i] = int(v)
	}
	return n[0], n[1], n[2], true
}

// hasID reports whether a text has the ID, and not only one that begins with it.
func hasID(text, id []byte) bool {
	for {
		i := bytes.Index(text, id)
		if i < 0 {
			return false
		}
		text = text[i+len(id):]
		if len(text) == 0 || text[0] < '0' || text[0] > '9' {
			return true
		}
	}
}
