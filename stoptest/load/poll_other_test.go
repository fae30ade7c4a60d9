//go:build !unix

package load

// isReadable is for systems where clients look into their sockets.
func isReadable(uintptr) bool { return false }
