package load

import (
	"bytes"
	"strconv"
	"strings"
)

// An ID is RUN-GROUP-CLIENT-SEQ, the numbers from 0: which request of which
// client of which group it is. It needs no table to be found again.

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

// hasID finds an ID in a text, but not the ID of which it is the beginning.
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
