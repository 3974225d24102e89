// Command backend is a backend to try a load balancer on: see package server for what it can be told.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ballastlb/ballast/examples/backend/server"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9001", "address to listen on; port 0 takes a free one")
	name := flag.String("name", "", "name in the answers (default: the address)")
	flag.Parse()
	if err := run(*listen, *name); err != nil {
		fmt.Fprintln(os.Stderr, "backend:", err)
		os.Exit(1)
	}
}

func run(listen, name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	if name == "" {
		name = l.Addr().String()
	}
	s := &http.Server{Handler: server.New(name), Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	fmt.Println("listening", l.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// Requests in flight get a moment to end; streams never would.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return s.Close()
}
