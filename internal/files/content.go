package files

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxRanges is how many ranges a request may ask for. Each costs a part's header,
// which is longer than the few bytes that ask for it.
const maxRanges = 8

// serveFile answers with a file, or with parts of it.
//
// http.ServeContent has the rules of RFC 9110 section 13.2.2 for an ETag: what
// is asked by If-None-Match and If-Match is not asked by time.
func serveFile(w http.ResponseWriter, r *http.Request, name string, f *os.File, info fs.FileInfo) {
	modified := info.ModTime()
	if modified.Unix() == 0 || modified.Unix() == 1 {
		modified = time.Time{} // package managers set all files to these: the time says nothing
	} else {
		w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, modified.UnixNano(), info.Size()))
	}
	drop := func(name string) {
		r2 := *r
		r2.Header = r.Header.Clone()
		r2.Header.Del(name)
		r = &r2
	}
	if since := r.Header.Get("If-Modified-Since"); since != "" {
		if t, err := http.ParseTime(since); err != nil || t.Unix() != modified.Unix() {
			drop("If-Modified-Since") // http.ServeContent takes any later time
		}
	}
	if ranges := r.Header.Get("Range"); ranges != "" {
		list, ok := strings.CutPrefix(ranges, "bytes=")
		if !ok || !disjoint(list, info.Size()) { // another unit is ignored: RFC 9110 section 14.2
			drop("Range")
		}
	}
	http.ServeContent(w, r, name, modified, f)
}

// disjoint reports whether a list has at most maxRanges ranges, of which no two
// have a byte in common. What is not a range is left to others to refuse.
func disjoint(list string, size int64) bool {
	type span struct{ first, last int64 }
	var spans []span
	for element := range strings.SplitSeq(list, ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(element), "-")
		first, ferr := strconv.ParseInt(strings.TrimSpace(from), 10, 64)
		last, lerr := strconv.ParseInt(strings.TrimSpace(to), 10, 64)
		switch {
		case !ok:
			continue
		case from == "": // the last bytes
			first, last = max(size-last, 0), size-1
		case ferr != nil || first >= size:
			first, last = size, size // unsatisfiable, but counted
		case lerr != nil || last >= size:
			last = size - 1
		}
		for _, s := range spans {
			if first <= s.last && s.first <= last && first < size {
				return false
			}
		}
		if spans = append(spans, span{first, last}); len(spans) > maxRanges {
			return false
		}
	}
	return true
}
