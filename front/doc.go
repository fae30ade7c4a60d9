// Package front is what the lastcall binary serves: the files of a directory,
// a program behind a reverse proxy, or a start page; and the timeouts and the
// access log around it.
package front
