//go:build !unix

package app

import "os"

// notifyDeploy does nothing: there is no SIGUSR1.
func notifyDeploy(chan<- os.Signal) {}

func asOwner(do func() error) error { return do() }
