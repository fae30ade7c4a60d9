package files

import (
	"errors"
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
	if modified.After(time.Now()) {
		modified = time.Time{} // no Last-Modified is to come: RFC 9110 section 8.8.2.1
	}
	cloned := false
	header := func() http.Header { // the request's, to be changed
		if !cloned {
			r2 := *r
			r2.Header = r.Header.Clone()
			r, cloned = &r2, true
		}
		return r.Header
	}
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if lines := r.Header[name]; len(lines) > 1 { // of which http.ServeContent takes the first
			header().Set(name, strings.Join(lines, ", "))
		}
	}
	if since := r.Header.Get("If-Modified-Since"); since != "" {
		if t, err := http.ParseTime(since); err != nil || t.Unix() != modified.Unix() {
			header().Del("If-Modified-Since") // http.ServeContent takes any later time
		}
	}
	if ranges := r.Header.Get("Range"); ranges != "" {
		list, ok := strings.CutPrefix(ranges, "bytes=")
		if ok {
			list, ok = clipRanges(list, info.Size())
		}
		if ok {
			header().Set("Range", "bytes="+list)
		} else { // another unit is ignored: RFC 9110 section 14.2
			header().Del("Range")
		}
	}
	http.ServeContent(w, r, name, modified, f)
}

// clipRanges returns a list of ranges without what lies outside the file: the last 0 bytes,
// of which http.ServeContent makes an answer that cannot be, and ends that it cannot read
// because they are too large. For what is not a list of ranges it returns one that
// http.ServeContent refuses. It reports false for more than maxRanges ranges, and for two that have a byte in
// common.
func clipRanges(list string, size int64) (clipped string, ok bool) {
	type span struct{ first, last int64 }
	var spans []span
	var parts []string
	none, n := fmt.Sprintf("%d-", size), 0 // what no file has is refused
	for element := range strings.SplitSeq(list, ",") {
		element = strings.Trim(element, " \t")
		from, to, ok := strings.Cut(element, "-")
		first, last := parsePosition(from), parsePosition(to)
		suffix := from == ""
		switch {
		case element == "":
			continue
		case !ok, first < 0 && !suffix, last < 0 && (suffix || to != ""), first > last && last >= 0:
			return none, true
		case suffix:
			first, last = max(size-last, 0), size-1
		case to == "":
			last = size - 1
		}
		if n++; n > maxRanges {
			return "", false
		}
		last = min(last, size-1)
		if first > last {
			continue // unsatisfiable, but counted
		}
		for _, s := range spans {
			if first <= s.last && s.first <= last {
				return "", false
			}
		}
		spans = append(spans, span{first, last})
		parts = append(parts, fmt.Sprintf("%d-%d", first, last))
	}
	if len(parts) == 0 {
		return none, true
	}
	return strings.Join(parts, ","), true
}

// parsePosition parses digits, and returns the largest number if they mean a larger one. It
// returns -1 for anything else.
func parsePosition(s string) int64 {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return -1
	}
	return int64(n)
}
