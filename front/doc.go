// Package front is what the lastcall binary serves: the files of a directory,
// a program behind a reverse proxy, or a start page; and the timeouts, the
// access log and the TLS certificate around it.
package front
