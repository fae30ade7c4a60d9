package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"lastcall/stoptest/report"
)

// columns are the classes of clients that a table of losses has.
var columns = []struct{ class, title string }{
	{"reuse", "keep-alive, not looking"}, {"look", "keep-alive, looking"}, {"connect", "new connections"},
	{"h2", "HTTP/2"}, {"slow", "slow"}, {"upload", "uploads"},
}

// writeTable writes what was found, as Markdown.
func writeTable(path string, scenarios []scenario, results map[string][]*report.Report) error {
	var b strings.Builder
	var times []scenario
	header(&b, results)
	for _, sc := range scenarios {
		if !sc.plot {
			times = append(times, sc)
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n", sc.title)
		picture := fmt.Sprintf("%s\n\n![%s](%s.svg)\n\n", command(sc), sc.title, sc.name)
		if sc.name == "restart" {
			b.WriteString(restartWords + picture)
			restarts(&b, results[sc.name])
		} else {
			fmt.Fprintf(&b, "Requests lost in all %ss, by class; – where there were none of it. %s", sc.event(), picture)
			losses(&b, sc, results[sc.name])
		}
		busy(&b, sc, results[sc.name])
	}
	if len(times) > 0 {
		stopTimes(&b, times, results)
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// event is what is done to the servers.
func (sc scenario) event() string {
	if sc.own {
		return sc.name
	}
	return "stop"
}

func command(sc scenario) string {
	return fmt.Sprintf("`go run . -scenarios %s`", sc.name)
}

func header(b *strings.Builder, results map[string][]*report.Report) {
	versions := map[string]string{}
	var first, last *report.Report
	for _, reports := range results {
		for _, r := range reports {
			if r.Date.IsZero() {
				continue
			}
			if first == nil || r.Date.Before(first.Date) {
				first = r
			}
			if last == nil || r.Date.After(last.Date) {
				last = r
			}
			for k, v := range r.Versions {
				versions[k] = v
			}
		}
	}
	fmt.Fprintf(b, "# What servers lose when they stop\n\n")
	if first == nil {
		return
	}
	var words []string
	for _, k := range []string{"go", "caddy", "nginx", "haproxy", "node"} {
		if versions[k] != "" {
			words = append(words, k+" "+strings.TrimPrefix(versions[k], "go"))
		}
	}
	until := last.Date.Format("15:04")
	if day := last.Date.Format(time.DateOnly); day != first.Date.Format(time.DateOnly) {
		until = day + " " + until
	}
	fmt.Fprintf(b, "Measured by `bench/compare`, %s to %s UTC; %s, %d cores; %s.\n",
		first.Date.Format("2006-01-02 15:04"), until, first.Kernel, first.CPUs, strings.Join(words, ", "))
}

func losses(b *strings.Builder, sc scenario, reports []*report.Report) {
	event := sc.event()
	b.WriteString("| server | " + event + "s | requests |")
	for _, c := range columns {
		b.WriteString(" " + c.title + " |")
	}
	b.WriteString(" lost | a " + event + " |")
	if !sc.own {
		b.WriteString(" exit after | of that idle | status |")
	}
	b.WriteString("\n|---|---:|---:|" + strings.Repeat("---:|", len(columns)) + "---:|---:|")
	if !sc.own {
		b.WriteString("---:|---:|---|")
	}
	b.WriteString("\n")
	for _, r := range reports {
		if len(r.Stops) == 0 {
			fmt.Fprintf(b, "| %s | not tested: %s |\n", r.Server, r.Error)
			continue
		}
		fmt.Fprintf(b, "| %s | %d | %d |", r.Server, len(r.Stops), r.Total.Requests)
		for _, c := range columns {
			cell := "–"
			for _, row := range r.Rows {
				if row.Class == c.class && row.Requests > 0 {
					cell = fmt.Sprint(row.Failed())
				}
			}
			b.WriteString(" " + cell + " |")
		}
		var each []int
		for i := range r.Stops {
			each = append(each, r.Stops[i].Total.Failed())
		}
		fmt.Fprintf(b, " %d | %d–%d |", r.Total.Failed(), slices.Min(each), slices.Max(each))
		if !sc.own {
			fmt.Fprintf(b, " %s | %s | %s |", middle(r, exit), middle(r, beyond), statuses(r))
		}
		b.WriteString("\n")
	}
}

// restartWords are the text before the table of restarts.
const restartWords = "Of all restarts. Connections are those of 200 keep-alive clients that were open at the signal: `kept` are those that answered on after the restart, " +
	"`closed` those that the server ended or said `Connection: close` on. The pause is the longest that a client waited for an answer in a restart, " +
	"and in the 2 s before it: the median of the restarts, and the longest. Slow requests and uploads are under way, and take 2 to 3 s. HTTP/2 is not in it. "

// restarts writes the table of restarts.
func restarts(b *strings.Builder, reports []*report.Report) {
	b.WriteString("| server | restarts | requests | lost | refused | connections kept | closed | longest pause | before |\n|---|" + strings.Repeat("---:|", 8) + "\n")
	for _, r := range reports {
		if len(r.Stops) == 0 {
			fmt.Fprintf(b, "| %s | not tested: %s |\n", r.Server, r.Error)
			continue
		}
		t := &r.Total
		fmt.Fprintf(b, "| %s | %d | %d | %d | %d | %d | %d | %s | %s |\n", r.Server, len(r.Stops), t.Requests, t.Failed()-t.RefusedEarly, t.RefusedEarly,
			t.Kept, t.Closed, middle(r, pause), middle(r, pauseBefore))
	}
}

// busy says in how many stops the clients may have been the bottleneck.
func busy(b *strings.Builder, sc scenario, reports []*report.Report) {
	n, of := 0, 0
	for _, r := range reports {
		of += len(r.Stops)
		for i := range r.Stops {
			if r.Stops[i].Clients.Bottleneck != "" {
				n++
			}
		}
	}
	if n > 0 {
		fmt.Fprintf(b, "\nClients and servers shared the cores: in %d of %d %ss clients ran so late that stoptest says they may have been the bottleneck.\n", n, of, sc.event())
	}
}

func stopTimes(b *strings.Builder, times []scenario, results map[string][]*report.Report) {
	b.WriteString("\n## The time of a stop\n\nFrom the signal to the exit, or from the last answer: the median and the longest.\n\n| server |")
	for _, sc := range times {
		title := sc.title
		if sc.slow {
			title += ": from its answer"
		}
		b.WriteString(" " + title + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(times)) + "\n")
	for i, r := range results[times[0].name] {
		b.WriteString("| " + r.Server + " |")
		for _, sc := range times {
			r, of := results[sc.name][i], exit
			if sc.slow {
				of = beyond
			}
			b.WriteString(" " + middle(r, of) + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, sc := range times {
		b.WriteString(command(sc) + "\n")
	}
}

func exit(s *report.Stop) *float64   { return s.Exit }
func beyond(s *report.Stop) *float64 { return s.Beyond }

func pause(s *report.Stop) *float64       { return &s.Total.Pause }
func pauseBefore(s *report.Stop) *float64 { return &s.Total.PauseBefore }

// middle is the median of the stops' times, and the longest.
func middle(r *report.Report, of func(*report.Stop) *float64) string {
	var values []float64
	for i := range r.Stops {
		if v := of(&r.Stops[i]); v != nil {
			values = append(values, *v)
		}
	}
	if len(values) < len(r.Stops) {
		return fmt.Sprintf("%d of %d did not stop", len(r.Stops)-len(values), len(r.Stops))
	}
	if len(values) == 0 {
		return "–"
	}
	slices.Sort(values)
	return fmt.Sprintf("%s (%s)", seconds(values[len(values)/2]), seconds(values[len(values)-1]))
}

func seconds(s float64) string {
	if s < 0.1 {
		return fmt.Sprintf("%.0f ms", s*1000)
	}
	return fmt.Sprintf("%.2f s", s)
}

// statuses are the exit statuses, each once.
func statuses(r *report.Report) string {
	var all []string
	for i := range r.Stops {
		text := "killed"
		if s := r.Stops[i].ExitStatus; s != nil {
			text = fmt.Sprint(*s)
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
