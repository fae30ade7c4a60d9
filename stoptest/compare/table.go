package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"lastcall/stoptest/report"
)

// columns are the classes of clients that the table has.
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
		fmt.Fprintf(&b, "\n## %s\n\nRequests lost in all %ss, by class; – where there were none of it. %s\n\n![%s](%s.svg)\n\n", sc.title, sc.event(), command(sc), sc.title, sc.name)
		losses(&b, sc, results[sc.name])
	}
	if len(times) > 0 {
		stopTimes(&b, times, results)
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// event is what is done to the servers.
func (sc scenario) event() string {
	if sc.deploy {
		return "deploy"
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
	fmt.Fprintf(b, "Measured by `stoptest/compare`, %s to %s UTC; %s, %d cores; %s.\n",
		first.Date.Format("2006-01-02 15:04"), until, first.Kernel, first.CPUs, strings.Join(words, ", "))
}

func losses(b *strings.Builder, sc scenario, reports []*report.Report) {
	event := sc.event()
	b.WriteString("| server | " + event + "s | requests |")
	for _, c := range columns {
		b.WriteString(" " + c.title + " |")
	}
	b.WriteString(" lost | a " + event + " |")
	if !sc.deploy {
		b.WriteString(" exit after | of that idle | status |")
	}
	b.WriteString("\n|---|---:|---:|" + strings.Repeat("---:|", len(columns)) + "---:|---:|")
	if !sc.deploy {
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
		if !sc.deploy {
			fmt.Fprintf(b, " %s | %s | %s |", middle(r, exit), middle(r, beyond), statuses(r))
		}
		b.WriteString("\n")
	}
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
		fmt.Fprintf(b, "\nClients and servers shared the cores: in %d of %d %ss clients ran so late that stoptest says they may have been the bottleneck.\n", n, of, event)
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
