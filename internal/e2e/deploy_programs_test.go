//go:build unix

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lastcall/internal/wiretest"
)

// TestDeployPrograms has stoptest deploy programs that are not ours, each -stops
// times, under all clients that the program can serve.
func TestDeployPrograms(t *testing.T) {
	LongOnly(t)
	stoptest := filepath.Join(t.TempDir(), "stoptest")
	if out, err := exec.Command("go", "run", "-exec=cp", "lastcall/stoptest", stoptest).CombinedOutput(); err != nil {
		t.Fatalf("build stoptest: %v\n%s", err, out)
	}
	here, err := filepath.Abs("testdata/programs")
	if err != nil {
		t.Fatal(err)
	}
	post := []string{"-method", "POST", "-body", "64", "-echo-header", "X-Request-Id", "-upload-url", "/upload"}
	slow := []string{"-slow-url", "/slow"}
	events := []string{"-sse-url", "/events"}
	webSockets := []string{"-ws-url", "/echo"}
	get := []string{"-method", "GET", "-body", "0"}
	places := make(chan struct{}, 2) // more programs at a time would be too much for the machine
	for _, tt := range []struct {
		name    string
		needs   string
		env     string
		program []string
		flags   [][]string
	}{
		{"Go", "go", "RUN_AS=child", []string{os.Args[0]}, [][]string{post, slow, events, webSockets}},
		{"Node", "node", "", []string{"node", here + "/server.js"}, [][]string{post, slow, events, webSockets}},
		{"Python http.server", "python3", "", []string{"python3", here + "/server.py"}, [][]string{post, slow, events}},
		{"python3 -m http.server", "python3", "", []string{"sh", "-c", "exec python3 -m http.server --bind $HOST --directory " + here + " $PORT"}, [][]string{get}},
		{"gunicorn", "gunicorn", "", []string{"sh", "-c", "exec gunicorn --chdir " + here + " --bind $HOST:$PORT --threads 32 wsgi"}, [][]string{post, slow, events}},
		{"waitress", "waitress-serve", "PYTHONPATH=" + here, []string{"sh", "-c", "exec waitress-serve --host=$HOST --port=$PORT --threads=32 wsgi:application"}, [][]string{post, slow, events}},
		{"nginx", "nginx", "", []string{here + "/nginx.sh"}, [][]string{get, slow}},
		// A worker that streams events leaves other connections that it has accepted waiting.
		{"php -S", "php", "PHP_CLI_SERVER_WORKERS=16", []string{"sh", "-c", "exec php -S $HOST:$PORT -t " + here + "/php " + here + "/php/index.php"}, [][]string{post, slow}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(tt.needs); err != nil {
				t.Skip(err)
			}
			places <- struct{}{}
			defer func() { <-places }()
			dir, err := os.MkdirTemp("", "deploy")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			addr, admin, report := wiretest.FreeAddr(t), "unix:"+dir+"/admin", dir+"/report"
			args := []string{"-url", "http://" + addr + "/", "-h2", "h2c", "-stops", strconv.Itoa(*Stops), "-name", tt.name, "-output", dir + "/output", "-json", report,
				"-reload", binary + " deploy -admin " + admin}
			for _, flags := range tt.flags {
				args = append(args, flags...)
			}
			args = append(args, "--", binary, "-listen", addr, "-h2c", "-admin", admin, "--")
			cmd := exec.Command(stoptest, append(args, tt.program...)...)
			cmd.Env = append(os.Environ(), "DIR="+dir, tt.env)
			out, err := cmd.CombinedOutput()
			if err != nil {
				log, _ := os.ReadFile(dir + "/output")
				t.Errorf("stoptest: %v\n%s\nThe end of the log:\n%s", err, out, log[max(0, len(log)-16<<10):])
				return
			}
			t.Logf("%s", out)
			if n := strings.Count(string(out), "went on"); n != *Stops {
				t.Errorf("stoptest saw %d deploys, want %d", n, *Stops)
			}
		})
	}
}
