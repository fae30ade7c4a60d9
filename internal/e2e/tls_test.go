//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// A pki is a certificate and its key, in two files, and what clients trust.
type pki struct {
	cert, key string
	pool      *x509.CertPool
}

// newPKI returns a certificate of serial number 1.
func newPKI(t testing.TB) *pki {
	t.Helper()
	dir := t.TempDir()
	p := &pki{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), x509.NewCertPool()}
	p.write(t, p.cert, p.key, 1)
	return p
}

// write writes a new certificate and key, always of the same size.
func (p *pki) write(t testing.TB, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile:  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		text := make([]byte, 4096)
		for i := copy(text, pem.EncodeToMemory(block)); i < len(text); i++ {
			text[i] = '\n'
		}
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	p.pool.AddCert(c)
}

// flags returns the flags of a server with the certificate.
func (p *pki) flags() []string { return []string{"-tls-cert", p.cert, "-tls-key", p.key} }

// client returns a client of HTTP/1 or HTTP/2 over TLS, on connections of its own.
func (p *pki) client(t testing.TB, major int) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool}, Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(major == 1)
	tr.Protocols.SetHTTP2(major == 2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// h2cClient returns a client of HTTP/2 without TLS, with prior knowledge.
func h2cClient(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// serial returns the serial number of the certificate of a new connection.
func (p *pki) serial(t testing.TB, addr string) int64 {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: p.pool})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// get gets a page, with status 200.
func get(t testing.TB, c *http.Client, url string) *http.Response {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status %d, then %v, want 200 and all of it", url, resp.StatusCode, err)
	}
	return resp
}

func TestTLS(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	p := Launch(t, Here, Lastcall(append(pki.flags(), "-listen", "127.0.0.1:0", "-access-log")...))
	if want := "scheme=https"; !strings.Contains(p.Log(), want) {
		t.Errorf("the log lacks %s", want)
	}
	for _, tt := range []struct {
		version uint16
		offer   []string
		proto   string // negotiated
		fails   string
	}{
		{tls.VersionTLS13, []string{"h2", "http/1.1"}, "h2", ""},
		{tls.VersionTLS13, []string{"http/1.1"}, "http/1.1", ""},
		{tls.VersionTLS13, nil, "", ""},
		{tls.VersionTLS12, []string{"h2", "http/1.1"}, "h2", ""},
		{tls.VersionTLS12, []string{"http/1.1"}, "http/1.1", ""},
		{tls.VersionTLS11, []string{"http/1.1"}, "", "protocol version not supported"},
	} {
		name := fmt.Sprint(tls.VersionName(tt.version), tt.offer)
		c, err := tls.Dial("tcp", p.Addr, &tls.Config{RootCAs: pki.pool, NextProtos: tt.offer,
			MinVersion: tls.VersionTLS10, MaxVersion: tt.version})
		if tt.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%s: handshake: %v, want %s", name, err, tt.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: handshake: %v", name, err)
			continue
		}
		if s := c.ConnectionState(); s.Version != tt.version || s.NegotiatedProtocol != tt.proto {
			t.Errorf("%s: version %s, protocol %q, want %q", name, tls.VersionName(s.Version), s.NegotiatedProtocol, tt.proto)
		}
		c.Close()
	}
	for major := 1; major <= 2; major++ {
		if resp := get(t, pki.client(t, major), "https://"+p.Addr+"/"); resp.ProtoMajor != major {
			t.Errorf("protocol = %s, want HTTP/%d", resp.Proto, major)
		}
		p.WaitLog(t, fmt.Sprintf("method=GET path=/ proto=HTTP/%d", major))
	}
	resp, err := http.Get("http://" + p.Addr) // without TLS
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status without TLS = %d, want 400", resp.StatusCode)
	}
}

// TestTLSReload changes the certificate in all known ways. Connections that are open
// keep the one that they began with.
func TestTLSReload(t *testing.T) {
	t.Parallel()
	var all together
	defer all.Wait()
	for _, tt := range []struct {
		name   string
		mount  bool // the files are links, as Kubernetes makes them
		change func(t *testing.T, pki *pki, p *Process)
	}{
		{"written in place", false, func(t *testing.T, pki *pki, p *Process) {
			pki.write(t, pki.cert, pki.key, 2)
		}},
		{"renamed into place", false, func(t *testing.T, pki *pki, p *Process) {
			pki.write(t, pki.cert+".new", pki.key+".new", 2)
			rename(t, pki.cert+".new", pki.cert)
			rename(t, pki.key+".new", pki.key)
		}},
		{"secret mount", true, func(t *testing.T, pki *pki, p *Process) {
			mount(t, pki, "..2", 2)
		}},
		{"SIGHUP", false, func(t *testing.T, pki *pki, p *Process) {
			p.Signal(t, syscall.SIGHUP)
			p.WaitLog(t, `msg="certificate unchanged"`)
			// A change that does not show in the size and time of the files.
			was, err := os.Stat(pki.cert)
			if err != nil {
				t.Fatal(err)
			}
			pki.write(t, pki.cert, pki.key, 2)
			for _, name := range []string{pki.cert, pki.key} {
				if err := os.Chtimes(name, was.ModTime(), was.ModTime()); err != nil {
					t.Fatal(err)
				}
			}
			p.Signal(t, syscall.SIGHUP)
		}},
	} {
		all.run(t, tt.name, func(t *testing.T) {
			pki := newPKI(t)
			if tt.mount {
				mount(t, pki, "..1", 1)
			} else {
				// As if written at the same moment, long ago.
				at := time.Now().Add(-time.Hour)
				if err := os.Chtimes(pki.cert, at, at); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(pki.key, at, at); err != nil {
					t.Fatal(err)
				}
			}
			p := Launch(t, Here, Lastcall(append(pki.flags(), "-listen", "127.0.0.1:0")...))
			if got := pki.serial(t, p.Addr); got != 1 {
				t.Fatalf("serial = %d, want 1", got)
			}
			again := map[int]func() error{}
			for major := 1; major <= 2; major++ {
				again[major] = sameConnection(t, pki, major, p.Addr)
			}
			tt.change(t, pki, p)
			p.WaitLog(t, "serial=2")
			if got := pki.serial(t, p.Addr); got != 2 {
				t.Errorf("serial = %d, want 2", got)
			}
			for major, request := range again {
				if err := request(); err != nil {
					t.Errorf("HTTP/%d: %v", major, err)
				}
			}
			if tt.mount && strings.Contains(p.Log(), "level=warn") { // only this change is made in one step
				t.Error("the log warns")
			}
			p.Signal(t, syscall.SIGTERM) // with both connections idle
			p.endCleanly(t)
		})
	}
}

// sameConnection makes a request of HTTP/1.1 or HTTP/2, and returns a function that
// makes another, which must go over the same connection.
func sameConnection(t testing.TB, pki *pki, major int, addr string) func() error {
	t.Helper()
	if major == 1 { // http.Transport does not keep a connection whose request it has written late
		nc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pki.pool})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(2 * wiretest.Patience))
		br := bufio.NewReader(nc)
		request := func() error {
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 || resp.Close {
				return fmt.Errorf("status %d, close %v, %v, want 200 on a connection that is kept", resp.StatusCode, resp.Close, err)
			}
			return nil
		}
		if err := request(); err != nil {
			t.Fatal(err)
		}
		return request
	}
	c, url := pki.client(t, major), "https://"+addr+"/"
	before := get(t, c, url).TLS.PeerCertificates[0]
	return func() error {
		reused := false
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
		})
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if now := resp.TLS.PeerCertificates[0]; !reused || resp.StatusCode != 200 || !now.Equal(before) {
			return fmt.Errorf("status %d, on the same connection: %v, its certificate %x, want 200, true, %x",
				resp.StatusCode, reused, now.SerialNumber, before.SerialNumber)
		}
		return nil
	}
}

// mount puts a pair where the files are, as Kubernetes mounts a secret:
// cert.pem -> ..data/cert.pem, ..data -> dir, and ..data alone is renamed.
func mount(t *testing.T, pki *pki, dir string, serial int64) {
	t.Helper()
	root := filepath.Dir(pki.cert)
	if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
		t.Fatal(err)
	}
	pki.write(t, filepath.Join(root, dir, "cert.pem"), filepath.Join(root, dir, "key.pem"), serial)
	link := func(to, name string) {
		if err := os.Symlink(to, name+".tmp"); err != nil {
			t.Fatal(err)
		}
		rename(t, name+".tmp", name)
	}
	before, _ := os.Readlink(filepath.Join(root, "..data"))
	link(dir, filepath.Join(root, "..data"))
	if before == "" {
		link("..data/cert.pem", pki.cert)
		link("..data/key.pem", pki.key)
	} else if err := os.RemoveAll(filepath.Join(root, before)); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestTLSBadPairIsKeptOut(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	p := Launch(t, Here, Lastcall(append(pki.flags(), "-listen", "127.0.0.1:0")...))
	good, err := os.ReadFile(pki.key)
	if err != nil {
		t.Fatal(err)
	}
	// By a rename: of a file that is being written, a part may be read.
	pki.write(t, pki.cert+".other", pki.key+".other", 2)
	rename(t, pki.key+".other", pki.key)
	p.WaitLog(t, `level=warn ts=`)
	if want := fmt.Sprintf(`msg="certificate not taken, the one before stays" err="%s: tls: private key does not match public key"`, pki.key); !strings.Contains(p.Log(), want) {
		t.Errorf("the log lacks %s", want)
	}
	if got := pki.serial(t, p.Addr); got != 1 {
		t.Errorf("serial = %d, want 1", got)
	}
	if err := os.WriteFile(pki.key+".good", good, 0o600); err != nil {
		t.Fatal(err)
	}
	rename(t, pki.key+".good", pki.key)
	p.WaitLog(t, `msg="certificate unchanged"`)
	if n := strings.Count(p.Log(), "level=warn"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
}

// TestStopFinishes: a request that is in flight at the signal is answered, over
// every protocol.
func TestStopFinishes(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	for _, tt := range []struct {
		name   string
		flags  []string
		client *http.Client
		scheme string
	}{
		{"HTTP/1 over TLS", pki.flags(), pki.client(t, 1), "https"},
		{"HTTP/2 over TLS", pki.flags(), pki.client(t, 2), "https"},
		{"h2c", []string{"-h2c"}, h2cClient(t), "http"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := StartProxyWith(tt.flags...)(t, Here, "127.0.0.1")
			p := s.Server
			answer := beginSlow(t, s, tt.client, tt.scheme)
			p.Signal(t, syscall.SIGTERM)
			p.WaitLog(t, "phase=draining")
			FinishSlow(t, s)
			if err := <-answer; err != nil {
				t.Errorf("the request ended with %v", err)
			}
			p.endCleanly(t)
		})
	}
}

func TestH2C(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-h2c"))
	if want := "scheme=h2c"; !strings.Contains(p.Log(), want) {
		t.Errorf("the log lacks %s", want)
	}
	for major, c := range map[int]*http.Client{1: http.DefaultClient, 2: h2cClient(t)} {
		if resp := get(t, c, "http://"+p.Addr+"/"); resp.ProtoMajor != major {
			t.Errorf("protocol = %s, want HTTP/%d", resp.Proto, major)
		}
	}
	p = Launch(t, Here, Lastcall("-listen", "127.0.0.1:0"))
	if resp, err := h2cClient(t).Get("http://" + p.Addr + "/"); err == nil {
		t.Errorf("without -h2c: %s %s, want an error", resp.Proto, resp.Status)
	}
}

// TestHTTP2LargeFrame: a frame larger than 16 KiB, the smallest limit of RFC 9113,
// is refused at its header, before memory is allocated for it.
func TestHTTP2LargeFrame(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-h2c"))
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settings+"\x00\x40\x01\x00\x00\x00\x00\x00\x01"); err != nil {
		t.Fatal(err)
	}
	// GOAWAY of 8 bytes or more on stream 0, which names FRAME_SIZE_ERROR.
	got, err := io.ReadAll(c)
	if !bytes.Contains(got, []byte("\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x06")) {
		t.Errorf("answer = %q, then %v, want GOAWAY with FRAME_SIZE_ERROR", got, err)
	}
}

func TestStopUnderLoadOverTLS(t *testing.T) {
	ParallelIfFew(t)
	for range *Stops {
		pki := newPKI(t)
		tr := Mixed(5 * time.Millisecond).Few()
		tr.TLS = &tls.Config{RootCAs: pki.pool, ServerName: "localhost"}
		ledger, served := StopUnderLoad(t, StartProxyWith(pki.flags()...), nil, tr)
		CheckNothingLost(t, ledger, served, tr)
	}
}
