package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// GRPC probes with the gRPC health checking protocol, v1
// (https://github.com/grpc/grpc/blob/master/doc/health-checking.md). The call is made over the transport that
// requests take, which must speak HTTP/2, and not over a connection of a gRPC client: that one would have TLS
// settings, dialing and backoff of its own.
type GRPC struct {
	Transport http.RoundTripper
	Prepare   func(ctx context.Context) context.Context // adds values that the transport needs; may be nil
	URL       string                                    // scheme and host; the rest is ignored
	Service   string                                    // "" means the server as a whole
}

const (
	grpcMethod = "/grpc.health.v1.Health/Check"
	grpcPrefix = 5 // bytes before a message: whether it is compressed, and its length
	// maxGRPCAnswer bounds the answer: a health status takes a few bytes.
	maxGRPCAnswer = 4 << 10
)

// Probe implements [Prober]. The code is the service's status: 1 for SERVING, 2 for NOT_SERVING.
func (p *GRPC) Probe(ctx context.Context) (int, error) {
	if p.Prepare != nil {
		ctx = p.Prepare(ctx)
	}
	message, err := proto.Marshal(&healthpb.HealthCheckRequest{Service: p.Service})
	if err != nil {
		return 0, err
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	target, err := url.Parse(p.URL)
	if err != nil {
		return 0, err
	}
	target.Path, target.RawQuery = grpcMethod, ""
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(append(frame, message...)))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	res, err := p.Transport.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	return readHealth(res)
}

// readHealth reads the answer to a health check.
func readHealth(res *http.Response) (int, error) {
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d is not an answer of gRPC", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxGRPCAnswer+1))
	if err != nil {
		return 0, fmt.Errorf("reading answer: %w", err)
	}
	// The status is in the trailers, or in the header of an answer that has nothing else.
	status := res.Trailer.Get("Grpc-Status")
	if status == "" {
		status = res.Header.Get("Grpc-Status")
	}
	switch status {
	case "0":
	case "":
		return 0, errors.New("answer is not one of gRPC: it has no grpc-status")
	case "5":
		return 0, errors.New("service is not known to the server")
	case "12":
		return 0, errors.New("server does not implement health checking")
	default:
		return 0, fmt.Errorf("grpc-status %s", status)
	}
	if len(body) < grpcPrefix || len(body) > maxGRPCAnswer || body[0] != 0 ||
		int64(binary.BigEndian.Uint32(body[1:])) != int64(len(body)-grpcPrefix) {
		return 0, errors.New("answer is malformed")
	}
	var answer healthpb.HealthCheckResponse
	if err := proto.Unmarshal(body[grpcPrefix:], &answer); err != nil {
		return 0, fmt.Errorf("answer is malformed: %w", err)
	}
	if answer.Status != healthpb.HealthCheckResponse_SERVING {
		return int(answer.Status), fmt.Errorf("service is %s", answer.Status)
	}
	return int(answer.Status), nil
}
