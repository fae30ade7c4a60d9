package app

import (
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	for _, tt := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{nil, "(unknown)"},
		{&debug.BuildInfo{GoVersion: "go1.26.11"}, "(devel) go1.26.11"},
		{&debug.BuildInfo{GoVersion: "go1.26.11", Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3 go1.26.11"},
		{&debug.BuildInfo{GoVersion: "go1.26.11", Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}}}, "(devel) 0123456789ab (modified) go1.26.11"},
	} {
		if got := version(tt.info, tt.info != nil); got != tt.want {
			t.Errorf("version(%v) = %q, want %q", tt.info, got, tt.want)
		}
	}
}
