package files

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"lastcall/internal/nonblock"
	"lastcall/internal/socket"
)

// trees keeps the directory that a path names open.
type trees struct {
	dir string

	mu  sync.Mutex
	now *tree // the last that dir named
}

// tree is a directory that is open.
type tree struct {
	root  *os.Root
	info  fs.FileInfo
	users int // requests, and trees.now; under trees.mu
}

func openTree(dir string) (*tree, error) {
	name := dir
	if name != "" {
		name += string(filepath.Separator) // with it only a directory is opened: to open a pipe would block
	}
	root, err := os.OpenRoot(name)
	if pathErr, ok := err.(*fs.PathError); ok {
		pathErr.Path = dir
	}
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &tree{root: root, info: info, users: 1}, nil
}

// acquire returns the tree that the path names, or named last. It stays open until
// it is released.
func (ts *trees) acquire() *tree {
	info, err := os.Stat(ts.dir)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if err == nil && !os.SameFile(info, ts.now.info) {
		if t, err := openTree(ts.dir); err == nil {
			ts.releaseLocked(ts.now)
			ts.now = t
		}
	}
	ts.now.users++
	return ts.now
}

func (ts *trees) release(t *tree) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.releaseLocked(t)
}

func (ts *trees) releaseLocked(t *tree) {
	if t.users--; t.users == 0 {
		t.root.Close()
	}
}

// open opens a regular file or a directory. It does not block.
func (t *tree) open(name string) (*os.File, fs.FileInfo, error) {
	name = strings.Trim(name, "/")
	for segment := range strings.SplitSeq(name, "/") {
		if hidden(segment) {
			return nil, nil, fs.ErrNotExist
		}
	}
	if name == "" {
		name = "."
	}
	name, err := filepath.Localize(name)
	if err != nil {
		return nil, nil, fs.ErrNotExist
	}
	f, err := t.root.OpenFile(name, os.O_RDONLY|nonblock.Flag, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func hidden(name string) bool {
	return strings.HasPrefix(name, ".") && name != ".well-known"
}

// statusOf returns the status for an error of a file. What is not about the
// process or the disk is not found: a path that leaves the root, a name that is
// too long, a file used as a directory.
func statusOf(err error) int {
	is := func(errs ...error) bool {
		for _, e := range errs {
			if errors.Is(err, e) {
				return true
			}
		}
		return false
	}
	switch {
	case is(fs.ErrPermission):
		return http.StatusForbidden
	case socket.IsExhausted(err):
		return http.StatusServiceUnavailable
	case is(syscall.EIO, syscall.EAGAIN):
		return http.StatusInternalServerError
	}
	return http.StatusNotFound
}
