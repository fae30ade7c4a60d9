package app

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"

	"lastcall/actors"
)

// passedListeners returns the listeners that were passed to this process as
// systemd does: see sd_listen_fds(3). It unsets the variables LISTEN_FDS and so
// on, because they are not meant for processes that this one starts.
//
// (activation.Listeners would silently leave out what is not a listening socket.)
func passedListeners() (listeners []net.Listener, err error) {
	for _, f := range activation.Files(true) {
		l, ferr := net.FileListener(f)
		f.Close()
		if ferr != nil {
			err = fmt.Errorf("LISTEN_FDS: %s: %w", f.Name(), ferr)
			continue
		}
		listeners = append(listeners, actors.Inherited(l))
	}
	return listeners, err
}
