//go:build !unix

package nonblock

const Flag = 0
