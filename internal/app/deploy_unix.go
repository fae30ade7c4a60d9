//go:build unix

package app

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// DeployOnSignal returns an actor that deploys the program at each SIGUSR1.
func (s Service) DeployOnSignal() (execute func() error, interrupt func(error)) {
	signals, stopping := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGUSR1) // from here on it does not kill the process
	var once sync.Once
	logger := log.With(s.log.logger, "actor", "deploy")
	return func() error {
			var deploys sync.WaitGroup
			defer deploys.Wait()
			for {
				select {
				case <-signals:
					deploys.Go(func() {
						if err := s.Program.Deploy(context.Background(), nil, nil); err != nil {
							level.Warn(logger).Log("msg", "not deployed", "signal", syscall.SIGUSR1, "err", err)
						}
					})
				case <-stopping:
					return nil
				}
			}
		}, func(error) {
			once.Do(func() { close(stopping) })
		}
}
