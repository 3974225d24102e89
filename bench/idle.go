package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	idleConnections = 2000
	idleOpeners     = 16 // concurrent ones; few, so that requests take hardly any of the memory
	idleTimeout     = 10 * time.Second
)

// measureIdle measures by how much the resident memory of each contender grows with idle connections. Each round starts new processes,
// because a process keeps memory that it has used.
func (s scenario) measureIdle(ctx context.Context, dir string, o options) ([]contender, [][]sample, error) {
	var started processes
	defer started.stop()
	var err error
	if s.certificate, err = writeCertificate(dir); err != nil {
		return nil, nil, err
	}
	s.connections = o.connections
	backends, err := startBackends(&started, dir, s.ends)
	if err != nil {
		return nil, nil, err
	}
	load, err := s.generator(dir)
	if err != nil {
		return nil, nil, err
	}
	kinds, err := s.kinds(&started, dir, o)
	if err != nil {
		return nil, nil, err
	}
	kinds = installed(kinds)
	contenders := make([]contender, len(kinds))
	for i := range kinds {
		kinds[i].ends = s.ends
		contenders[i] = contender{kind: kinds[i]}
	}
	rounds := make([][]sample, o.rounds)
	for r := range rounds {
		rounds[r] = make([]sample, len(kinds))
		for k := range kinds {
			i := turned(k, r, len(kinds))
			if rounds[r][i], err = s.idleSample(ctx, dir, kinds[i], backends, load); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", kinds[i].name, err)
			}
		}
		fmt.Printf("%s: round %d of %d\n", s.name, r+1, o.rounds)
	}
	return contenders, rounds, nil
}

// idleSample measures one process. The result is the memory beyond that after some load; each connection must be opened, and answer again
// at the end.
func (s scenario) idleSample(ctx context.Context, dir string, k kind, backends []string, load generator) (sample, error) {
	var started processes
	defer started.stop()
	c, err := startKind(&started, dir, k, backends)
	if err != nil {
		return sample{}, err
	}
	if err := s.checkAnswer(ctx, c.address, s.tls, s.h2); err != nil {
		return sample{}, err
	}
	result, err := load(ctx, c.address, time.Second)
	if err != nil {
		return sample{}, err
	}
	before, err := settledMemory(ctx, c.pid)
	if err != nil {
		return sample{}, err
	}
	d, err := s.dialer()
	if err != nil {
		return sample{}, err
	}
	conns := make([]net.Conn, idleConnections)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	}()
	err = eachIdle(func(i int) (err error) {
		if conns[i], err = d(ctx, c.address); err != nil {
			return err
		}
		return s.ask(conns[i], c.address)
	})
	if err != nil {
		return sample{}, fmt.Errorf("idle connection: %w", err)
	}
	after, err := settledMemory(ctx, c.pid)
	if err != nil {
		return sample{}, err
	}
	if err := eachIdle(func(i int) error { return s.ask(conns[i], c.address) }); err != nil {
		return sample{}, fmt.Errorf("idle connection, asked again: %w", err)
	}
	result.memory = after - before
	return result, ctx.Err()
}

// eachIdle calls f for each connection, some concurrently, until one fails.
func eachIdle(f func(i int) error) error {
	failed := make([]error, idleOpeners)
	var all sync.WaitGroup
	for first := range idleOpeners {
		all.Go(func() {
			for i := first; i < idleConnections && failed[first] == nil; i += idleOpeners {
				failed[first] = f(i)
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

// dialer returns a function that opens connections with the scenario's protocol, and trusts only its certificate. It offers no HTTP/2.
func (s scenario) dialer() (func(ctx context.Context, address string) (net.Conn, error), error) {
	plain := &net.Dialer{Timeout: idleTimeout}
	if !s.tls {
		return func(ctx context.Context, address string) (net.Conn, error) {
			return plain.DialContext(ctx, "tcp", address)
		}, nil
	}
	pool, err := s.pool()
	if err != nil {
		return nil, err
	}
	secure := &tls.Dialer{NetDialer: plain, Config: &tls.Config{RootCAs: pool}}
	return func(ctx context.Context, address string) (net.Conn, error) {
		return secure.DialContext(ctx, "tcp", address)
	}, nil
}

// ask sends a request of the scenario on conn and reads the answer, after which conn must stay open.
func (s scenario) ask(conn net.Conn, host string) error {
	if err := conn.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.path, host); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode != http.StatusOK || n != int64(s.answer):
		return fmt.Errorf("%s with %d bytes; want 200 with %d", res.Status, n, s.answer)
	case res.Close:
		return errors.New("answer closes the connection")
	}
	return nil
}

// settledMemory returns the resident memory of a process and its children once it has almost stopped changing, or after a time limit.
func settledMemory(ctx context.Context, pid int) (int64, error) {
	const (
		step   = 100 * time.Millisecond
		quiet  = 5       // steps
		little = 1 << 18 // bytes
	)
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	var settled int64
	for same, n := 0, 0; same < quiet && n < 10*quiet; n++ {
		now, err := usage(pid)
		if err != nil {
			return 0, err
		}
		if max(now.memory-settled, settled-now.memory) <= little {
			same++
		} else {
			settled, same = now.memory, 0
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-ticker.C:
		}
	}
	return settled, nil
}
