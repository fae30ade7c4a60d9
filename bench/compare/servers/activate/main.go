// Command activate does what systemd does with a socket unit and its service
// (Accept=no): it listens, starts the command, and passes the socket. SIGHUP is
// "systemctl restart": the command gets SIGTERM, and when it has ended it is started
// again. Meanwhile the socket listens, and newcomers wait.
package main

import (
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	l, err := net.Listen("tcp", os.Getenv("LISTEN"))
	if err != nil {
		log.Fatal(err)
	}
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		log.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	for {
		// $$ is the process that the command becomes.
		cmd := exec.Command("sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0"`, os.Args[1])
		cmd.ExtraFiles = []*os.File{socket}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			log.Fatal(err)
		}
		sig := <-signals
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			log.Print(err)
		}
		if sig == syscall.SIGTERM {
			return
		}
	}
}
