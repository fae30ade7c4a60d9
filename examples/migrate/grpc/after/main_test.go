//go:build unix

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"lastcall/actors"
)

var stops = flag.Int("stops", 5, "how often TestStopUnderLoad stops a server")

// begun remembers the calls that reached a handler.
type begun struct {
	echo
	calls sync.Map
	open  atomic.Int64
	work  time.Duration // that a unary call takes
}

func (b *begun) enter(id string) func() {
	b.calls.Store(id, true)
	b.open.Add(1)
	return func() { b.open.Add(-1) }
}

func (b *begun) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	defer b.enter(string(in.Payload.Body))()
	time.Sleep(b.work)
	return b.echo.UnaryCall(ctx, in)
}

func (b *begun) FullDuplexCall(stream pb.TestService_FullDuplexCallServer) error {
	in, err := stream.Recv()
	if err != nil {
		return err
	}
	defer b.enter(string(in.Payload.Body))()
	if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
		return err
	}
	return b.echo.FullDuplexCall(stream)
}

// outcome is what clients saw.
type outcome struct {
	answered, after atomic.Int64 // after: the stop had begun
	refused         atomic.Int64 // calls that found nobody, each the last of its client

	mu   sync.Mutex
	lost []string
}

func (o *outcome) lose(id string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost = append(o.lost, fmt.Sprintf("%s: %v", id, err))
}

// call makes one call after the other until one finds nobody to serve it.
func (o *outcome) call(b *begun, stop *actors.Stop, client string, call func(ctx context.Context, id string) error) {
	for n := 0; ; n++ {
		id := fmt.Sprint(client, "-", n)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := call(ctx, id)
		cancel()
		_, served := b.calls.Load(id)
		switch began := stop.Phase() > actors.Ready; {
		case err == nil:
			o.answered.Add(1)
			if began {
				o.after.Add(1)
			}
		// That it was refused means that it was never sent: a call that the
		// server had is lost, and so is one that broke.
		case began && !served && status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "connection refused"):
			o.refused.Add(1)
			return
		default:
			o.lose(id, err)
			return
		}
	}
}

const (
	unary     = 40 // clients, on 8 connections
	streaming = 20
)

// stopUnderLoad serves with serve, until SIGTERM comes in mid-load.
func stopUnderLoad(t *testing.T, serve func(*actors.Stop, *grpc.Server, net.Listener) error) *outcome {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &begun{work: 5 * time.Millisecond}
	srv := grpc.NewServer()
	pb.RegisterTestServiceServer(srv, b)
	var stop actors.Stop
	served := make(chan error, 1)
	go func() { served <- serve(&stop, srv, l) }()

	o := new(outcome)
	var clients sync.WaitGroup
	var conns []*grpc.ClientConn
	for i := range 8 {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		c := pb.NewTestServiceClient(conn)
		for j := range unary / 8 {
			clients.Go(func() {
				o.call(b, &stop, fmt.Sprint("unary-", i, "-", j), func(ctx context.Context, id string) error {
					out, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: []byte(id)}})
					if err == nil && string(out.Payload.Body) != id {
						err = errors.New("wrong answer")
					}
					return err
				})
			})
		}
	}
	for i := range streaming {
		c := pb.NewTestServiceClient(conns[i%len(conns)])
		clients.Go(func() {
			o.call(b, &stop, fmt.Sprint("stream-", i), func(ctx context.Context, id string) error { return converse(ctx, c, id) })
		})
	}

	deadline := time.Now().Add(20 * time.Second)
	for o.answered.Load() < 500 || b.open.Load() < streaming { // warm, and calls of both kinds under way
		if time.Now().After(deadline) {
			t.Fatalf("%d answers and %d calls open after 20 s; lost: %v", o.answered.Load(), b.open.Load(), o.lost)
		}
		time.Sleep(time.Millisecond)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := ended(t, served); err != nil {
		t.Errorf("serve: %v", err)
	}
	clients.Wait() // each of their calls has a timeout
	for _, conn := range conns {
		conn.Close()
	}
	return o
}

// ended waits until serve has returned, and returns its error.
func ended(t *testing.T, served <-chan error) error {
	t.Helper()
	select {
	case err := <-served:
		return err
	case <-time.After(time.Minute):
		t.Fatal("waited a minute for serve to return")
		return nil
	}
}

// converse has 20 messages echoed, one after the other.
func converse(ctx context.Context, c pb.TestServiceClient, id string) error {
	stream, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range 20 {
		// An error of Send is io.EOF; Recv has the reason.
		if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(id)}}); err != nil && err != io.EOF {
			return err
		}
		in, err := stream.Recv()
		if err != nil {
			return err
		}
		if string(in.Payload.Body) != id {
			return errors.New("wrong answer")
		}
		time.Sleep(2 * time.Millisecond)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("end of the stream: %w", err)
	}
	return nil
}

func TestStopUnderLoad(t *testing.T) {
	for range *stops {
		o := stopUnderLoad(t, serve)
		if len(o.lost) > 0 {
			t.Errorf("%d of %d calls lost: %v", len(o.lost), o.answered.Load(), o.lost)
		}
		if o.refused.Load() != unary+streaming || o.after.Load() == 0 {
			t.Errorf("%d clients refused in the end, %d answers during the stop; want %d and some", o.refused.Load(), o.after.Load(), unary+streaming)
		}
		t.Logf("%d answered, %d of them during the stop", o.answered.Load(), o.after.Load())
	}
}

// TestHardStopLoses shows that the test above can fail.
func TestHardStopLoses(t *testing.T) {
	o := stopUnderLoad(t, func(stop *actors.Stop, srv *grpc.Server, l net.Listener) error {
		go func() {
			<-stop.Draining()
			srv.Stop()
		}()
		return serve(stop, srv, l)
	})
	if len(o.lost) == 0 {
		t.Error("nothing lost")
	}
	t.Logf("%d lost", len(o.lost))
}

// TestDeadline: calls that do not end are cut, and that is said.
func TestDeadline(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	pb.RegisterTestServiceServer(srv, echo{})
	stop := actors.Stop{Grace: 100 * time.Millisecond}
	served := make(chan error, 1)
	go func() { served <- serve(&stop, srv, l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := pb.NewTestServiceClient(conn).FullDuplexCall(t.Context())
	if err == nil {
		err = stream.Send(&pb.StreamingOutputCallRequest{})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var cut *actors.CutError
	if err := ended(t, served); !errors.As(err, &cut) || len(cut.Actors) != 1 || cut.Actors[0] != "grpc" {
		t.Errorf("err = %v, want that grpc was cut", err)
	}
}
