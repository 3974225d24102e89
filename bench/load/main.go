// Command load puts an open-loop load on a server on this machine, by default the demo of `make run`, and prints a
// summary.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

func main() {
	o := openloop.Options{Header: make(http.Header)}
	flag.StringVar(&o.URL, "url", "http://127.0.0.1:8080/", "URL to request; must have a loopback address")
	flag.StringVar(&o.Method, "method", "GET", "request method")
	flag.IntVar(&o.Rate, "rate", 500, "requests per second")
	flag.DurationVar(&o.Duration, "duration", 10*time.Second, "duration of the load")
	flag.DurationVar(&o.Timeout, "timeout", 5*time.Second, "timeout of one request")
	flag.IntVar(&o.Connections, "connections", 1000, "maximum of requests in flight")
	flag.Func("header", "`name: value` header field of each request; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return fmt.Errorf("must be name: value")
		}
		o.Header.Add(name, strings.TrimSpace(value))
		return nil
	})
	mostFailed := flag.Int("max-failed", -1, "exit with 1 if more requests fail; -1 for never")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	failed, err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	if *mostFailed >= 0 && failed > *mostFailed {
		fmt.Fprintf(os.Stderr, "load: %d requests failed, more than the allowed %d\n", failed, *mostFailed)
		os.Exit(1)
	}
}

func run(ctx context.Context, o openloop.Options) (failed int, err error) {
	if err := onThisMachine(o.URL); err != nil {
		return 0, err
	}
	fmt.Printf("%d requests per second for %v to %s ...\n", o.Rate, o.Duration, o.URL)
	s, err := openloop.Run(ctx, o)
	if err != nil {
		return 0, err
	}
	fmt.Printf("sent      %d\n", s.Sent)
	for _, status := range slices.Sorted(maps.Keys(s.Statuses)) {
		fmt.Printf("%d       %d\n", status, s.Statuses[status])
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Errors)) {
		fmt.Printf("no answer %d (%s)\n", s.Errors[kind], kind)
	}
	fmt.Printf("latency   p50 %v, p90 %v, p99 %v, p99.9 %v, max %v\n",
		show(s.Quantile(0.5)), show(s.Quantile(0.9)), show(s.Quantile(0.99)), show(s.Quantile(0.999)), show(s.Quantile(1)))
	for _, backend := range slices.Sorted(maps.Keys(s.Backends)) {
		fmt.Printf("%-25s %d (%.1f %%)\n", backend, s.Backends[backend], 100*float64(s.Backends[backend])/float64(s.Sent))
	}
	return s.Failed(), nil
}

func show(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// onThisMachine refuses targets that are not on this machine.
func onThisMachine(target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("url %s: must have a loopback address", target)
	}
	return nil
}
