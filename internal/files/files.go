// Package files serves the files of a directory.
package files

import (
	"cmp"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/throttle"
)

// Config holds the optional settings of [Handler]. The zero value works.
type Config struct {
	// List says that a directory without index.html is listed. It is not found
	// otherwise.
	List bool

	// Logger gets a line (warn), once a second at most, when a file cannot be
	// opened because descriptors or memory have run out. Nil logs nothing.
	Logger log.Logger
}

// Handler serves the regular files of a directory to GET and HEAD: with ranges,
// conditional requests, content types, and index.html for directories.
//
// Nothing outside the directory is served: a path or symbolic link that leads
// outside is not found ([os.Root]). Names that begin with a dot are neither
// found nor listed, except .well-known (RFC 8615); nor are names that are not UTF-8. A link of another name may
// lead to them, as in a volume of a Kubernetes ConfigMap, where all files are
// links into ..data. Devices, sockets and pipes are not found.
//
// Each request is answered from the directory that dir names when the request
// begins: if dir, or a part of it, is a symbolic link, it may be switched to
// another tree at any time. While dir names no directory, the last one is served.
//
// A file has an ETag made of its size and the time of its last change, and
// If-Modified-Since has to be exactly that time: after a switch to an older file
// no client keeps the newer one. A request for more than maxRanges ranges, or for
// ranges that overlap, gets the whole file.
//
// The error says why the directory cannot be opened.
func Handler(dir string, cfg Config) (http.Handler, error) {
	t, err := openTree(dir)
	if err != nil {
		return nil, fmt.Errorf("want a directory: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = log.NewNopLogger()
	}
	return &handler{Config: cfg, trees: trees{dir: dir, now: t}}, nil
}

type handler struct {
	Config
	trees
	exhausted throttle.Second // of warnings
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if segment, slash := lastSegment(r.URL); segment == "index.html" && !slash {
		redirect(w, r, "./")
		return
	}
	t := h.acquire()
	defer h.release(t)
	if err := h.serve(w, r, t); err != nil {
		status := statusOf(err)
		if status == http.StatusServiceUnavailable {
			if times, ok := h.exhausted.Next(); ok {
				level.Warn(h.Logger).Log("msg", "files cannot be opened", "err", err, "times", times)
			}
		}
		http.Error(w, fmt.Sprintf("%d %s", status, strings.ToLower(http.StatusText(status))), status)
	}
}

// serve answers a request from a tree, unless it returns an error.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, t *tree) error {
	name := path.Clean("/" + r.URL.Path)
	segment, slash := lastSegment(r.URL)
	f, info, err := t.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if !info.IsDir() {
		switch {
		case !slash:
			serveFile(w, r, path.Base(name), f, info) // the segment may be another one: a%2F.
		case segment == "" || segment == "." || segment == "..":
			return fs.ErrNotExist
		default:
			redirect(w, r, "../"+url.PathEscape(segment))
		}
		return nil
	}

	index, indexInfo, err := t.open(path.Join(name, "index.html"))
	if err == nil {
		defer index.Close()
		if indexInfo.IsDir() {
			err = fs.ErrNotExist
		}
	}
	hasIndex := err == nil
	switch {
	case !hasIndex && !(h.List && statusOf(err) == http.StatusNotFound):
		return err
	case !slash:
		redirect(w, r, url.PathEscape(segment)+"/")
	case hasIndex:
		serveFile(w, r, "index.html", index, indexInfo)
	default:
		return serveList(w, f, func(entry string) bool {
			e, _, err := t.open(path.Join(name, entry))
			if err == nil {
				e.Close()
			}
			return err == nil
		})
	}
	return nil
}

// lastSegment returns the last segment of the path, decoded, and whether a slash
// follows it. A slash that is encoded is a part of the segment: a client resolves a
// redirect against the path as it is written.
func lastSegment(u *url.URL) (segment string, slash bool) {
	raw, slash := strings.CutSuffix(cmp.Or(u.RawPath, u.EscapedPath(), "/"), "/")
	segment, _ = url.PathUnescape(raw[strings.LastIndexByte(raw, '/')+1:]) // which net/url has done
	return segment, slash
}

// redirect answers with a path that is relative to the requested one, so that it
// is right behind a proxy that has removed a prefix.
func redirect(w http.ResponseWriter, r *http.Request, to string) {
	if strings.Contains(to, ":") {
		to = "./" + to // otherwise the colon would make a scheme
	}
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusMovedPermanently)
}

// serveList answers with links to what is in a directory and can be served, which found
// tells of a symbolic link.
func serveList(w http.ResponseWriter, dir *os.File, found func(name string) bool) error {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var page strings.Builder
	page.WriteString("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n")
	for _, e := range entries {
		if hidden(e.Name()) || !fs.ValidPath(e.Name()) {
			continue
		}
		if !e.IsDir() && !e.Type().IsRegular() && (e.Type()&fs.ModeSymlink == 0 || !found(e.Name())) {
			continue
		}
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		u := url.URL{Path: name}
		fmt.Fprintf(&page, "<a href=\"%s\">%s</a>\n", html.EscapeString(u.String()), html.EscapeString(name))
	}
	page.WriteString("</pre>\n")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprint(w, page.String())
	return nil
}
