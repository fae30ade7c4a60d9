package admin

import (
	"strings"
	"testing"

	"lastcall/actors"
)

// TestStatusPrintable has requests whose method and path a terminal would obey.
func TestStatusPrintable(t *testing.T) {
	got := requests([]actors.Request{{Method: "\x1b[2J", Path: "/\u009b31m\u202e" + strings.Repeat("x", 2000)}}, 10)[0]
	if got.Method != `\x1b[2J` || !strings.HasPrefix(got.Path, `/\u009b31m\u202exxx`) || len(got.Path) > 1<<10 {
		t.Errorf("method %q, path %q, want both escaped and at most 1 KiB", got.Method, got.Path)
	}
}
