//go:build race

package drain_test

// The race detector takes many times as much of a processor: with more tests at a
// time a request of one takes longer than it may.
func init() { parallel = "6" }
