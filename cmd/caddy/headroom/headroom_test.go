package headroom

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPercentage(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		alive   uint64
		present int
		want    int
	}{
		{0, 100, 250},         // as 4 MB: the runtime then collects at 10 MB
		{1 * mb, 100, 250},    // the same
		{4 * mb, 100, 250},    // at 4 + 4 + 6 MB
		{8 * mb, 100, 175},    // at 8 + 8 + 6 MB
		{12 * mb, 100, 150},   // at 12 + 12 + 6 MB
		{60 * mb, 100, 110},   // at 60 + 60 + 6 MB
		{1024 * mb, 100, 100}, // 6 MB are less than one percent
		{8 * mb, 175, 175},
		{9 * mb, 175, 175},     // 6.75 MB of room are near enough
		{7 * mb, 175, 175},     // 5.25 MB as well
		{12 * mb, 175, 150},    // 9 MB are too much
		{5 * mb, 175, 220},     // 3.75 MB are too little
		{600 * mb, 175, 101},   // and 450 MB much too much
		{10240 * mb, 101, 100}, // so are 102 MB
	} {
		if got := percentage(tt.alive, tt.present); got != tt.want {
			t.Errorf("percentage(%d MB, %d) = %d, want %d", tt.alive/mb, tt.present, got, tt.want)
		}
	}
}

// TestMain lets the tests start this binary as a program of its own: what the environment says is read as it starts.
func TestMain(m *testing.M) {
	if os.Getenv("HEADROOM_PROGRAM") == "" {
		os.Exit(m.Run())
	}
	program()
}

// program prints the percentage and the memory limit: once the percentage is in the range that is expected, or after ten
// seconds, and five collections later, in which it must not change any more.
func program() {
	number := func(name string) int {
		n, _ := strconv.Atoi(os.Getenv(name))
		return n
	}
	if other := number("HEADROOM_OTHER"); other != 0 {
		debug.SetGCPercent(other)
	}
	heap := make([]byte, number("HEADROOM_HEAP"))
	var percent int
	for begun, after := time.Now(), 0; after < 5 && time.Since(begun) < 10*time.Second; {
		runtime.GC()
		time.Sleep(20 * time.Millisecond) // the percentage follows soon after the collection
		percent = int(int64(read("/gc/gogc:percent")))
		if after > 0 || percent >= number("HEADROOM_LOW") && percent <= number("HEADROOM_HIGH") {
			after++
		}
	}
	fmt.Println(percent, debug.SetMemoryLimit(-1))
	runtime.KeepAlive(heap)
}

func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// TestEnvironment holds that the room is there by default, and that whoever else sets something is obeyed.
func TestEnvironment(t *testing.T) {
	const none = math.MaxInt64 // memory limit
	for _, tt := range []struct {
		name      string
		set       []string
		low, high int // percentage
		limit     int64
	}{
		{"default", nil, 250, 250, none}, // a test's heap is smaller than 4 MB
		{"larger heap", []string{"HEADROOM_HEAP=33554432"}, 115, 119, none},
		{"empty GOGC", []string{"GOGC="}, 250, 250, none},
		{"GOGC", []string{"GOGC=100"}, 100, 100, none},
		{"GOGC off", []string{"GOGC=off"}, -1, -1, none},
		{"GOMEMLIMIT", []string{"GOMEMLIMIT=64MiB"}, 250, 250, 64 << 20},
		{"other code", []string{"HEADROOM_OTHER=120"}, 120, 120, none},
		{"other code turns it off", []string{"HEADROOM_OTHER=-1"}, -1, -1, none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0])
			for _, v := range os.Environ() {
				if !strings.HasPrefix(v, "GOGC=") && !strings.HasPrefix(v, "GOMEMLIMIT=") {
					cmd.Env = append(cmd.Env, v)
				}
			}
			cmd.Env = append(cmd.Env, append(tt.set, "HEADROOM_PROGRAM=1",
				fmt.Sprint("HEADROOM_LOW=", tt.low), fmt.Sprint("HEADROOM_HIGH=", tt.high))...)
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var percent int
			var limit int64
			if _, err := fmt.Sscan(string(out), &percent, &limit); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			if percent < tt.low || percent > tt.high || limit != tt.limit {
				t.Errorf("percentage %d, memory limit %d; want %d to %d, %d", percent, limit, tt.low, tt.high, tt.limit)
			}
		})
	}
}
