package listener

import "testing"

// TestSteer: all connections come to the first socket, so the accept queues of others are empty when they are closed.
func TestSteer(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	defer ln.Close()
	s, _ := socketOf(ln)
	if _, err := steer(s); err != nil {
		t.Fatal(err)
	}
	second := listen(t, ln.Addr().String())
	defer second.Close()
	later, _ := socketOf(second)
	const n = 40
	for range n {
		dial(t, ln.Addr())
	}
	if got := len(queued(later)); got != 0 {
		t.Errorf("%d of %d connections came to the second socket", got, n)
	}
	if got := len(queued(s)); got != n {
		t.Errorf("%d of %d connections came to the first socket", got, n)
	}
}

// TestOtherSockets: where the kernel does not send all connections to the first socket, those that come to others are served, too.
func TestOtherSockets(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	other := listen(t, ln.Addr().String())
	var waiting []*peer // in both accept queues, since connections are not steered yet
	for range 40 {
		waiting = append(waiting, dial(t, ln.Addr()))
	}
	start(t, ln, "first", shape{})
	second := start(t, other, "second", shape{})
	second.Close()
	for _, p := range waiting {
		p.ask(200, "first")
	}
}

// TestQueued takes the connections in the accept queue, and no others.
func TestQueued(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	defer ln.Close()
	s, _ := socketOf(ln)
	if got := queued(s); len(got) != 0 {
		t.Fatalf("%d connections in an empty queue", len(got))
	}
	p := dial(t, ln.Addr())
	got := queued(s)
	if len(got) != 1 {
		t.Fatalf("%d connections, want 1", len(got))
	}
	if got[0].RemoteAddr().String() != p.LocalAddr().String() {
		t.Errorf("a connection from %v, want %v", got[0].RemoteAddr(), p.LocalAddr())
	}
	got[0].Close()
}

// TestDoorSteers: from the first config on, no connection comes to the sockets of later ones.
func TestDoorSteers(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	start(t, ln, "first", shape{})
	second := listen(t, ln.Addr().String())
	defer second.Close()
	later, _ := socketOf(second)
	for range 40 {
		dial(t, ln.Addr()).ask(200, "first")
	}
	if got := len(queued(later)); got != 0 {
		t.Errorf("%d connections came to the second socket", got)
	}
}
