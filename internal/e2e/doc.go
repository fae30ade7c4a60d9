// Package e2e starts the real binary, and programs that use the library, loads
// them over real sockets, stops them with real signals, and accounts for each
// request. It is for tests alone.
//
// Main is the TestMain of a package. Launch starts a Process: Lastcall is the
// command that runs the binary, As one that runs the test binary as a Program.
// StopUnderLoad stops a Subject in the middle of Traffic.
package e2e
