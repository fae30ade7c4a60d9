// Package printable makes text that came from outside fit for a log, a terminal
// and a page.
package printable

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// Max is how long a value in a log may be, in bytes.
const Max = 1 << 10

// Escape returns s with escapes as in Go for whatever does not print: control
// characters of C0, C1 and DEL, those that change the direction of text, other
// separators than a blank, and bytes that are not UTF-8. Line feeds and tabs stay.
func Escape(s string) string { return Clip(s, math.MaxInt) }

// Clip returns what [Escape] does, cut off after max bytes. The cut shows as …,
// which is one character of the max bytes. max is 3 at least.
func Clip(s string, max int) string {
	if len(s) <= max && isPlain(s) {
		return s
	}
	const cut = "…"
	b := make([]byte, 0, min(len(s), max)+utf8.UTFMax)
	fit := 0 // what may stay if there is a cut
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1, r < utf8.RuneSelf && !isPlainByte(s[i]):
			b = fmt.Appendf(b, `\x%02x`, s[i])
		case r < utf8.RuneSelf, strconv.IsPrint(r):
			b = append(b, s[i:i+n]...)
		case r < 1<<16:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
		if len(b) > max {
			return string(append(b[:fit], cut...))
		}
		if len(b) <= max-len(cut) {
			fit = len(b)
		}
		i += n
	}
	return string(b)
}

func isPlain(s string) bool {
	for i := range len(s) {
		if !isPlainByte(s[i]) {
			return false
		}
	}
	return true
}

// isPlainByte reports whether b is a character of ASCII that stays.
func isPlainByte(b byte) bool { return ' ' <= b && b < 0x7f || b == '\n' || b == '\t' }
