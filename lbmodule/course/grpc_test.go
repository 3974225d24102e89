package course

import (
	"math"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

func TestParseGRPC(t *testing.T) {
	for value, want := range map[string]GRPC{
		"": NoGRPC, "0": 1, "16": 17, "17": OtherGRPC, "-1": OtherGRPC, "x": OtherGRPC, "0x1": OtherGRPC, "99999999999999999999": OtherGRPC,
	} {
		if got := ParseGRPC(value); got != want {
			t.Errorf("%q: got %d, want %d", value, got, want)
		}
	}
	for code, name := range GRPCNames() {
		if s := ParseGRPC(strconv.Itoa(code)); s.String() != name || s.code() != codes.Code(code) {
			t.Errorf("%d: got %q and code %v, want %q", code, s, s.code(), name)
		}
	}
	if NoGRPC.String() != "" || OtherGRPC.String() != "other" || OtherGRPC.code() != codes.Unknown {
		t.Errorf("got %q for none, %q and %v for others", NoGRPC, OtherGRPC, OtherGRPC.code())
	}
}

func TestGRPCTimeout(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"":  0,
		"5": 0, "S": 0, "5s": 0, "5X": 0, "-5S": 0, "+5S": 0, "5.5S": 0, "0x5S": 0,
		"5H": 5 * time.Hour, "5M": 5 * time.Minute, "5S": 5 * time.Second, "5m": 5 * time.Millisecond, "5u": 5 * time.Microsecond, "5n": 5,
		"99999999S": 99999999 * time.Second, "100000000S": 0,
		"99999999H": 1 << 62 / time.Hour * time.Hour,
	} {
		if got := grpcTimeout(value); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, value := range []string{"", "0", "14", "17", "-1", "5S", "99999999H", "100000000n", "1x"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		s := ParseGRPC(value)
		if (s == NoGRPC) != (value == "") || s > OtherGRPC {
			t.Errorf("%q is status %d", value, s)
		}
		if s != NoGRPC && s != OtherGRPC {
			if n, err := strconv.Atoi(value); err != nil || n != int(s.code()) || s.String() != grpcNames[n] {
				t.Errorf("%q is status %v", value, s)
			}
		}
		d := grpcTimeout(value)
		if d < 0 || d > math.MaxInt64/2 {
			t.Errorf("%q is %v", value, d)
		}
		if d > 0 {
			n, err := strconv.Atoi(value[:len(value)-1])
			if unit := grpcUnits[value[len(value)-1]]; err != nil || d%unit != 0 || d/unit > time.Duration(n) || n > 99_999_999 {
				t.Errorf("%q is %v", value, d)
			}
		}
	})
}

func TestNewCall(t *testing.T) {
	request := Message{Is: true, Timeout: "1S"}
	is, web, ok, late, unavailable := Message{Is: true}, Message{Is: true, Web: true}, Message{Is: true, Status: "0"}, Message{Is: true, Status: "4"}, Message{Is: true, Status: "14"}
	for name, c := range map[string]struct {
		request Message
		answer  *Message
		status  int
		body    bool
		after   time.Duration
		want    Call
	}{
		"no call":                                {Message{}, &ok, 200, true, 0, Call{}},
		"no call, no answer":                     {Message{Timeout: "1S"}, nil, 0, false, time.Hour, Call{}},
		"an answer that is none":                 {request, &Message{Status: "14"}, 200, true, 0, Call{}},
		"trailers only":                          {request, &unavailable, 200, false, 0, Call{Status: 15, Timeout: time.Second}},
		"a status and a body":                    {request, &ok, 200, true, 0, Call{Status: 1, Timeout: time.Second}},
		"a status of HTTP, too":                  {request, &unavailable, 503, true, 0, Call{Status: 15, Timeout: time.Second}},
		"a body":                                 {request, &is, 200, true, 0, Call{Pending: true, Timeout: time.Second}},
		"no body":                                {request, &is, 200, false, 0, Call{Status: OtherGRPC, Timeout: time.Second}},
		"another status of HTTP":                 {request, &is, 503, true, 0, Call{Timeout: time.Second}},
		"gRPC-Web":                               {request, &web, 200, true, 0, Call{Timeout: time.Second}},
		"no answer":                              {request, nil, 0, false, 899 * ms, Call{Timeout: time.Second}},
		"no answer in time":                      {request, nil, 0, false, 900 * ms, Call{Excused: true, Timeout: time.Second}},
		"no answer, and nobody set a time":       {Message{Is: true}, nil, 0, false, time.Hour, Call{}},
		"its time is up":                         {request, &late, 200, false, 900 * ms, Call{Status: 5, Excused: true, Timeout: time.Second}},
		"its time is up, says somebody too soon": {request, &late, 200, false, 899 * ms, Call{Status: 5, Timeout: time.Second}},
		"unavailable, and its time is up":        {request, &unavailable, 200, false, time.Hour, Call{Status: 15, Timeout: time.Second}},
	} {
		if got := NewCall(c.request, c.answer, c.status, c.body, c.after); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

// TestCallOutcome checks what calls say about backends, where the failures are unavailable, unknown, resource_exhausted,
// deadline_exceeded and cancelled.
func TestCallOutcome(t *testing.T) {
	var failures Statuses
	for _, word := range []string{"unavailable", "unknown", "resource_exhausted", "deadline_exceeded", "cancelled", "ok"} {
		failures.Add(GRPCPrefix + word)
	}
	var none Statuses
	for _, c := range []struct {
		call     Call
		failures *Statuses
		want     pool.Outcome
		against  bool
	}{
		{Call{}, &failures, pool.Success, false},
		{Call{Pending: true}, &failures, pool.Success, false},
		{Call{Status: ParseGRPC("14")}, &failures, pool.Failure, true},
		{Call{Status: ParseGRPC("14")}, &none, pool.Success, true},
		{Call{Status: OtherGRPC}, &failures, pool.Failure, true},
		{Call{Status: OtherGRPC}, &none, pool.Success, true},
		{Call{Status: ParseGRPC("8")}, &failures, pool.Ignored, true},
		{Call{Status: ParseGRPC("4")}, &failures, pool.Failure, true},
		{Call{Status: ParseGRPC("4"), Excused: true}, &failures, pool.Ignored, false},
		{Call{Status: ParseGRPC("1")}, &failures, pool.Failure, false},
		{Call{Status: ParseGRPC("1")}, &none, pool.Ignored, false},
		{Call{Status: ParseGRPC("5")}, &failures, pool.Success, false},
		{Call{Status: ParseGRPC("12")}, &failures, pool.Success, true},
		{Call{Status: ParseGRPC("13")}, &failures, pool.Success, true},
		{Call{Status: ParseGRPC("15")}, &failures, pool.Success, true},
		{Call{Status: ParseGRPC("0")}, &none, pool.Success, false},
	} {
		if got, against := c.call.outcome(c.failures), c.call.isRejection(); got != c.want || against != c.against {
			t.Errorf("%+v: got %v, against %v; want %v, against %v", c.call, got, against, c.want, c.against)
		}
	}
}

func TestStatuses(t *testing.T) {
	var s Statuses
	if !s.Empty() || s.Has(0, NoGRPC) || s.Has(200, ParseGRPC("0")) {
		t.Error("there is something in an empty set")
	}
	s.Add("503")
	s.Add("grpc:unknown")
	for _, c := range []struct {
		status int
		call   GRPC
		want   bool
	}{{503, NoGRPC, true}, {502, NoGRPC, false}, {200, ParseGRPC("2"), true}, {200, OtherGRPC, true}, {200, ParseGRPC("14"), false}, {200, NoGRPC, false}} {
		if got := s.Has(c.status, c.call); got != c.want {
			t.Errorf("%d %v: got %v, want %v", c.status, c.call, got, c.want)
		}
	}
	var g Statuses
	if g.Add("grpc:ok"); g.Empty() || !g.HasGRPC(ParseGRPC("0")) || g.HasGRPC(NoGRPC) || s.Empty() {
		t.Error("a status of gRPC is not in the set")
	}
}

// TestCallEnds checks what is made of calls whose status comes last.
func TestCallEnds(t *testing.T) {
	pending := answer(200).with(func(f *Facts) { f.Call = Call{Pending: true, Timeout: time.Second} })
	status := func(code string) Ending { return Ending{Complete: true, Status: ParseGRPC(code)} }
	starts := []move{{0, fails("a", 1), ""}, {0, begin, "send a"}, {5 * ms, ended(pending), "give"}}
	none := "1 failures, suspect true, dead false, closed"
	well := "1 failures, suspect false, dead false, closed"
	ill := "2 failures, suspect true, dead false, closed"
	for name, moves := range map[string][]move{
		"well":                                {{9 * ms, ends(status("0")), `success "ok" false`}, {9 * ms, state, well}},
		"unavailable":                         {{9 * ms, ends(status("14")), `failure "unavailable" false`}, {9 * ms, state, ill}},
		"canceled":                            {{9 * ms, ends(status("1")), `ignored "cancelled" false`}, {9 * ms, state, none}},
		"too much":                            {{9 * ms, ends(status("8")), `ignored "resource_exhausted" false`}, {9 * ms, state, none}},
		"without a status":                    {{9 * ms, ends(status("")), `success "other" false`}, {9 * ms, state, well}}, // unknown is no failure here
		"late":                                {{900 * ms, ends(status("4")), `ignored "deadline_exceeded" false`}, {900 * ms, state, none}},
		"late, it says":                       {{899 * ms, ends(status("4")), `success "deadline_exceeded" false`}, {899 * ms, state, well}},
		"broken":                              {{899 * ms, ends(Ending{Broken: true}), `failure "" true`}, {899 * ms, state, ill}},
		"broken after its time":               {{900 * ms, ends(Ending{Broken: true}), `ignored "" true`}, {900 * ms, state, none}},
		"broken after something":              {{6 * ms, streams, ""}, {9 * ms, ends(Ending{Broken: true}), `failure "" true`}, {9 * ms, state, ill}},
		"its client has left":                 {{9 * ms, ends(Ending{}), `ignored "" false`}, {9 * ms, state, none}},
		"its client has left after something": {{6 * ms, streams, ""}, {9 * ms, ends(Ending{}), `success "" false`}, {9 * ms, state, well}},
		"it has failed, and its client left then": {{6 * ms, streams, ""}, {9 * ms, ends(status("14")), `failure "unavailable" false`}},
	} {
		t.Run(name, func(t *testing.T) { newWorld(t, 1).play(append(starts[:len(starts):len(starts)], moves...)...) })
	}
}

// TestCallFails checks what a call says that is not answered, though its time may be up.
func TestCallFails(t *testing.T) {
	late := func(f *Facts) { f.Call = Call{Excused: true, Timeout: time.Second} }
	for _, c := range []struct {
		facts Facts
		want  string
		lost  bool
	}{
		{failure(Broken).with(late), `ignored "" false`, false},
		{failure(Broken), `failure "" false`, false},
		{refusal().with(late), `failure "" false`, true}, // nothing was sent, so no server broke it off
		{failure(NotConnected).with(late), `ignored "" false`, false},
	} {
		w := newWorld(t, 2)
		w.rules.Retry.Attempts = 1
		w.start()
		begin(w, w.began)
		ended(c.facts)(w, w.began)
		if c.lost != w.course.Lost() {
			t.Errorf("%+v: lost %v, want %v", c.facts, w.course.Lost(), c.lost)
		}
		if got := ends(Ending{})(w, w.began); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.facts, got, c.want)
		}
	}
}
