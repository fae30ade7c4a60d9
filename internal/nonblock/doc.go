// Package nonblock has the flag by which the open of a pipe does not wait for the
// pipe's other end. To look first what a file is, and then open it, is not
// enough: another may take its place in between. Regular files open as without it.
package nonblock
