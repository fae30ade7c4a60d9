// Package app has the parts of the binary that are not actors. main.go uses them in
// this order: Settings, the Log and the Service that they describe, and the exit
// Status.
package app
