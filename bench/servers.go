package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	lastcall = "lastcall"
	nethttp  = "net/http"
	limit    = "net/http's limit"
	caddy    = "Caddy"
	nginx    = "nginx"
	haproxy  = "HAProxy"
)

// names are those of the servers, lastcall first.
var names = []string{lastcall, nethttp, limit, caddy, nginx, haproxy}

// met are the servers that a load meets.
func (l load) met() []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return l.files && (name == haproxy || name == limit)
	})
}

// servers are those that are compared, and the program behind the proxies.
type servers struct {
	dir     string
	root    string // the repository
	caddy   string // its program
	stderr  io.Writer
	program string                       // its address
	ports   map[string]map[string]string // by server, and by kind
	running []*exec.Cmd
}

// kinds of ports: PROXY, PROXY_TLS and so on, as the configurations name them.
var kinds = []string{"PROXY_TLS", "PROXY_H2C", "PROXY", "FILES_TLS", "FILES_H2C", "FILES"}

// port returns the port for a load.
func (s *servers) port(name string, l load) string {
	kind := "PROXY"
	if l.files {
		kind = "FILES"
	}
	switch {
	case l.tls:
		kind += "_TLS"
	case l.h2 && name == nginx:
		kind += "_H2C"
	}
	return s.ports[name][kind]
}

// start builds and starts all of them. What has been started is to be ended even
// if it fails.
func start(ctx context.Context, dir, caddyProgram string, stderr io.Writer) (*servers, error) {
	s := &servers{dir: dir, caddy: caddyProgram, stderr: stderr, ports: make(map[string]map[string]string)}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return s, fmt.Errorf("run it in the repository: %w", err)
	}
	s.root = strings.TrimSpace(string(root))
	if err := s.build(ctx); err != nil {
		return s, err
	}
	if err := s.writeFiles(); err != nil {
		return s, err
	}
	port, err := freePort()
	if err != nil {
		return s, err
	}
	s.program = "127.0.0.1:" + port
	for _, name := range names {
		s.ports[name] = make(map[string]string)
		for _, kind := range kinds {
			if s.ports[name][kind], err = freePort(); err != nil {
				return s, err
			}
		}
	}
	for _, file := range []struct{ name, server string }{
		{"program.conf", nginx}, {"nginx.conf", nginx}, {"haproxy.cfg", haproxy}, {"Caddyfile", caddy},
	} {
		text, err := os.ReadFile(filepath.Join(s.root, "bench/servers", file.name))
		if err != nil {
			return s, err
		}
		pairs := []string{"$DIR", dir, "$PROGRAM", s.program}
		for _, kind := range kinds { // PROXY after those that begin with it
			pairs = append(pairs, "$"+kind, s.ports[file.server][kind])
		}
		if err := os.WriteFile(filepath.Join(dir, file.name), []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o644); err != nil {
			return s, err
		}
	}
	commands := [][]string{
		{"nginx", "-c", filepath.Join(dir, "program.conf")},
		{"nginx", "-c", filepath.Join(dir, "nginx.conf")},
		{"haproxy", "-db", "-f", filepath.Join(dir, "haproxy.cfg")},
		{s.caddy, "run", "--config", filepath.Join(dir, "Caddyfile"), "--adapter", "caddyfile"},
	}
	for _, server := range []struct{ name, program string }{
		{lastcall, "lastcall"}, {nethttp, "nethttp"}, {limit, "nethttp"},
	} {
		name := server.name
		for _, kind := range kinds {
			command := []string{filepath.Join(dir, server.program), "-listen", "127.0.0.1:" + s.ports[name][kind]}
			switch what, rest, _ := strings.Cut(kind, "_"); {
			case rest == "H2C":
				continue // on the same port as HTTP/1.1
			case what == "FILES" && name == limit:
				continue
			case what == "PROXY":
				command = append(command, "-proxy", "http://"+s.program)
			default:
				command = append(command, "-dir", filepath.Join(dir, "files"))
			}
			switch name {
			case lastcall:
				command = append(command, "-log-level", "error")
			case limit:
				command = append(command, "-least")
			}
			if strings.HasSuffix(kind, "_TLS") {
				command = append(command, "-tls-cert", filepath.Join(dir, "cert.pem"), "-tls-key", filepath.Join(dir, "key.pem"))
			} else if name == lastcall {
				command = append(command, "-h2c")
			}
			commands = append(commands, command)
		}
	}
	for _, command := range commands {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stderr, cmd.Env = stderr, append(os.Environ(), "HOME="+dir)
		if err := cmd.Start(); err != nil {
			return s, err
		}
		s.running = append(s.running, cmd)
	}
	return s, s.await(ctx)
}

// end ends what was started.
func (s *servers) end() {
	for _, cmd := range s.running {
		cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, cmd := range s.running {
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
	}
}

func (s *servers) build(ctx context.Context) error {
	builds := [][]string{{s.root, "lastcall", "."}, {s.root, "nethttp", "./bench/nethttp"}}
	if s.caddy == "" {
		s.caddy = filepath.Join(s.dir, "caddy")
		builds = append(builds, []string{filepath.Join(s.root, ".ci/tools"), "caddy", "github.com/caddyserver/caddy/v2/cmd/caddy"})
	}
	for _, b := range builds {
		cmd := exec.CommandContext(ctx, "go", "build", "-C", b[0], "-o", filepath.Join(s.dir, b[1]), b[2])
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", b[2], err, out)
		}
	}
	return nil
}

// writeFiles writes a certificate, and the files to be served.
func (s *servers) writeFiles() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "bench"},
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	files := map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM, "both.pem": append(bytes.Clone(certPEM), keyPEM...)}
	for _, f := range fileSizes {
		content := make([]byte, f.size)
		rand.Read(content)
		files["files/"+f.path] = content
	}
	if err := os.Mkdir(filepath.Join(s.dir, "files"), 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// await waits until every port that is loaded accepts connections.
func (s *servers) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("after a minute"))
	defer cancel()
	addrs := map[string]bool{s.program: true}
	for _, l := range loads {
		for _, name := range l.met() {
			addrs["127.0.0.1:"+s.port(name, l)] = true
		}
	}
	for addr := range addrs {
		for {
			nc, err := net.DialTimeout("tcp", addr, time.Second)
			if err == nil {
				nc.Close()
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("nothing listens at %s: %w", addr, context.Cause(ctx))
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// versions names the servers' versions, and the load generator's.
func (s *servers) versions() string {
	number := regexp.MustCompile(`\d+\.\d+[.\d]*`)
	module, _ := exec.Command("go", "list", "-C", filepath.Join(s.root, ".ci/tools"), "-m", "-f", "{{.Version}}", "github.com/caddyserver/caddy/v2").Output()
	list := []string{"Linux " + release(), runtime.Version(), caddy + " " + number.FindString(string(module))}
	for _, v := range [][]string{{nginx, "nginx", "-v"}, {haproxy, "haproxy", "-v"}, {"h2load", "h2load", "--version"}} {
		out, _ := exec.Command(v[1], v[2:]...).CombinedOutput()
		list = append(list, v[0]+" "+number.FindString(string(out)))
	}
	return strings.Join(list, ", ")
}

func release() string {
	out, _ := exec.Command("uname", "-r").Output()
	return strings.TrimSpace(string(out))
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}
