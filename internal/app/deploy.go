package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
	"lastcall/internal/printable"
)

const (
	// resultTrailer says how a deploy went, after its steps.
	resultTrailer = "Deploy-Result"

	// brokenOff is the result of one that a stop has ended.
	brokenOff = "broken off"

	// stepTimeout is how long the client may take to receive a step.
	stepTimeout = 5 * time.Second

	maxCommand = 64 << 10 // bytes

	// askTimeout is how long the lastcall that is asked for a deploy may take to
	// accept the connection, and then until the first step.
	askTimeout = 10 * time.Second
)

// notTried is the error of a deploy for which nothing was started.
type notTried struct{ error }

// notKnown is the error of a deploy that a stop has broken off, or of which the answer
// has: it is not known which version the next lastcall starts.
type notKnown struct{ error }

// serveDeploy deploys the program, and answers with the steps, a line each. The
// body may have another command line, as a JSON array of strings.
func (s Service) serveDeploy(w http.ResponseWriter, r *http.Request) {
	command, status, err := s.deployCommand(w, r)
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Trailer", resultTrailer)
	rc := http.NewResponseController(w)
	begun := false
	line := func(text string) {
		begun = true
		rc.SetWriteDeadline(time.Now().Add(stepTimeout))
		fmt.Fprintln(w, printable.Escape(text))
		rc.Flush()
	}
	// A client that goes away does not end the deploy.
	err = s.startDeploy(context.WithoutCancel(r.Context()), command, line)
	switch {
	case err != nil && !begun:
		status := http.StatusServiceUnavailable
		if errors.Is(err, actors.ErrDeploying) || errors.Is(err, actors.ErrUpgrading) {
			status = http.StatusConflict
		}
		http.Error(w, err.Error(), status)
	case err != nil:
		line("failed: " + err.Error())
		var failed *actors.DeployError
		if errors.As(err, &failed) {
			for _, l := range failed.Output {
				line("| " + l)
			}
		}
		result := "failed"
		if errors.Is(err, actors.ErrStopping) {
			result = brokenOff
		}
		w.Header().Set(resultTrailer, result+": "+oneLine(err))
	default:
		w.Header().Set(resultTrailer, "done")
	}
}

// startDeploy deploys, unless a successor starts with the present program.
func (s Service) startDeploy(ctx context.Context, command actors.Command, step func(string)) error {
	if s.Upgrade.Upgrading() {
		return actors.ErrUpgrading
	}
	return s.Program.Deploy(ctx, command, step)
}

// DeployOnSignal returns an actor that deploys the program at each SIGUSR1.
func (s Service) DeployOnSignal() (execute func() error, interrupt func(error)) {
	signals, stopping := make(chan os.Signal, 1), make(chan struct{})
	notifyDeploy(signals)
	var once sync.Once
	logger := log.With(s.log.logger, "actor", "deploy")
	return func() error {
			var deploys sync.WaitGroup
			defer deploys.Wait()
			for {
				select {
				case sig := <-signals:
					deploys.Go(func() {
						if err := s.startDeploy(context.Background(), nil, nil); err != nil {
							level.Warn(logger).Log("msg", "not deployed", "signal", sig, "err", err)
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

// deployCommand returns the command that a request asks to deploy, or nil for that
// of the present generation; or an error with its status.
func (s Service) deployCommand(w http.ResponseWriter, r *http.Request) (command actors.Command, status int, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCommand))
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, 0, nil
	}
	var line []string
	if err := json.Unmarshal(body, &line); err != nil || len(line) == 0 || line[0] == "" {
		return nil, http.StatusBadRequest, errors.New(`want a command line such as ["/srv/app/server", "-v"], or nothing`)
	}
	// Everybody on this machine can connect to an address of its loopback.
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !ok || addr.Network() != "unix" {
		return nil, http.StatusForbidden, errors.New("another command line is taken only with -admin unix:PATH")
	}
	if _, err := exec.LookPath(line[0]); err != nil {
		return nil, http.StatusBadRequest, err
	}
	return s.settings.command(line), 0, nil
}

// DeployOnly reports whether the arguments ask another lastcall for a deploy.
func (c *Settings) DeployOnly() bool { return c.deployOnly }

// Deploy asks the lastcall with the address of -admin for a deploy, and writes its
// steps to stdout. The [Status] of its error is 3 if nothing was started, because
// another deploy or an upgrade is under way, the other lastcall stops, or nobody answers; 4
// if it is not known how the deploy has ended; and otherwise 1.
func (c *Settings) Deploy(stdout io.Writer) error {
	var body []byte
	if len(c.program) > 0 {
		line := append([]string(nil), c.program...)
		if strings.ContainsRune(line[0], filepath.Separator) { // that lastcall may be in another directory
			abs, err := filepath.Abs(line[0])
			if err != nil {
				return err
			}
			line[0] = abs
		}
		body, _ = json.Marshal(line)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		network, addr := "tcp", c.admin
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			network, addr = "unix", path
		}
		nc, err := (&net.Dialer{Timeout: askTimeout}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, notTried{err}
		}
		return nc, nil
	}, ResponseHeaderTimeout: askTimeout}
	r, err := http.NewRequest(http.MethodPut, "http://localhost/deploy", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(r)
	switch {
	case errors.As(err, new(notTried)):
		return notTried{fmt.Errorf("deploy: %w", err)}
	case err != nil: // it may have been asked
		return notKnown{fmt.Errorf("deploy: %w", err)}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		err := fmt.Errorf("deploy: %s", strings.TrimSpace(string(b)))
		if res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusMethodNotAllowed {
			return notTried{errors.New("deploy: what answers at -admin runs no program")}
		}
		if res.StatusCode == http.StatusConflict || res.StatusCode == http.StatusServiceUnavailable {
			err = notTried{err}
		}
		return err
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(stdout, printable.Escape(lines.Text())) // what the program says is in them
	}
	if err := lines.Err(); err != nil {
		return notKnown{fmt.Errorf("deploy: the answer broke off: %w", err)}
	}
	switch result := res.Trailer.Get(resultTrailer); {
	case result == "done":
		return nil
	case result == "":
		return notKnown{errors.New("deploy: the answer does not say how it ended")}
	case strings.HasPrefix(result, brokenOff):
		return notKnown{fmt.Errorf("deploy %s", result)}
	default:
		return fmt.Errorf("deploy %s", result)
	}
}
