package app

import (
	"os"
	"strconv"
	"testing"
)

func TestPassedUnsetsEnvironment(t *testing.T) {
	for name, value := range map[string]string{"LISTEN_PID": strconv.Itoa(os.Getpid()), "LISTEN_FDS": "0", "LISTEN_FDNAMES": "x"} {
		t.Setenv(name, value)
	}
	if l, err := passedListeners(); len(l) != 0 || err != nil {
		t.Errorf("passedListeners() = %v, %v, want none", l, err)
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if value, ok := os.LookupEnv(name); ok {
			t.Errorf("%s=%s is left for the processes that we start", name, value)
		}
	}
}
