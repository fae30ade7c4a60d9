package drain

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestSteps tries every step from one state to another: those of the table in
// conn's comment are taken, and all others panic.
func TestSteps(t *testing.T) {
	table := stepsOfComment(t)
	for from := range connState(len(stateNames)) {
		for to := range connState(len(stateNames)) {
			step := fmt.Sprintf("%v to %v", from, to)
			if want, got := table[step], canStep(t, from, to); got != want {
				t.Errorf("a step from %s: legal %v, want %v as in the comment", step, got, want)
			}
			delete(table, step)
		}
	}
	for step := range table {
		t.Errorf("the comment has %q, which is not a step between states", step)
	}
}

// canStep reports whether setStateLocked takes the step.
func canStep(t *testing.T, from, to connState) (legal bool) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := &conn{Conn: a, server: &Server{http: new(http.Server)}, state: from}
	defer func() {
		if p := recover(); p == nil {
			if legal = true; c.state != to {
				t.Errorf("after a step from %v to %v the state is %v", from, to, c.state)
			}
		} else if want := fmt.Sprintf("drain: a connection cannot become %v that is %v", to, from); p != want || c.state != from {
			t.Errorf("a step from %v to %v panics with %v, and leaves %v", from, to, p, c.state)
		}
	}()
	c.setStateLocked(to)
	return true
}

// stepsOfComment reads them.
func stepsOfComment(t *testing.T) map[string]bool {
	f, err := parser.ParseFile(token.NewFileSet(), "conn.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var doc string
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE && g.Specs[0].(*ast.TypeSpec).Name.Name == "conn" {
			doc = g.Doc.Text()
		}
	}
	var lines []string
	for line := range strings.Lines(doc) {
		if row, ok := strings.CutPrefix(line, "\t"); ok {
			lines = append(lines, strings.TrimRight(row, "\n"))
		}
	}
	if len(lines) == 0 {
		t.Fatal("conn's comment has no table")
	}
	steps := make(map[string]bool)
	meaning, on := strings.Index(lines[0], "meaning"), strings.Index(lines[0], "on  ")
	to := strings.LastIndex(lines[0], "to")
	var states []string
	for _, row := range lines[1:] {
		row = fmt.Sprintf("%-*s", to+1, row)
		if state := strings.TrimSpace(row[:meaning]); state != "" {
			states = append(states, state)
		}
		if strings.TrimSpace(row[on:]) != "" {
			steps[states[len(states)-1]+" to "+strings.TrimSpace(row[to:])] = true
		}
	}
	if !slices.Equal(states, stateNames[:]) {
		t.Errorf("states of the comment: %v, want %v", states, stateNames)
	}

	// What it has in words.
	words := strings.Join(strings.Fields(doc), " ")
	for _, rule := range []struct {
		words    string
		from, to []string
	}{
		{"Any state but closed may become closed, and any but moved and closed may become lingering.", stateNames[:stateClosed], []string{"lingering", "closed"}},
	} {
		if !strings.Contains(words, rule.words) {
			t.Errorf("conn's comment lacks %q", rule.words)
		}
		for _, from := range rule.from {
			for _, to := range rule.to {
				steps[from+" to "+to] = from != "moved" || to != "lingering"
			}
		}
	}
	return steps
}

// TestNextBeforeHandler has the first byte of a next request read before the handler of
// the present one is called: net/http begins to read ahead just before that.
func TestNextBeforeHandler(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := &conn{Conn: a, server: &Server{http: new(http.Server)}, framing: framing{on: true}}
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	if n := c.onRead([]byte(request), 4096); n != len(request) {
		t.Fatalf("%d bytes are handed out, want %d", n, len(request))
	}
	c.onRead([]byte("G"), backgroundReadSize)
	res := new(response)
	if !c.begin(res, new(http.Request)) || c.current != res || c.age.requests != 1 {
		t.Errorf("the request has not begun: %+v", c)
	}
	if !c.nextRequestArrived(nil) {
		t.Error("the next request was not seen: its client is told that the connection closes, and it is lost")
	}
}
