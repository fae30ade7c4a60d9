package printable_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"lastcall/internal/printable"
)

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"plain, \"and\" \\x":    "plain, \"and\" \\x",
		"line\nand\ttab":        "line\nand\ttab",
		"grüße 世界 😀 שלום":       "grüße 世界 😀 שלום",
		"a\x1b[31mb\r\x00":      `a\x1b[31mb\x0d\x00`,
		"\x7f":                  `\x7f`,
		"\u0080\u009b31m\u009f": `\u0080\u009b31m\u009f`,
		"\u202a\u202e\u2066\u2069\u200e\u200f\u061c": `\u202a\u202e\u2066\u2069\u200e\u200f\u061c`,
		"\u2028\u2029\u00a0":                         `\u2028\u2029\u00a0`,
		"a\xff\xc3b\x9b":                             `a\xff\xc3b\x9b`,
		"\xed\xa0\x80":                               `\xed\xa0\x80`, // a surrogate
		"\ufffd":                                     "\ufffd",
		"\U000e0001":                                 `\U000e0001`,
	} {
		if got := printable.Escape(in); got != want {
			t.Errorf("Escape(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		in   string
		max  int
		want string
	}{
		{"12345", 5, "12345"},
		{"123456", 5, "12…"},
		{"123456", 3, "…"},
		{"äöü", 6, "äöü"},
		{"äöüß", 7, "äö…"},
		{"äöüß", 6, "ä…"},
		{"ab\x1b", 6, `ab\x1b`},
		{"abc\x1b", 6, "abc…"},
		{"\x1b\x1b", 6, "…"},
		{"\x1b\x1b", 7, `\x1b…`},
	} {
		if got := printable.Clip(tt.in, tt.max); got != tt.want {
			t.Errorf("Clip(%q, %d) = %s, want %s", tt.in, tt.max, got, tt.want)
		}
	}
	long := strings.Repeat("\xff", 1<<20)
	if got := printable.Clip(long, 1<<10); len(got) > 1<<10 || len(got) < 1<<10-8 || !utf8.ValidString(got) {
		t.Errorf("Clip(1 MiB, 1 KiB) has %d bytes", len(got))
	}
}
