package lbmodule

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/course"
)

// statusSet is a set of statuses.
type statusSet struct {
	http []int
	grpc uint32 // a bit for each code
}

// add puts a status that has been checked into the set.
func (s *statusSet) add(value string) {
	if word, isGRPC := strings.CutPrefix(value, course.GRPCPrefix); isGRPC {
		s.grpc |= 1 << slices.Index(grpcNames[:], word)
		return
	}
	code, _ := strconv.Atoi(value)
	s.http = append(s.http, code)
}

func newStatusSet(statuses []config.Status) (set statusSet) {
	for _, s := range statuses {
		set.add(string(s))
	}
	return set
}

func (s *statusSet) empty() bool { return len(s.http) == 0 && s.grpc == 0 }

// has tells whether the status of an answer, or of the gRPC call that it belongs to, is in the set.
func (s *statusSet) has(status int, call grpcStatus) bool {
	return slices.Contains(s.http, status) || s.hasGRPC(call)
}

func (s *statusSet) hasGRPC(call grpcStatus) bool {
	return call != noGRPC && s.grpc&(1<<call.code()) != 0
}
