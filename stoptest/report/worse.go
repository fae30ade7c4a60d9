package report

import (
	"errors"
	"fmt"
	"strings"
)

// WorseThan says in what r is worse than kept, a result of the same test that was kept:
// a class of clients is missing, more requests failed in each stop, the server did not
// stop more often, a reload closed connections and closed none before, or it could not be
// tested to the end, or at all. It returns nothing if r is no worse, and an error if kept has no
// stop.
func (r *Report) WorseThan(kept *Report) ([]string, error) {
	if len(kept.Stops) == 0 {
		return nil, errors.New("no stop in it: nothing to compare with")
	}
	var worse []string
	add := func(format string, args ...any) { worse = append(worse, fmt.Sprintf(format, args...)) }
	if r.Error != "" {
		add("could not be tested to the end: %s", r.Error)
	} else if len(r.Stops) == 0 {
		add("no stop in it")
	}
	has := map[string]bool{}
	for i := range r.Rows {
		has[r.Rows[i].Class] = true
	}
	for i := range kept.Rows {
		if class := kept.Rows[i].Class; !has[class] && len(r.Stops) > 0 {
			add("no %s clients", class)
		}
	}
	more := func(now, before int) bool { return now*len(kept.Stops) > before*len(r.Stops) }
	if now, before := r.Total.Failed(), kept.Total.Failed(); more(now, before) {
		add("lost %s in %s (%s), before %s in %s", Thousands(now), r.CountStops(), r.losers(), Thousands(before), kept.CountStops())
	}
	if now, before := r.stuck(), kept.stuck(); more(now, before) {
		add("did not stop in %d of %s, before in %d of %s", now, r.CountStops(), before, kept.CountStops())
	}
	if r.stuckAtSecond() && !kept.stuckAtSecond() {
		add("did not stop at the second signal")
	}
	if now, before := r.Total.Closed, kept.Total; now > 0 && before.Closed == 0 && before.Kept > 0 {
		add("closed %s of %s connections, before none", Thousands(now), Thousands(r.Total.OpenAtSignal))
	}
	return worse, nil
}

// CountStops returns "1 stop", or "2 reloads".
func (r *Report) CountStops() string {
	what := "stop"
	if r.Reload != "" {
		what = "reload"
	}
	return count(len(r.Stops), what)
}

// stuck is in how many stops the server did not stop.
func (r *Report) stuck() (n int) {
	for i := range r.Stops {
		if r.Stops[i].DidNotStop {
			n++
		}
	}
	return n
}

// stuckAtSecond reports whether the server did not stop at the second signal.
func (r *Report) stuckAtSecond() bool { return r.Second != nil && r.Second.DidNotStop }

// Compare returns a line for each report, the first of which was kept, and whether one
// of the others is worse than it. names are those of the files.
func Compare(names []string, reports []*Report) (text string, worse bool, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", names[0], reports[0].Verdict)
	for i, r := range reports[1:] {
		name := names[i+1]
		in, err := r.WorseThan(reports[0])
		switch {
		case err != nil:
			return "", false, fmt.Errorf("%s: %w", names[0], err)
		case len(in) > 0:
			worse = true
			fmt.Fprintf(&b, "%s: WORSE: %s.\n", name, strings.Join(in, "; "))
		default:
			fmt.Fprintf(&b, "%s: no worse. %s\n", name, r.Verdict)
		}
	}
	return b.String(), worse, nil
}
