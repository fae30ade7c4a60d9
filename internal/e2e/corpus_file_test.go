//go:build unix

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A corpus is a file of testdata/corpus, whose README.md describes the format.
type corpus struct {
	flags   []string
	clients []string
	apart   bool       // each case has a server of its own
	tree    [][]string // file, link, dir and pipe lines
	cases   []*corpusCase
}

// A corpusCase is what is sent, and what must come of it.
type corpusCase struct {
	name    string
	line    int
	pending string // the point that it waits for, and "on" with clients, if not all
	needs   string // a version of Go
	client  []corpusStep
	sees    []*expectation // the requests that the program must get
	anyOne  bool           // the program must get one request, of any kind
	maybe   bool           // or none
	unwhole bool           // the program must not get a request whole
	answers [][]corpusStep // what the program does with each request; the last is for all that follow
}

// A corpusStep is one step of the client or of the program.
type corpusStep struct {
	send   string       // bytes of HTTP/1
	frame  *frameStep   // of HTTP/2
	expect *expectation // of the client
	do     string       // closes, resets, waits, ...
}

// A frameStep is a frame of HTTP/2 to send.
type frameStep struct {
	kind    string
	words   []string // stream, flags, code
	payload string
	fields  [][2]string
}

// An expectation is what must be true of a message.
type expectation struct {
	first    string   // the request line, or the status
	words    []string // after the status
	fields   [][2]string
	absent   []string
	trailers [][2]string
	absentTr []string
	body     *string
	contains []string
}

var (
	requestLine = regexp.MustCompile(`^[^ ]*[^ :] .*HTTP/\d\.\d$`)
	frameLine   = regexp.MustCompile(`^([A-Z_]+)(?: |$)`)
)

// hasHTTP1Program reports whether there is a program, which speaks HTTP/1.1.
func (c *corpus) hasHTTP1Program() bool {
	return !c.programHTTP2() && slices.ContainsFunc(c.flags, func(f string) bool { return strings.Contains(f, "PROGRAM") })
}

// programHTTP2 reports whether the program speaks HTTP/2.
func (c *corpus) programHTTP2() bool {
	return slices.ContainsFunc(c.flags, func(f string) bool { return strings.HasPrefix(f, "h2c://PROGRAM") })
}

// isPending reports whether the case is expected to fail over a client.
func (cs *corpusCase) isPending(client string) bool {
	point, clients, some := strings.Cut(cs.pending, " on ")
	return point != "" && (!some || slices.Contains(strings.Fields(clients), client))
}

// readCorpus parses a file.
func readCorpus(t *testing.T, path string) *corpus {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := new(corpus)
	var cs *corpusCase
	for n, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		fail := func(what any) { t.Fatalf("%s:%d: %v: %q", path, n+1, what, line) }
		word, rest, _ := strings.Cut(line, " ")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if word == "===" {
			cs = &corpusCase{name: rest, line: n + 1}
			c.cases = append(c.cases, cs)
			continue
		}
		if cs == nil {
			switch word {
			case "flags":
				c.flags = strings.Fields(rest)
			case "client":
				c.clients = strings.Fields(rest)
			case "apart":
				c.apart = true
			case "file", "link", "dir", "pipe":
				name, more, _ := strings.Cut(rest, " ")
				f := []string{word, name, more}
				for i := range f {
					if f[i], err = unescape(f[i]); err != nil {
						fail(err)
					}
				}
				c.tree = append(c.tree, f)
			default:
				fail("unknown line before the first case")
			}
			continue
		}
		switch word {
		case "pending":
			cs.pending = rest
		case "needs":
			cs.needs = rest
		case ">":
			err = cs.sends(rest, strings.HasPrefix(c.clients[0], "h2"))
		case "<":
			err = cs.expects(rest)
		case ">>":
			err = cs.programGets(rest)
		case "<<":
			err = cs.programSends(rest, c.programHTTP2())
		case "client":
			cs.client = append(cs.client, corpusStep{do: rest})
		case "program":
			if rest == "next" {
				cs.answers = append(cs.answers, nil)
			} else {
				cs.programDoes(corpusStep{do: rest})
			}
		default:
			fail("unknown line")
		}
		if err != nil {
			fail(err)
		}
	}
	return c
}

// sends adds a line that the client sends.
func (cs *corpusCase) sends(line string, http2 bool) error {
	if !http2 {
		s, err := wireLine(line)
		if n := len(cs.client); n > 0 && cs.client[n-1].send != "" {
			cs.client[n-1].send += s // one packet
		} else {
			cs.client = append(cs.client, corpusStep{send: s})
		}
		return err
	}
	return addFrame(&cs.client, line)
}

// addFrame adds a line of HTTP/2: a frame, or a field of the last one.
func addFrame(steps *[]corpusStep, line string) error {
	if field, ok := strings.CutPrefix(line, "  "); ok {
		f, err := parseField(field)
		if n := len(*steps); err == nil && n > 0 && (*steps)[n-1].frame != nil {
			last := (*steps)[n-1].frame
			last.fields = append(last.fields, f)
			return nil
		}
		return fmt.Errorf("a field without HEADERS before it: %v", err)
	}
	m := frameLine.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("not a frame")
	}
	f := &frameStep{kind: m[1]}
	rest := strings.TrimPrefix(line[len(m[1]):], " ")
	for n := 0; rest != ""; n++ {
		word, more, _ := strings.Cut(rest, " ")
		_, isNumber := strconv.Atoi(word)
		// DATA, PING, GOAWAY, RAW and BYTES have a text after their words.
		if isNumber != nil && !regexp.MustCompile(`^[A-Z_]{2,}$`).MatchString(word) || f.kind == "RAW" && n == 3 {
			s, err := unescape(rest)
			if err != nil {
				return err
			}
			f.payload = s
			break
		}
		f.words, rest = append(f.words, word), more
	}
	*steps = append(*steps, corpusStep{frame: f})
	return nil
}

var answerLine = regexp.MustCompile(`^(\d\d\d(\|\d\d\d)*|any|refused|nothing|reset|goaway)( |$)`)

// expects adds a line about what the client must get.
func (cs *corpusCase) expects(line string) error {
	if s, ok := strings.CutPrefix(line, "bytes "); ok {
		s, err := unescape(s)
		cs.client = append(cs.client, corpusStep{expect: &expectation{first: "bytes", body: &s}})
		return err
	}
	if answerLine.MatchString(line) {
		words := strings.Fields(line)
		cs.client = append(cs.client, corpusStep{expect: &expectation{first: words[0], words: words[1:]}})
		return nil
	}
	if n := len(cs.client); n > 0 && cs.client[n-1].expect != nil {
		return cs.client[n-1].expect.add(line)
	}
	return fmt.Errorf("no answer before it")
}

// programGets adds a line about what the program must get.
func (cs *corpusCase) programGets(line string) error {
	switch line {
	case "any":
		cs.anyOne = true
		return nil
	case "maybe":
		cs.maybe = true
		return nil
	case "not whole":
		cs.unwhole = true
		return nil
	}
	if requestLine.MatchString(line) {
		first, err := unescape(line)
		cs.sees = append(cs.sees, &expectation{first: first})
		return err
	}
	if len(cs.sees) == 0 {
		return fmt.Errorf("no request before it")
	}
	return cs.sees[len(cs.sees)-1].add(line)
}

// programSends adds a line that the program sends.
func (cs *corpusCase) programSends(line string, http2 bool) error {
	if http2 {
		return addFrame(cs.lastAnswer(), line)
	}
	s, err := wireLine(line)
	if err == nil {
		cs.programDoes(corpusStep{send: s})
	}
	return err
}

func (cs *corpusCase) programDoes(s corpusStep) {
	last := cs.lastAnswer()
	*last = append(*last, s)
}

// lastAnswer returns what the program does with the last request.
func (cs *corpusCase) lastAnswer() *[]corpusStep {
	if cs.answers == nil {
		cs.answers = make([][]corpusStep, 1)
	}
	return &cs.answers[len(cs.answers)-1]
}

// add adds a line that is not the first of a message.
func (e *expectation) add(line string) error {
	switch {
	case line == "cut":
		e.words = append(e.words, line)
	case strings.HasPrefix(line, "= ") || line == "=":
		s, err := unescape(strings.TrimPrefix(strings.TrimPrefix(line, "="), " "))
		e.body = &s
		return err
	case strings.HasPrefix(line, "~ "):
		s, err := unescape(line[2:])
		e.contains = append(e.contains, s)
		return err
	case strings.HasPrefix(line, "trailer !"):
		e.absentTr = append(e.absentTr, line[9:])
	case strings.HasPrefix(line, "trailer "):
		f, err := parseField(line[8:])
		e.trailers = append(e.trailers, f)
		return err
	case strings.HasPrefix(line, "!"):
		e.absent = append(e.absent, line[1:])
	default:
		f, err := parseField(line)
		e.fields = append(e.fields, f)
		return err
	}
	return nil
}

// parseField splits "name: value". The name may begin with a colon.
func parseField(s string) (f [2]string, err error) {
	if value, ok := strings.CutPrefix(s, ": "); ok { // no name
		f[1], err = unescape(value)
		return f, err
	}
	for i := range f {
		if i == 0 {
			at := strings.Index(s[min(1, len(s)):], ":")
			if at < 0 {
				return f, fmt.Errorf("not a field: %q", s)
			}
			f[0], s = s[:at+1], strings.TrimPrefix(s[at+2:], " ")
		} else {
			f[1] = s
		}
		if f[i], err = unescape(f[i]); err != nil {
			return f, err
		}
	}
	return f, nil
}

// wireLine returns a line as it is sent.
func wireLine(s string) (string, error) {
	end := "\r\n"
	if strings.HasSuffix(s, `\`) && !strings.HasSuffix(s, `\\`) {
		s, end = s[:len(s)-1], ""
	}
	s, err := unescape(s)
	return s + end, err
}

var repeated = regexp.MustCompile(`^\((.*?)\*(\d+)\)`)

func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for s != "" {
		if s[0] != '\\' {
			b.WriteByte(s[0])
			s = s[1:]
			continue
		}
		if len(s) < 2 {
			return "", fmt.Errorf("a backslash at the end")
		}
		c := s[1]
		s = s[2:]
		switch at := strings.IndexByte(`rnt0s\`, c); {
		case at >= 0:
			b.WriteByte("\r\n\t\x00 \\"[at])
		case c == 'x' && len(s) >= 2:
			v, err := strconv.ParseUint(s[:2], 16, 8)
			if err != nil {
				return "", err
			}
			b.WriteByte(byte(v))
			s = s[2:]
		case c == '(':
			m := repeated.FindStringSubmatch("(" + s)
			if m == nil {
				return "", fmt.Errorf(`want \(text*N)`)
			}
			text, err := unescape(m[1])
			if err != nil {
				return "", err
			}
			n, err := strconv.Atoi(m[2])
			if err != nil {
				return "", err
			}
			b.WriteString(strings.Repeat(text, n))
			s = s[len(m[0])-1:]
		default:
			return "", fmt.Errorf("unknown escape %q", c)
		}
	}
	return b.String(), nil
}
