//go:build unix

package e2e

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestGC starts the binary with and without GOGC and GOMEMLIMIT, which are obeyed.
func TestGC(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		env  []string
		want string
	}{
		{nil, "go_gc_gogc_percent 400\n"},
		{[]string{"GOGC="}, "go_gc_gogc_percent 400\n"},
		{[]string{"GOGC=50"}, "go_gc_gogc_percent 50\n"},
		{[]string{"GOMEMLIMIT=64MiB"}, "go_gc_gomemlimit_bytes 6.7108864e+07\n"},
	} {
		cmd := Lastcall("-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0")
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GOGC=") }), tt.env...)
		p := Launch(t, Here, cmd)
		_, answer := ask(t, http.DefaultClient, "GET", "http://"+adminAddr(t, p)+"/metrics", "")
		if !strings.Contains(answer, tt.want) {
			t.Errorf("with %q the metrics lack %q:\n%s", tt.env, tt.want, answer)
		}
	}
}
