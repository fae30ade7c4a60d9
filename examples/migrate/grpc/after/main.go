// Command after serves gRPC with lastcall, and lets the calls that are under way
// end, but not for longer than the grace.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net"

	"github.com/oklog/run"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer()
	pb.RegisterTestServiceServer(srv, echo{})
	if err := serve(new(actors.Stop), srv, l); err != nil {
		log.Fatal(err)
	}
}

func serve(stop *actors.Stop, srv *grpc.Server, l net.Listener) error {
	var g run.Group
	g.Add(actors.Graceful(stop,
		func() error { return srv.Serve(l) },
		// It has no context: it returns when all calls have, or after Stop.
		func(context.Context) error { srv.GracefulStop(); return nil },
		actors.GracefulConfig{
			Name:   "grpc",
			Close:  func() error { srv.Stop(); return nil },
			Closed: []error{grpc.ErrServerStopped}, // when it is stopped before it serves
		}))
	g.Add(actors.Signal(stop))
	return stop.Err(g.Run())
}

// echo answers with what it was sent.
type echo struct {
	pb.UnimplementedTestServiceServer
}

func (echo) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return &pb.SimpleResponse{Payload: in.Payload}, nil
}

func (echo) FullDuplexCall(stream pb.TestService_FullDuplexCallServer) error {
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = stream.Send(&pb.StreamingOutputCallResponse{Payload: in.Payload})
		}
		if err != nil {
			return err
		}
	}
}
