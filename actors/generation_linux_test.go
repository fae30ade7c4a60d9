package actors

import (
	"net"
	"strconv"
	"testing"
)

// An address for a program is not taken again while the program may not listen yet.
func TestFreeAddressIsReserved(t *testing.T) {
	addr, release, err := freeAddress(20000, 10000)
	if err != nil {
		t.Fatal(err)
	}
	_, p, _ := net.SplitHostPort(addr)
	port, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	if addr, _, err := freeAddress(port, 1); err == nil {
		t.Errorf("freeAddress() = %s, which is reserved", addr)
	}
	release()
	again, release, err := freeAddress(port, 1)
	if err != nil || again != addr {
		t.Fatalf("freeAddress() = %s, %v after the release, want %s", again, err, addr)
	}
	release()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if addr, _, err := freeAddress(port, 1); err == nil {
		t.Errorf("freeAddress() = %s, where somebody listens", addr)
	}
}
