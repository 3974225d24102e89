package integration

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rawCodec is for calls whose messages are strings.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return []byte(*v.(*string)), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*string) = string(data); return nil }
func (rawCodec) Name() string                       { return "raw" }

var _ encoding.Codec = rawCodec{}

// grpcBackend is a real gRPC server. Every method of it does what handler does.
type grpcBackend struct {
	addr    string
	calls   atomic.Int64
	handler atomic.Pointer[grpc.StreamHandler]
}

// startGRPC starts one that answers each call with one message.
func startGRPC(t *testing.T) *grpcBackend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &grpcBackend{addr: l.Addr().String()}
	server := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(srv any, stream grpc.ServerStream) error {
		b.calls.Add(1)
		return (*b.handler.Load())(srv, stream)
	}))
	b.handle(answersWith(grpccodes.OK, false))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return b
}

// startGRPCs starts n of them and returns them with their addresses as arguments of a directive.
func startGRPCs(t *testing.T, n int) ([]*grpcBackend, string) {
	t.Helper()
	backends, addresses := make([]*grpcBackend, n), make([]string, n)
	for i := range backends {
		backends[i] = startGRPC(t)
		addresses[i] = "h2c://" + backends[i].addr
	}
	return backends, strings.Join(addresses, " ")
}

func (b *grpcBackend) handle(f grpc.StreamHandler) { b.handler.Store(&f) }

// answersWith answers with that status, and if it is OK with a message. If the header is sent first, the status is in real trailers.
func answersWith(code grpccodes.Code, header bool) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		message := ""
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		if header {
			if err := stream.SendHeader(metadata.Pairs("x-early", "1")); err != nil {
				return err
			}
		}
		if code != grpccodes.OK {
			return status.Error(code, "so it is")
		}
		return stream.SendMsg(&message)
	}
}

// grpcClient is a client of the site.
func (c *caddy) grpcClient() *grpc.ClientConn {
	c.t.Helper()
	conn, err := grpc.NewClient(c.site, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// call makes a call of one message and returns the status it ended with.
func call(ctx context.Context, conn *grpc.ClientConn) grpccodes.Code {
	sent, got := "hello", ""
	return status.Code(conn.Invoke(ctx, "/test.Echo/Call", &sent, &got))
}

// TestGRPCFailuresAttractNothing: one of three backends answers each call with UNAVAILABLE at once. It is the fastest, and is given next
// to nothing; reverse_proxy gives it a third.
func TestGRPCFailuresAttractNothing(t *testing.T) {
	t.Parallel()
	const first, more, workers = 200, 600, 4
	for name, test := range map[string]struct {
		directive string
		opens     bool
	}{
		"reverse_proxy":         {"reverse_proxy %s {\n lb_policy round_robin\n}", false},
		"load_balancer":         {"load_balancer %s {\n name p\n}", true},
		"without a breaker":     {"load_balancer %s {\n name p\n breaker off\n}", false},
		"round_robin":           {"load_balancer %s {\n name p\n lb_policy round_robin\n breaker {\n open 1m 1m\n }\n}", true},
		"only that is a status": {"load_balancer %s {\n name p\n lb_policy round_robin\n breaker {\n open 1m 1m\n failure_status grpc:unavailable\n }\n}", true},
	} {
		for _, trailers := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, real trailers %v", name, trailers), func(t *testing.T) {
				backends, addresses := startGRPCs(t, 3)
				for _, b := range backends[1:] {
					fine := answersWith(grpccodes.OK, false)
					b.handle(func(srv any, stream grpc.ServerStream) error {
						time.Sleep(2 * time.Millisecond) // slower than who fails at once
						return fine(srv, stream)
					})
				}
				backends[0].handle(answersWith(grpccodes.Unavailable, trailers))
				c := startCaddy(t, fmt.Sprintf(test.directive, addresses))
				conn := c.grpcClient()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				statuses := make(map[grpccodes.Code]int)
				var mu sync.Mutex // guards statuses
				load := func(n int) {
					var wg sync.WaitGroup
					for range workers {
						wg.Go(func() {
							for range n / workers {
								code := call(ctx, conn)
								mu.Lock()
								statuses[code]++
								mu.Unlock()
							}
						})
					}
					wg.Wait()
				}
				load(first)
				before := backends[0].calls.Load()
				load(more)
				got := backends[0].calls.Load() - before
				t.Logf("%d of the first %d calls, %d of %d more; statuses %v", before, first, got, more, statuses)
				if strings.HasPrefix(name, "reverse_proxy") {
					return
				}
				if got > more/20 {
					t.Errorf("the backend that fails got %d of %d calls, want 5 %% at most", got, more)
				}
				if sum := statuses[grpccodes.OK] + statuses[grpccodes.Unavailable]; sum != first+more || statuses[grpccodes.Unavailable] != int(before+got) {
					t.Errorf("statuses %v of %d calls, %d of them at the backend that fails", statuses, first+more, before+got)
				}
				labels := fmt.Sprintf(`backend="%s",code="unavailable",pool="p"`, backends[0].addr)
				if shown := c.metric("caddy_load_balancer_grpc_responses_total", labels); int64(shown) != before+got {
					t.Errorf("the metric shows %v answers UNAVAILABLE, want %d", shown, before+got)
				}
				opened := c.metric("caddy_load_balancer_breaker_transitions_total", fmt.Sprintf(`backend="%s",pool="p",state="open"`, backends[0].addr))
				if (opened > 0) != test.opens {
					t.Errorf("the breaker opened %v times", opened)
				}
			})
		}
	}
}
