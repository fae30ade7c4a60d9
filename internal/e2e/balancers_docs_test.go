//go:build unix

package e2e

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"lastcall/internal/wiretest"
)

// pageBlock returns the block of docs/balancers.md in a language.
func pageBlock(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/balancers.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?ms)^```" + language + "\n(.*?)^```").FindSubmatch(text)
	if m == nil {
		t.Fatalf("docs/balancers.md has no block of %s", language)
	}
	return string(m[1])
}

// TestBalancersPage restarts one server after the other, under load, behind the
// balancers that docs/balancers.md configures.
func TestBalancersPage(t *testing.T) {
	LongOnly(t)
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags []string
		start func(t *testing.T, addrs *strings.Replacer) (c *cluster, awaitUp func(server string))
	}{
		{"HAProxy", []string{"-lame-duck", "5s"}, func(t *testing.T, addrs *strings.Replacer) (*cluster, func(string)) {
			config := addrs.Replace(pageBlock(t, "haproxy"))
			config = "global\n  nbthread 1\n  stats socket \"${API}\" level admin\n" + strings.Replace(config, "bind :80", `bind "${LISTEN}"`, 1)
			h := startHAProxy(t, config)
			up := func(server string) {
				WaitFor(t, "server "+server+" to be up", func() bool {
					stat, err := h.run("show stat")
					return err == nil && regexp.MustCompile(`(?m)^web,`+server+`,.*,UP,`).MatchString(stat)
				})
			}
			return &cluster{t: t, addr: h.addr}, up
		}},
		{"nginx", nil, func(t *testing.T, addrs *strings.Replacer) (*cluster, func(string)) {
			config := strings.Replace(addrs.Replace(pageBlock(t, "nginx")), "listen 80;", "listen ${LISTEN};", 1)
			return &cluster{t: t, addr: startNginx(t, nginxMain+config+"}\n")}, func(string) {}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			program := Launch(t, Here, As("program", "127.0.0.1:0"))
			addrs := []string{wiretest.FreeAddr(t), wiretest.FreeAddr(t)}
			start := func(i int) *Process {
				return Launch(t, Here, Lastcall(append(tt.flags, "-listen", addrs[i], "-proxy", "http://"+program.Addr)...))
			}
			servers := []*Process{start(0), start(1)}
			c, awaitUp := tt.start(t, strings.NewReplacer("10.0.0.1:8080", addrs[0], "10.0.0.2:8080", addrs[1]))
			awaitUp("a")
			awaitUp("b")
			l := c.load()
			for i, name := range []string{"a", "b"} {
				servers[i].Signal(t, syscall.SIGTERM)
				if status := servers[i].Wait(t); status != 0 {
					t.Errorf("exit status of server %s = %d, want 0", name, status)
				}
				servers[i] = start(i)
				awaitUp(name)
			}
			resp, err := http.Get("http://" + c.addr + "/")
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("after the restarts: %v, %v", resp, err)
			}
			l.Stop()
			ledger := l.Wait()
			t.Logf("%v", ledger)
			if failed := failures(ledger); failed != 0 || ledger.Total.WrongAnswer != 0 {
				t.Errorf("%d requests failed, %d wrong answers, want 0", failed, ledger.Total.WrongAnswer)
			}
			for _, s := range servers {
				s.Signal(t, syscall.SIGTERM)
				s.Wait(t)
			}
			program.Signal(t, syscall.SIGTERM)
			program.Wait(t)
			served := ledger.Compare(strings.SplitSeq(strings.TrimSpace(program.Stdout.String()), "\n"))
			if len(served.Twice) != 0 || len(served.Unserved) != 0 {
				t.Errorf("served twice %d, answered but not served %d, want 0", len(served.Twice), len(served.Unserved))
			}
		})
	}
}

// nginxMain is what a configuration of nginx has before its servers.
const nginxMain = `
worker_processes 1;
daemon off;
pid ${DIR}/nginx.pid;
error_log stderr error;
events { worker_connections 1024; }
http {
access_log off;
client_body_temp_path ${DIR}/body;
proxy_temp_path ${DIR}/proxy;
fastcgi_temp_path ${DIR}/fastcgi;
uwsgi_temp_path ${DIR}/uwsgi;
scgi_temp_path ${DIR}/scgi;
`
