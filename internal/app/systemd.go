package app

import (
	"context"
	"os"
	"syscall"

	"lastcall/actors/systemd"
)

// WatchCertificate returns the actor that loads the certificate again when its
// files change, and at SIGHUP.
func (s Service) WatchCertificate() (execute func() error, interrupt func(error)) {
	var signals []os.Signal
	if !systemd.Enabled() { // otherwise NotifySystemd catches it
		signals = append(signals, syscall.SIGHUP)
	}
	return s.Certificate.Watch(signals...)
}

// NotifySystemd returns the actor that tells systemd about the process. At SIGHUP
// it loads the certificate again.
func (s Service) NotifySystemd() (execute func() error, interrupt func(error)) {
	reload := func(context.Context) {} // Settings.Signals logs that there is nothing to load
	if s.Certificate != nil {
		reload = s.Certificate.Reload
	}
	return systemd.Notify(s.stop, systemd.Config{Check: systemd.Ask(s.Server, s.Listeners...), Reload: reload})
}
