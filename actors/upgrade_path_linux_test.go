package actors_test

import (
	"strings"
	"testing"

	"lastcall/actors"
)

// A Path that cannot be listened at is an error of the first call, before anything serves.
func TestUpgradePathIsChecked(t *testing.T) {
	dir := t.TempDir() // which others may enter
	up := actors.Upgrade{Path: dir + "/socket"}
	if l, err := up.Listen("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "only its owner may enter") {
		t.Errorf("Listen = %v, %v, want an error of the directory", l, err)
	}
}
