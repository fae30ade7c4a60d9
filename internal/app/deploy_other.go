//go:build !unix

package app

import "sync"

// DeployOnSignal returns an actor that does nothing: there is no SIGUSR1.
func (s Service) DeployOnSignal() (execute func() error, interrupt func(error)) {
	stopping := make(chan struct{})
	var once sync.Once
	return func() error { <-stopping; return nil }, func(error) { once.Do(func() { close(stopping) }) }
}
