// Package app is what the binary is made of beside its actors. main.go reads in
// its order: Settings, a Log and a Service that are made of them, the run.Group,
// the exit Status.
package app
