package socket

import "testing"

func BenchmarkHandshakes(b *testing.B) {
	for b.Loop() {
		if _, err := Handshakes(1); err != nil {
			b.Fatal(err)
		}
	}
}
