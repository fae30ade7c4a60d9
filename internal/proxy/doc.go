// Package proxy stands in front of a program: a reverse proxy that ends
// long-lived streams in good order when draining begins.
package proxy
