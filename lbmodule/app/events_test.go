package app

import "testing"

func TestEventFeed(t *testing.T) {
	var f Feed
	one, two := new(App), new(App)
	slow, _, _ := f.Listen(one, 0)
	quick, _, _ := f.Listen(two, 0)
	for n := range feedLength + 10 {
		f.publish("e", map[string]any{"n": n})
		if e := <-quick.events; e.Data["n"] != n {
			t.Fatalf("event %d is %+v", n, e)
		}
	}
	got := 0
	for range slow.events {
		got++
	}
	if got != streamBacklog {
		t.Errorf("the slow one got %d, want %d and an end", got, streamBacklog)
	}
	if got := f.After(0); len(got) != feedLength || got[0].ID != 11 {
		t.Errorf("%d remembered from %d on", len(got), got[0].ID)
	}
	if got := f.After(f.Newest() - 3); len(got) != 3 {
		t.Errorf("%d after the last but three", len(got))
	}
	all := func(*Event) bool { return true }
	for n, want := range map[int]int{0: 0, 1: 1, 5: 5, feedLength: feedLength, feedLength + 1: feedLength} {
		if got := f.After(f.Before(n, all)); len(got) != want {
			t.Errorf("%d after the one before the last %d, want %d", len(got), n, want)
		}
	}
	even := func(e *Event) bool { return e.Data["n"].(int)%2 == 0 }
	if got := f.After(f.Before(2, even)); got[0].Data["n"] != feedLength+6 {
		t.Errorf("the last two even ones begin with %v", got[0].Data["n"])
	}
	if got := f.After(f.Newest() + 7); len(got) != 0 {
		t.Errorf("%d after one that is not there yet", len(got))
	}
	f.endStreams(one)
	select {
	case <-quick.events:
		t.Error("the stream of another config ended")
	default:
	}
	f.endStreams(two)
	if _, open := <-quick.events; open {
		t.Error("the stream goes on after its config")
	}
	var streams []*Stream
	for range MaxStreams {
		s, _, ok := f.Listen(one, f.Newest()-2)
		if !ok {
			t.Fatal("too many")
		}
		streams = append(streams, s)
	}
	if _, _, ok := f.Listen(one, 0); ok {
		t.Error("more streams than may be")
	}
	f.Leave(streams[0])
	if _, missed, ok := f.Listen(one, f.Newest()-2); !ok || len(missed) != 2 {
		t.Errorf("after one has left: %v, %d missed", ok, len(missed))
	}
}
