package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
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

// TestGRPCFailuresAttractNothing: one of three backends answers each call with UNAVAILABLE, or RESOURCE_EXHAUSTED, at once. It is the
// fastest, and is given next to nothing; reverse_proxy gives it a third.
func TestGRPCFailuresAttractNothing(t *testing.T) {
	t.Parallel()
	const first, more, workers = 200, 600, 4
	for name, test := range map[string]struct {
		directive string
		code      grpccodes.Code
		most      int64 // of the calls after the first
		opens     bool
	}{
		"reverse_proxy":         {"reverse_proxy %s {\n lb_policy round_robin\n}", grpccodes.Unavailable, more, false},
		"load_balancer":         {"load_balancer %s {\n name p\n}", grpccodes.Unavailable, more / 20, true},
		"without a breaker":     {"load_balancer %s {\n name p\n breaker off\n}", grpccodes.Unavailable, more / 20, false},
		"refusing":              {"load_balancer %s {\n name p\n}", grpccodes.ResourceExhausted, more / 100, false},
		"round_robin":           {"load_balancer %s {\n name p\n lb_policy round_robin\n breaker {\n open 1m 1m\n }\n}", grpccodes.Unavailable, more / 20, true},
		"only that is a status": {"load_balancer %s {\n name p\n lb_policy round_robin\n breaker {\n open 1m 1m\n failure_status grpc:unavailable\n }\n}", grpccodes.Unavailable, more / 20, true},
	} {
		for _, trailers := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, real trailers %v", name, trailers), func(t *testing.T) {
				backends, addresses := startGRPCs(t, 3)
				for _, b := range backends[1:] {
					fine := answersWith(grpccodes.OK, false)
					b.handle(func(srv any, stream grpc.ServerStream) error {
						takes(stream.Context(), 2*time.Millisecond) // longer than it takes to fail at once
						return fine(srv, stream)
					})
				}
				backends[0].handle(answersWith(test.code, trailers))
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
				if got > test.most {
					t.Errorf("the backend that fails got %d of %d calls, want %d at most", got, more, test.most)
				}
				if sum := statuses[grpccodes.OK] + statuses[test.code]; sum != first+more || statuses[test.code] != int(before+got) {
					t.Errorf("statuses %v of %d calls, %d of them at the backend that fails", statuses, first+more, before+got)
				}
				code := map[grpccodes.Code]string{grpccodes.Unavailable: "unavailable", grpccodes.ResourceExhausted: "resource_exhausted"}[test.code]
				labels := fmt.Sprintf(`backend="%s",code="%s",pool="p"`, backends[0].addr, code)
				if shown := c.metric("caddy_load_balancer_grpc_responses_total", labels); int64(shown) != before+got {
					t.Errorf("the metric shows %v answers %v, want %d", shown, test.code, before+got)
				}
				opened := c.metric("caddy_load_balancer_breaker_transitions_total", fmt.Sprintf(`backend="%s",pool="p",state="open"`, backends[0].addr))
				if (opened > 0) != test.opens {
					t.Errorf("the breaker opened %v times", opened)
				}
			})
		}
	}
}

// TestGRPCOutcomes: what each status says about a backend, be it in the header or in a trailer.
func TestGRPCOutcomes(t *testing.T) {
	t.Parallel()
	backends, addresses := startGRPCs(t, 1)
	b := backends[0]
	c := startCaddy(t, onLog+"load_balancer "+addresses+" {\n name p\n breaker {\n consecutive_failures 1000\n min_requests 1000\n }\n}")
	conn := c.grpcClient()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	outcomes := func() map[string]float64 {
		return c.metrics(`caddy_load_balancer_attempts_total{.*outcome="(\w+)"`)
	}
	shown := func() map[string]float64 {
		return c.metrics(`caddy_load_balancer_grpc_responses_total{.*code="(\w+)"`)
	}
	names := map[grpccodes.Code]string{
		grpccodes.OK: "ok", grpccodes.Canceled: "cancelled", grpccodes.Unknown: "unknown", grpccodes.InvalidArgument: "invalid_argument",
		grpccodes.DeadlineExceeded: "deadline_exceeded", grpccodes.NotFound: "not_found", grpccodes.AlreadyExists: "already_exists",
		grpccodes.PermissionDenied: "permission_denied", grpccodes.ResourceExhausted: "resource_exhausted",
		grpccodes.FailedPrecondition: "failed_precondition", grpccodes.Aborted: "aborted", grpccodes.OutOfRange: "out_of_range",
		grpccodes.Unimplemented: "unimplemented", grpccodes.Internal: "internal", grpccodes.Unavailable: "unavailable",
		grpccodes.DataLoss: "data_loss", grpccodes.Unauthenticated: "unauthenticated", 99: "other",
	}
	failures := 0.0
	for code, name := range names {
		want := "success"
		switch code {
		case grpccodes.Unknown, grpccodes.Internal, grpccodes.Unavailable, grpccodes.DataLoss, grpccodes.DeadlineExceeded, 99:
			want = "failure"
		case grpccodes.ResourceExhausted, grpccodes.Canceled:
			want = "ignored"
		}
		for _, header := range []bool{false, true} {
			b.handle(answersWith(code, header))
			before, shownBefore := outcomes(), shown()
			if got := call(metadata.AppendToOutgoingContext(ctx, "x-what", name), conn); got != code {
				t.Errorf("%s: the client got %v", name, got)
			}
			waitFor(t, "the call to be counted", func() bool {
				return shown()[name] > shownBefore[name]
			})
			if got := outcomes(); got[want] != before[want]+1 {
				t.Errorf("%s, sent header %v: counted as %v, after %v; want a %s more", name, header, got, before, want)
			}
			if want == "failure" {
				failures++
			}
		}
	}
	if got := c.pool().Backends[0]; float64(got.Failures) != failures {
		t.Errorf("the API shows %d failures, want %v", got.Failures, failures)
	}
	statuses := make(map[string]int)
	for _, line := range c.accessLog("/test.Echo/Call", 2*len(names)) {
		for _, a := range line.LB.Attempts {
			statuses[a.GRPC]++
		}
	}
	for _, name := range names {
		if statuses[name] != 2 {
			t.Errorf("the access log has %v", statuses)
			break
		}
	}
}

// TestGRPCDeadline: a client's time that is over is no backend's failure; one that a backend has for itself is.
func TestGRPCDeadline(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	backends, addresses := startGRPCs(t, 1)
	backends[0].handle(func(_ any, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		if len(md["x-begin"]) > 0 {
			if err := stream.SendHeader(nil); err != nil {
				return err
			}
		}
		if len(md["x-wait"]) > 0 {
			takes(stream.Context(), timeout)
		}
		if len(md["x-early"]) > 0 {
			takes(stream.Context(), timeout-timeout/20) // it has less time than it was given
		}
		return status.Error(grpccodes.DeadlineExceeded, "too late")
	})
	c := startCaddy(t, "load_balancer "+addresses+" {\n name p\n}")
	for name, test := range map[string]struct {
		header []string
		want   string
	}{
		"over":              {[]string{"Grpc-Timeout", "300m", "X-Early", "1"}, "ignored"},
		"broken off":        {[]string{"Grpc-Timeout", "300m", "X-Wait", "1"}, "ignored"},
		"broken off, begun": {[]string{"Grpc-Timeout", "300m", "X-Wait", "1", "X-Begin", "1"}, "ignored"},
		"not over":          {[]string{"Grpc-Timeout", "1H"}, "failure"},
		"none":              {[]string{"X-Wait", "1"}, "failure"},
		"no such number":    {[]string{"Grpc-Timeout", "soon", "X-Wait", "1"}, "failure"},
	} {
		count := func() float64 { return c.metrics(`caddy_load_balancer_attempts_total{.*outcome="(\w+)"`)[test.want] }
		before := count()
		r := c.request(http.MethodPost, bytes.NewReader(make([]byte, 5)), append(test.header, "Content-Type", "application/grpc", "TE", "trailers")...)
		r.URL.Path = "/test.Echo/Call"
		res, err := h2cClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = discard(res.Body)
		res.Body.Close()
		waitFor(t, name+" to be a "+test.want, func() bool { return count() > before })
	}
}

// h2cClient speaks HTTP/2 without TLS.
var h2cClient = func() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Timeout: patience, Transport: &http.Transport{Protocols: protocols}}
}()

// stream begins a call that goes on for as long as the backend likes, and waits for the first message.
func stream(ctx context.Context, t *testing.T, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Stream")
	if err != nil {
		t.Fatal(err)
	}
	sent, got := "hello", ""
	if err := s.SendMsg(&sent); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&got); err != nil || got != sent {
		t.Fatalf("%q, %v; want a message", got, err)
	}
	return s
}

// TestGRPCStreams: a stream is judged when it ends, and not before.
func TestGRPCStreams(t *testing.T) {
	t.Parallel()
	const streams = 5
	for name, test := range map[string]struct {
		end     error // of the stream; nil if its client leaves
		outcome string
		breaker string
	}{
		"unavailable":     {status.Error(grpccodes.Unavailable, "shutting down"), "failure", "open"},
		"ok":              {status.Error(grpccodes.OK, ""), "success", "closed"},
		"the client left": {nil, "success", "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			backends, addresses := startGRPCs(t, 2)
			end := make(chan struct{})
			for _, b := range backends {
				b.handle(func(_ any, stream grpc.ServerStream) error {
					message := ""
					if err := stream.RecvMsg(&message); err != nil {
						return err
					}
					if err := stream.SendMsg(&message); err != nil {
						return err
					}
					select {
					case <-end:
						return test.end
					case <-stream.Context().Done():
						return stream.Context().Err()
					}
				})
			}
			c := startCaddy(t, "load_balancer "+addresses+" {\n name p\n lb_policy first\n breaker {\n open 1m 1m\n }\n}")
			conn := c.grpcClient()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			outcomes := func() map[string]float64 { return c.metrics(`caddy_load_balancer_attempts_total{.*outcome="(\w+)"`) }
			for range streams {
				stream(ctx, t, conn)
			}
			if got := outcomes(); len(got) != 0 {
				t.Errorf("%v before any stream has ended", got)
			}
			if test.end != nil || name == "ok" {
				close(end)
			} else {
				cancel()
			}
			waitFor(t, "the streams to be counted", func() bool { return outcomes()[test.outcome] == streams })
			if got := outcomes(); len(got) != 1 {
				t.Errorf("counted as %v", got)
			}
			if got := c.pool().Backends[0]; got.Breaker != test.breaker && got.Address == backends[0].addr {
				t.Errorf("the breaker is %s, want %s", got.Breaker, test.breaker)
			}
		})
	}
}

// TestGRPCProbes: a half-open breaker closes though its probes are streams that do not end.
func TestGRPCProbes(t *testing.T) {
	t.Parallel()
	backends, addresses := startGRPCs(t, 1)
	b := backends[0]
	b.handle(answersWith(grpccodes.Unavailable, true))
	other := startGRPC(t)
	c := startCaddy(t, "load_balancer "+addresses+" h2c://"+other.addr+" {\n name p\n lb_policy first\n slow_start off\n breaker {\n consecutive_failures 1\n open 1s 1s\n probes 2\n }\n}")
	conn := c.grpcClient()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	breaker := func() string {
		for state := range c.metrics(`caddy_load_balancer_breaker_state{backend="` + b.addr + `",pool="p",state="(\w+)"`) {
			return state
		}
		return ""
	}
	if got := call(ctx, conn); got != grpccodes.Unavailable {
		t.Fatalf("got %v from the first backend", got)
	}
	waitFor(t, "the breaker to open", func() bool { return breaker() != "closed" })
	forever := func(_ any, stream grpc.ServerStream) error {
		message := ""
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	b.handle(forever)
	other.handle(forever)
	waitFor(t, "the breaker to close", func() bool {
		before := b.calls.Load()
		one, leave := context.WithCancel(ctx)
		stream(one, t, conn)
		if b.calls.Load() == before {
			leave() // it is no probe, and a connection has room for so many streams only
		} else {
			context.AfterFunc(ctx, leave)
		}
		return breaker() == "closed"
	})
}

// TestGRPCRetry: an answer that has nothing but the status is dropped for another attempt, by the rules of all others.
func TestGRPCRetry(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settings string
		code     grpccodes.Code
		header   bool // it is sent first
		want     grpccodes.Code
	}{
		"a call is no request to repeat":   {"", grpccodes.Unavailable, false, grpccodes.Unavailable},
		"non_idempotent":                   {"retry {\n non_idempotent\n }", grpccodes.Unavailable, false, grpccodes.OK},
		"non_idempotent, in the trailer":   {"retry {\n non_idempotent\n }", grpccodes.Unavailable, true, grpccodes.Unavailable},
		"non_idempotent, internal":         {"retry {\n non_idempotent\n }", grpccodes.Internal, false, grpccodes.Internal},
		"non_idempotent, on others":        {"retry {\n non_idempotent\n on 503 grpc:internal\n }", grpccodes.Unavailable, false, grpccodes.Unavailable},
		"non_idempotent, on that":          {"retry {\n non_idempotent\n on grpc:aborted\n }", grpccodes.Aborted, false, grpccodes.OK},
		"non_idempotent, it is overloaded": {"retry {\n non_idempotent\n on grpc:resource_exhausted\n }", grpccodes.ResourceExhausted, false, grpccodes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			backends, addresses := startGRPCs(t, 2)
			backends[0].handle(answersWith(test.code, test.header))
			c := startCaddy(t, "load_balancer "+addresses+" {\n lb_policy first\n "+test.settings+"\n}")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if got := call(ctx, c.grpcClient()); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// TestGRPCWeb: its trailers are in the body; what is seen is a status in the header.
func TestGRPCWeb(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc-web+proto")
		if code := r.Header.Get("X-Code"); code != "" {
			w.Header().Set("Grpc-Status", code)
			return
		}
		_, _ = w.Write([]byte("\x80\x00\x00\x00\x0fgrpc-status:14\n"))
	})
	c := startCaddy(t, "load_balancer "+b.addr+" {\n name p\n}")
	for _, test := range []struct{ code, want string }{{"14", "failure"}, {"0", "success"}, {"", "success"}} {
		count := func() float64 { return c.metrics(`caddy_load_balancer_attempts_total{.*outcome="(\w+)"`)[test.want] }
		before := count()
		r := c.request(http.MethodPost, strings.NewReader("\x00\x00\x00\x00\x00"), "Content-Type", "application/grpc-web+proto")
		if test.code != "" {
			r.Header.Set("X-Code", test.code)
		}
		if status, _ := c.ask(r); status != http.StatusOK {
			t.Errorf("%q: status %d", test.code, status)
		}
		waitFor(t, fmt.Sprintf("%q to be a %s", test.code, test.want), func() bool { return count() > before })
	}
}
