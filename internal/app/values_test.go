package app

import "testing"

func TestIsAt(t *testing.T) {
	for _, tt := range []struct {
		target, addr string
		want         bool
	}{
		{"http://localhost:8080", ":8080", true},
		{"http://127.0.0.1:8080/prefix", "127.0.0.1:8080", true},
		{"http://127.0.0.2:8080", "0.0.0.0:8080", true},
		{"http://[::1]:8080", ":8080", true},
		{"http://[::1]:8080", "0.0.0.0:8080", false},
		{"http://localhost:8080", "127.0.0.1:8080", true},
		{"http://127.0.0.2:8080", "127.0.0.1:8080", false},
		{"http://app:8080", "app:8080", true},
		{"http://app:8080", ":8080", false},
		{"http://localhost", ":80", true},
		{"h2c://localhost", ":http", true},
		{"https://localhost", ":443", true},
		{"http://localhost:8081", ":8080", false},
		{"http://192.0.2.1:8080", ":8080", false},
		{"unix:/a", "unix:/a", true},
		{"unix:/a", "unix:/b", false},
		{"unix:/a", ":80", false},
	} {
		if got := isAt(tt.target, tt.addr); got != tt.want {
			t.Errorf("isAt(%q, %q) = %v, want %v", tt.target, tt.addr, got, tt.want)
		}
	}
}
