// Package files serves the files of a directory.
package files

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Handler serves the regular files of a directory to GET and HEAD: with ranges,
// conditional requests by Last-Modified, content types, and index.html for
// directories. A directory without index.html is listed if list is true, and is
// not found otherwise.
//
// Nothing outside the directory is served: a path or symbolic link that leads
// outside is not found ([os.Root]). Names that begin with a dot are neither
// found nor listed, except .well-known (RFC 8615). A link of another name may
// lead to them, as in a volume of a Kubernetes ConfigMap, where all files are
// links into ..data. Devices, sockets and pipes, which could block, are not
// found.
//
// Handler opens the directory once. If the directory is moved or replaced
// later, the one that was opened is still served. The error says why the
// directory cannot be opened.
func Handler(dir string, list bool) (http.Handler, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("want a directory: %w", err)
	}
	return methods(http.FileServer(tree{root, list})), nil
}

// methods allows GET and HEAD only.
func methods(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// tree is an http.FileSystem. Unlike http.FS it returns the *os.File itself,
// which net/http can send by sendfile.
type tree struct {
	root *os.Root
	list bool
}

func (t tree) Open(name string) (http.File, error) {
	name = strings.Trim(name, "/")
	for segment := range strings.SplitSeq(name, "/") {
		if hidden(segment) {
			return nil, fs.ErrNotExist
		}
	}
	if name == "" {
		name = "."
	}
	name, err := filepath.Localize(name)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	info, err := t.root.Stat(name) // before Open, which blocks on a pipe
	if err != nil {
		return nil, notFound(err)
	}
	switch {
	case info.Mode().IsRegular():
	case !info.IsDir():
		return nil, fs.ErrNotExist
	case !t.list:
		if index, err := t.root.Stat(filepath.Join(name, "index.html")); err != nil || !index.Mode().IsRegular() {
			return nil, fs.ErrNotExist
		}
	}
	f, err := t.root.Open(name)
	if err != nil {
		return nil, notFound(err)
	}
	if info.IsDir() {
		return directory{f}, nil
	}
	return f, nil
}

func hidden(name string) bool {
	return strings.HasPrefix(name, ".") && name != ".well-known"
}

// notFound turns err into fs.ErrNotExist, unless it is about the process or the
// disk. net/http would answer 500 to a path that leaves the root, to a name
// that is too long, and to a file used as a directory.
func notFound(err error) error {
	for _, ours := range []error{fs.ErrPermission, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO} {
		if errors.Is(err, ours) {
			return err
		}
	}
	return fs.ErrNotExist
}

// directory is a directory without its hidden names.
type directory struct{ *os.File }

func (d directory) ReadDir(n int) ([]fs.DirEntry, error) {
	all, err := d.File.ReadDir(n)
	var entries []fs.DirEntry
	for _, e := range all {
		if !hidden(e.Name()) {
			entries = append(entries, e)
		}
	}
	return entries, err
}
