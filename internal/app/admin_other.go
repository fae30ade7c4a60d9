//go:build !unix

package app

func asOwner(do func() error) error { return do() }
