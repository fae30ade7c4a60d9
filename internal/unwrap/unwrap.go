// Package unwrap finds what a ResponseWriter wraps.
package unwrap

import "net/http"

// Find returns w, or the first of those that it wraps, as http.ResponseController has it,
// that is a T.
func Find[T any](w http.ResponseWriter) (found T, ok bool) {
	for {
		if found, ok = w.(T); ok {
			return found, true
		}
		u, wraps := w.(interface{ Unwrap() http.ResponseWriter })
		if !wraps {
			return found, false
		}
		w = u.Unwrap()
	}
}
