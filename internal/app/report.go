package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"lastcall/actors"
	"lastcall/internal/printable"
)

// report is what -report writes: the last log line of a stop, and more.
type report struct {
	Cause        string       `json:"cause"`
	Began        time.Time    `json:"began"`
	Elapsed      float64      `json:"elapsed_seconds"`
	Served       uint64       `json:"served"`            // since the start
	Drained      uint64       `json:"drained"`           // of those, since the stop began
	DrainedHTTP2 uint64       `json:"drained_http2"`     // of those, over HTTP/2
	Hijacked     uint64       `json:"hijacked_ended"`    // connections, since the stop began
	Moved        uint64       `json:"moved"`             // connections, to a successor
	Failed       uint64       `json:"failed"`            // requests, since the stop began
	Cut          int          `json:"cut"`               // requests and hijacked connections
	CutHijacked  int          `json:"cut_hijacked"`      // of those, connections
	LogDropped   uint64       `json:"log_lines_dropped"` // and those that were still to be written
	Requests     []cutRequest `json:"cut_requests,omitempty"`
	Status       int          `json:"status"` // of the process, as shells have it
	Error        string       `json:"error,omitempty"`
}

type cutRequest struct {
	Class  actors.Class `json:"class"`
	Method string       `json:"method"`
	Path   string       `json:"path"`
	Client string       `json:"client"`
	Age    float64      `json:"age_seconds"`
	Sent   int64        `json:"sent"`
}

// newReport returns the report of a stop that has ended with err, and whose log
// lacks so many lines.
func newReport(s actors.Snapshot, err error, logDropped uint64) report {
	r := report{
		Began: s.Began.UTC(), Elapsed: s.Elapsed().Seconds(),
		Served: s.Served, Drained: s.Drained, DrainedHTTP2: s.DrainedHTTP2, Hijacked: s.HijackedEnded, Moved: s.Moved, Failed: s.Failed, Cut: len(s.Cut), CutHijacked: s.CutHijacked,
		LogDropped: logDropped, Status: Status(err),
	}
	if s.Cause != nil {
		r.Cause = s.Cause.Error()
	}
	if err != nil {
		r.Error = err.Error()
	}
	for _, c := range s.Cut {
		r.Requests = append(r.Requests, cutRequest{c.Class, printable.Clip(c.Method, printable.Max), printable.Clip(c.Path, printable.Max), c.Client, c.Age.Seconds(), c.Sent})
	}
	return r
}

// write replaces the file in one step: nobody can read half of it.
func (r report) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := createBeside(path)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// checkReport returns an error if a report cannot be written, or would replace one of the
// files that are read.
func checkReport(path string, read ...string) error {
	info, err := os.Lstat(path)
	for _, name := range read {
		if other, oerr := os.Stat(name); err == nil && oerr == nil && os.SameFile(info, other) {
			return fmt.Errorf("%s is read, and would be replaced", path)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", path) // write would replace it, as it would a symbolic link
	}
	f, err := createBeside(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// createBeside creates a temporary file in the directory of path.
func createBeside(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), ".lastcall-report-*")
}
