package app

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"

	"lastcall/actors"
)

// passed returns the listeners that were passed to this process as systemd
// does: LISTEN_FDS and so on, see sd_listen_fds(3). The variables are unset,
// because they are not meant for processes that this one starts.
//
// (activation.Listeners would leave out what is no listening socket, without a
// word.)
func passed() (listeners []net.Listener, err error) {
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
