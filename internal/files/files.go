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

// Handler serves the regular files of a directory, to GET and HEAD: with ranges,
// conditional requests by Last-Modified, content types, and index.html for
// directories. A directory without one is listed if list is true, and is not
// found otherwise.
//
// There is no way out of the directory: a path or symbolic link that leads
// outside is not found ([os.Root]). Names that begin with a dot are not found
// and not listed, but for .well-known (RFC 8615); a link of another name leads
// to them, as in a volume of a Kubernetes ConfigMap, where all files are links
// into ..data. Devices, sockets and pipes, which could block, are not found.
//
// The directory is opened once, here. If it is moved or replaced later, the
// one that was opened is still the one that is served.
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
// of which net/http can make sendfile.
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

// notFound makes "does not exist" of all errors but those that say something
// of this process: a way out of the root, a name too long, a file taken for a
// directory. net/http would answer 500 to these.
func notFound(err error) error {
	for _, ours := range []error{fs.ErrPermission, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO} {
		if errors.Is(err, ours) {
			return err
		}
	}
	return fs.ErrNotExist
}

// directory lists no hidden names.
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
